"""Add measured trainings to the table to which PRE's packaged model is fitted.

The source is a folder written by `benchmarks.collect.sweep`, or hopper's sweep in the data next to
the checkout, whose models are built and described again (with torchvision). Rows of the same
machines are replaced. `--table unseen`, `--table common` and `--table again` add them to trainings
that no fit learns from instead. `--table convolutions` adds timed convolutions of
networks from `sweep --draw convolutions --operations`, and grouped products that have one kernel,
without their trainings.

    python -m benchmarks.collect.add_to_sweep --folder FOLDER --host NAME [--table unseen]
    python -m benchmarks.collect.add_to_sweep --hopper
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collect.sweep import describe
from benchmarks.common.data_folder import FOLDER, require
from benchmarks.common.sweep_table import (
    AGAIN_TABLE,
    COMMON_TABLE,
    CONVOLUTIONS_TABLE,
    HOPPER_SWEEP,
    TABLE,
    UNSEEN_TABLE,
    Row,
    counter_power_W,
    rows,
)
from energyest.estimators.pre.physics.grouped_products import is_grouped
from energyest.estimators.pre.physics.kinds import RECURRENT, kind_of
from energyest.records.workload import Operation

TABLES = {
    "sweep": TABLE,
    "unseen": UNSEEN_TABLE,
    "common": COMMON_TABLE,
    "again": AGAIN_TABLE,
    "convolutions": CONVOLUTIONS_TABLE,
}
# Operations that take less of a step's time than this share hardly matter.
_LEAST_SHARE = 5e-4
# The GPU's time as a share of the step, at most, where a step is measured again by the profiler.
_MOST_OF_STEP = 1.15


def write(table: list[Row], path: Path) -> None:
    """Write a table, sorted and without a time stamp: the same rows give the same file."""
    text = io.StringIO()
    for row in sorted(table, key=lambda row: (row["host"], row["name"])):
        text.write(json.dumps(row, sort_keys=True) + "\n")
    path.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def of_folder(folder: Path, host: str, least_share: float = _LEAST_SHARE) -> Iterator[Row]:
    """Measured and described trainings from `benchmarks.collect.sweep`."""
    workloads = {row["name"]: row for row in _lines(folder / "workloads.jsonl")}
    timed = folder / "operations.jsonl"
    times = {row["name"]: row for row in _lines(timed)} if timed.exists() else {}
    for run in _lines(folder / "runs.jsonl"):
        workload = dict(workloads.get(run["name"], {"error": "not described"}))
        if "error" in run or "error" in workload or run["gpu_energy_J"] is None:
            continue
        del workload["name"]
        # Counter and instant power have independent errors: take their mean.
        power_W = (run["gpu_energy_J"] / run["duration_s"] + run["instant_power_W"]) / 2
        names = ("name", "model", "batch_size", "size", "precision", "optimizer", "loop", "gpu")
        further = ("layout", "compiled", "accumulate", "half_weights")
        names += tuple(name for name in further if name in run)
        yield {
            **{name: run[name] for name in names},
            "host": host,
            "step_s": run["duration_s"] / run["steps"],
            "power_W": power_W,
            "peak_gpu_memory_bytes": run["peak_gpu_memory_bytes"],
            "workload": workload,
            **_operations(run, times.get(run["name"], {}), least_share),
        }


def _operations(run: Row, times: Row, least_share: float) -> Row:
    """The times of the operations that take more than that share of the GPU's time.

    None if they add up to more than the whole step: the profiler has then seen other algorithms.
    Recurrent layers are left out, because much of their time passes between their kernels.
    """
    operations = times.get("operations", [])
    most_s = _MOST_OF_STEP * run["duration_s"] / run["steps"]
    if not operations or times["gpu_s"] > most_s:
        return {}
    total_s = sum(row[2] * row[-1] for row in operations)
    kept = [
        row
        for row in operations
        if row[-1] > 0
        and row[2] * row[-1] > least_share * total_s
        and kind_of(Operation(*row[:-1])) != RECURRENT
    ]
    return {"operations": kept}


def without_trainings(found: Iterator[Row]) -> Iterator[Row]:
    """The timed convolutions, and grouped products in one kernel, of measured trainings."""
    for row in found:
        kept = [each for each in row.get("operations", []) if _is_single(Operation(*each[:-1]))]
        if kept:
            names = ("name", "model", "batch_size", "precision", "layout", "gpu", "host")
            yield {name: row[name] for name in (*names, "workload")} | {"operations": kept}


def _is_single(operation: Operation) -> bool:
    in_one_kernel = is_grouped(operation) and operation.precision == "bf16"
    return operation.name.startswith("convolution") or in_one_kernel


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of_hopper() -> Iterator[Row]:
    """The trainings of `hopper/sweep_*`; the machine's name is part of the run's name."""
    import pandas as pd

    require(*HOPPER_SWEEP)
    files = [FOLDER / name for name in HOPPER_SWEEP]
    table, epochs = (pd.read_csv(file) for file in files[:2])
    samples = pd.read_parquet(files[2])
    for run in table.itertuples():
        warm = epochs[(epochs.run_id == run.run_id) & (epochs.epoch > 0)]
        read = samples[samples.run_id == run.run_id]
        setting = _hopper_setting(run)
        workload = dict(describe(setting))
        if "error" in workload:
            print(f"{run.run_id}: {workload['error']}")
            continue
        del workload["name"]
        assert workload["parameters"] == run.parameters, run.run_id
        yield {
            "name": run.run_id,
            **setting,
            "gpu": run.gpu,
            "host": run.run_id[:6],
            "step_s": float((warm.train_end_s - warm.start_s).sum() / warm.steps.sum()),
            "power_W": counter_power_W(read, warm.start_s.min(), warm.end_s.max()),
            "peak_gpu_memory_bytes": int(run.peak_gpu_memory_bytes),
            "workload": workload,
        }


def _hopper_setting(run: Any) -> Row:
    kinds = {"transformer": "encoder", "lstm": "lstm", "mlp": "mlp"}
    size = run.image_size if np.isfinite(run.image_size) else run.seq_len
    own = f"own/{kinds.get(run.model)}-d{run.d_model:.0f}-l{run.layers:.0f}"
    return {
        "model": own if run.model in kinds else f"torchvision/{run.model}",
        "batch_size": int(run.batch_size),
        "size": int(size) if np.isfinite(size) else 0,
        "precision": run.precision,
        "optimizer": run.optimizer,
        "loop": "plain",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a folder of benchmarks.collect.sweep")
    parser.add_argument("--host", help="a name for its machine")
    parser.add_argument("--hopper", action="store_true", help="describe and add hopper/sweep_*")
    parser.add_argument(
        "--table", default="sweep", choices=TABLES, help="fits learn from sweep and convolutions"
    )
    arguments = parser.parse_args()
    path = TABLES[arguments.table]
    if not (arguments.hopper or (arguments.folder and arguments.host)):
        parser.error("give --hopper, or --folder and --host")
    for name in ("runs.jsonl", "workloads.jsonl"):
        if arguments.folder and not (arguments.folder / name).exists():
            parser.exit(2, f"add_to_sweep: missing: {arguments.folder / name}\n")
    if arguments.hopper:
        new = list(of_hopper())
    elif arguments.table == "convolutions":  # short ones show how long all take to start
        new = list(without_trainings(of_folder(arguments.folder, arguments.host, 0.0)))
    else:
        new = list(of_folder(arguments.folder, arguments.host))
    hosts = {row["host"] for row in new}
    kept = [row for row in rows(path) if row["host"] not in hosts] if path.exists() else []
    write([*kept, *new], path)
    print(f"{len(new)} rows added, {len(kept)} kept, in {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
