"""The cost of long traces: opening, projecting, saving in a checkpoint, plotting; and the import.

The traces are synthetic, in the recorder's format: epochs of ten seconds with two metrics. "Month"
is a month with an epoch every ten seconds. Memory is the increase of the peak of a separate
process. Readings go through the recorder's own table, which merges them as their number grows.

Exits with 1 if a figure misses its goal.

    python -m benchmarks.evidence.cost
    python -m benchmarks.evidence.cost --readings 1e8    # 20 minutes
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common.goal import Goal
from benchmarks.common.head import print_head

MONTH_EPOCHS = 251_650
MONTH_AIM_S, MONTH_AIM_MB = 2.0, 60.0
IMPORT_AIM_S = 0.15
ROWS = (100, 1_000, 10_000, 50_000, MONTH_EPOCHS, 1_000_000)
STEPS = ("open", "project", "stability", "checkpoint out", "checkpoint in", "plot")


def write_trace(folder: Path, epochs: int) -> None:
    """Write a trace with a number of epochs, in the recorder's format."""
    from energyest.records import storage

    rng = np.random.default_rng(epochs)
    energy_J = 3000 * (1 + 0.01 * rng.standard_normal(epochs))
    end_s = np.cumsum(10 + 0.01 * rng.standard_normal(epochs))
    start_s = np.concatenate([[0.0], end_s[:-1]])
    columns = {
        "epoch": np.arange(epochs, dtype=float),
        "start_s": start_s,
        "end_s": end_s,
        "duration_s": end_s - start_s,
        "energy_J": energy_J,
        "gpu_energy_J": 0.8 * energy_J,
        "cpu_energy_J": 0.15 * energy_J,
        "ram_energy_J": 0.05 * energy_J,
        "validation_energy_J": np.zeros(epochs),
        "validation_s": np.zeros(epochs),
        "mean_power_W": energy_J / (end_s - start_s),
        "steps": np.full(epochs, 100.0),
        "samples": np.full(epochs, 6400.0),
        "flops": np.full(epochs, 1.3e15),
        "loss": rng.random(epochs),
        "val_acc": rng.random(epochs),
    }
    meta = {"run_id": "cost", "status": "running", "planned_epochs": 2 * epochs}
    storage.write_folder(folder, columns, {n: np.empty(0) for n in storage.POWER_COLUMNS}, meta)


def took_s(action: Callable[[], object]) -> float:
    """Seconds that an action takes: the median of three runs, or one run if it is slow."""
    times = []
    for _ in range(3):
        began_s = time.perf_counter()
        action()
        times.append(time.perf_counter() - began_s)
        if times[0] > 2:
            break
    return float(np.median(times))


def measure(folder: Path) -> dict[str, float]:
    """Seconds and megabytes for a trace in this process, which must be fresh."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as _  # noqa: F401  (its own memory is not the trace's)

    from energyest import estimate_step, load_trace, plots
    from energyest.estimators import find_stable_epoch
    from energyest.measure.checkpoint import RunCheckpoint

    before = peak_bytes()
    began_s = time.perf_counter()
    trace = load_trace(folder)
    figures = {"open": time.perf_counter() - began_s, "MB": (peak_bytes() - before) / 1e6}
    epochs = 2 * len(trace)
    figures["project"] = took_s(lambda: estimate_step(trace, epochs))
    figures["stability"] = took_s(lambda: find_stable_epoch(trace))
    state = RunCheckpoint.of(trace).state_dict()
    figures["checkpoint out"] = took_s(lambda: RunCheckpoint.of(trace).state_dict())
    figures["checkpoint in"] = took_s(lambda: RunCheckpoint.from_state_dict(state))

    def draw() -> None:
        axes = plots.plot_trace(trace)
        figure = np.ravel(axes)[0].figure
        figure.savefig(folder / "plot.png")
        plt.close(figure)

    figures["plot"] = took_s(draw)
    return figures


def peak_bytes() -> float:
    """The peak memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024.0 * float(status.partition("VmHWM:")[2].split()[0])


def in_a_process(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.evidence.cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def import_s(module: str) -> float:
    """Seconds of an import in a fresh process, minus those of Python itself: median of seven."""

    def run(code: str) -> float:
        began_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began_s

    return float(np.median([run(f"import {module}") - run("pass") for _ in range(7)]))


def readings_table(readings: int) -> dict[str, float]:
    """Rows and memory in the recorder's table for readings of one GPU at 10 Hz."""
    import tracemalloc

    from energyest.measure.reading_table import ReadingTable
    from energyest.measure.sensors.base import Reading

    table = ReadingTable()
    tracemalloc.start()
    for number in range(readings):
        table.add([Reading(number / 10, "gpu:0", 300.0)])
    rows = len(table.columns()["time_s"])
    return {"rows": rows, "MB": tracemalloc.get_traced_memory()[0] / 1e6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readings", type=float, default=1e6, help="the most that are tried")
    parser.add_argument("--trace", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--table", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.trace is not None:
        print(json.dumps(measure(arguments.trace)))
        return 0
    if arguments.table is not None:
        print(json.dumps(readings_table(int(arguments.table))))
        return 0
    print_head(__file__, "numpy", "pandas")
    rows = {}
    for epochs in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            write_trace(Path(folder) / "trace", epochs)
            size = (Path(folder) / "trace" / "epochs.jsonl").stat().st_size
            figures = json.loads(in_a_process("--trace", str(Path(folder) / "trace")))
        rows[f"{epochs:,}"] = {"file, MB": size / 1e6, **figures}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("epochs")
    print("seconds, and megabytes of memory to open it (MB)\n")
    print(table[["file, MB", "MB", *STEPS]].to_string(float_format="%.3f"))
    print("\nreadings of one GPU in the recorder: rows that are kept, and their memory\n")
    for exponent in range(4, int(np.log10(arguments.readings)) + 1):
        kept = json.loads(in_a_process("--table", f"1e{exponent}"))
        print(f"1e{exponent} readings: {kept['rows']:,} rows, {kept['MB']:.1f} MB")
    imported_s = import_s("energyest")
    print()
    month = rows[f"{MONTH_EPOCHS:,}"]
    goals = [
        compared("opening a month of epochs", month["open"], MONTH_AIM_S, "s"),
        compared("memory to open it", month["MB"], MONTH_AIM_MB, "MB"),
        compared("import energyest", imported_s, IMPORT_AIM_S, "s"),
    ]
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


def compared(name: str, value: float, aim: float, unit: str) -> Goal:
    return Goal(name, f"{aim:g} {unit}", f"{value:.3g} {unit}", value <= aim)


if __name__ == "__main__":
    sys.exit(main())
