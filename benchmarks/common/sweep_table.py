"""The table of short trainings that PRE's packaged model is fitted to: `data/sweep.jsonl.gz`.

Each line is one training: its setting, the machine, the mean length and power of a warm step, and
the step's workload. Whole folders of `collect_sweep.py` are added to it, and the sweep in
`../shared/data/hopper`, whose models are built and described again:

    python benchmarks/sweep_table.py --add FOLDER --host NAME
    python benchmarks/sweep_table.py --hopper
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DATA, missing

from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import resolve_gpu
from energyest.records.workload import Workload

TABLE = Path(__file__).parent / "data" / "sweep.jsonl.gz"
Row = dict[str, Any]
_FAMILIES = {
    "transformer": r"encoder|gpt|bert|distilbert|vit|swin",
    "residual": r"resn|wide_resnet|densenet",
    "mobile": r"mobilenet|mnasnet|efficientnet|regnet|shufflenet",
    "recurrent": r"lstm|gru",
    "inception": r"inception|googlenet",
    "plain": r"vgg|alexnet|squeezenet",
}


def rows() -> list[Row]:
    """The table, one dictionary a training."""
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def runs(table: list[Row] | None = None) -> list[TrainedRun]:
    """The table as what a `PreModel` learns from; runs of one architecture are one group."""
    return [
        TrainedRun(
            Workload.from_dict(row["workload"]),
            resolve_gpu(row["gpu"]),
            row["step_s"],
            row["power_W"],
            architecture(row["model"]),
            row["host"],
        )
        for row in (rows() if table is None else table)
    ]


def architecture(model: str) -> str:
    """A model's name without its width and number of layers."""
    return model.split("-d", 1)[0]


def family(model: str) -> str:
    """Architectures that are built alike."""
    name = architecture(model).split("/")[-1]
    for kind, pattern in _FAMILIES.items():
        if re.match(pattern, name):
            return kind
    return name


def write(table: list[Row]) -> None:
    """Sorted, and without a time stamp: the same rows give the same file."""
    text = io.StringIO()
    for row in sorted(table, key=lambda row: (row["host"], row["name"])):
        text.write(json.dumps(row, sort_keys=True) + "\n")
    TABLE.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def of_folder(folder: Path, host: str) -> Iterator[Row]:
    """Trainings of `collect_sweep.py` that were measured and described."""
    workloads = {row["name"]: row for row in _lines(folder / "workloads.jsonl")}
    for run in _lines(folder / "runs.jsonl"):
        workload = dict(workloads.get(run["name"], {"error": "not described"}))
        if "error" in run or "error" in workload or run["gpu_energy_J"] is None:
            continue
        del workload["name"]
        # Two views of the same power, each with an error of its own.
        power_W = (run["gpu_energy_J"] / run["duration_s"] + run["instant_power_W"]) / 2
        names = ("name", "model", "batch_size", "size", "precision", "optimizer", "loop", "gpu")
        yield {
            **{name: run[name] for name in names},
            "host": host,
            "step_s": run["duration_s"] / run["steps"],
            "power_W": power_W,
            "peak_gpu_memory_bytes": run["peak_gpu_memory_bytes"],
            "workload": workload,
        }


def _lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ------------------------------------------------------------------ the sweep beside the checkout


def of_hopper() -> Iterator[Row]:
    """The trainings of `hopper/sweep_*`, with the machine's name from the run's."""
    import pandas as pd
    from collect_sweep import describe

    folder = DATA / "hopper"
    files = [folder / f"sweep_{name}" for name in ("runs.csv", "epochs.csv", "samples.parquet")]
    for file in files:
        if not file.exists():
            missing(file)
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


def counter_power_W(samples: Any, start_s: float, end_s: float) -> float:
    """Mean power between the counter's own ticks: what lies between two is not known."""
    inside = samples[(samples.t_s >= start_s) & (samples.t_s <= end_s)]
    time_s, energy_J = inside.t_s.to_numpy(float), inside.energy_mJ.to_numpy(float) / 1e3
    ticks = np.flatnonzero(np.diff(energy_J) > 0) + 1
    first, last = ticks[0], ticks[-1]
    return float((energy_J[last] - energy_J[first]) / (time_s[last] - time_s[first]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", type=Path, help="a folder of collect_sweep.py")
    parser.add_argument("--host", help="a name of its machine")
    parser.add_argument("--hopper", action="store_true", help="describe and add hopper/sweep_*")
    arguments = parser.parse_args()
    if not (arguments.hopper or (arguments.add and arguments.host)):
        parser.error("give --hopper, or --add and --host")
    new = list(of_hopper() if arguments.hopper else of_folder(arguments.add, arguments.host))
    hosts = {row["host"] for row in new}
    kept = [row for row in rows() if row["host"] not in hosts] if TABLE.exists() else []
    write([*kept, *new])
    print(f"{len(new)} trainings added, {len(kept)} kept, in {TABLE.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
