"""How long `collect_runs` takes over thousands of runs, and `savings` and `match_gpu` over a table.

Runs are simulated, in the recorder's files: 12 epochs with two metrics, and a trace of each rank.
They have just been written, so that the disk's cache holds them. Each call is made in a fresh
process on one core; "processor" is the time that this core has worked for it, with the system's,
and "clock" what has passed, which is more where others use the machine. Imports, about a second of
the processor, do not count. Of the first call, the better of two counts.

Exits with 1 if a time misses its goal.

    python -m benchmarks.evidence.many_runs
    python -m benchmarks.evidence.many_runs --runs 1000 --ranks 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.goal import Goal
from benchmarks.common.head import print_head
from benchmarks.common.simulated_runs import GPUS, MODELS, write_runs

FIRST_AIM_S, AGAIN_AIM_S, ANALYSIS_AIM_S = 30.0, 2.0, 5.0
ROWS, NEW, FIRST_TRIES = 100_000, 10, 2


def collect(folder: str) -> int:
    """The number of runs; what is left out is not said."""
    import warnings

    from energyest.tradeoff import collect_runs

    warnings.simplefilter("ignore")
    with timed():
        return len(collect_runs(folder, model="architecture", unfinished=True))


@contextmanager
def timed() -> Iterator[None]:
    """Print what the processor and the clock say of what is done inside."""
    began_s, worked_s = time.perf_counter(), time.process_time()
    yield
    print(json.dumps([time.process_time() - worked_s, time.perf_counter() - began_s]))


def table_of(rows: int) -> pd.DataFrame:
    """Finished runs as `collect_runs` gives them, with 24 models on three GPUs."""
    rng = np.random.default_rng(0)
    model, gpu = rng.integers(len(MODELS), size=rows), rng.integers(len(GPUS), size=rows)
    flops = np.array(list(MODELS.values()))[model]
    per_sample_J = flops * 1e-10 * np.array([1.0, 0.8, 1.3])[gpu] * (1 + 0.01 * model * (gpu == 1))
    per_sample_J *= np.exp(0.05 * rng.standard_normal(rows))
    energy_J = per_sample_J * 38_400
    numbers = np.arange(rows)
    return pd.DataFrame(
        {
            "run": [f"version_{number}/energy" for number in numbers],
            "model": np.array(list(MODELS))[model],
            "gpu": np.array(list(GPUS))[gpu],
            "gpus": 8,
            "batch_size": 32.0,
            "precision": "bf16",
            "epochs": 12,
            "energy_J": energy_J,
            "duration_s": energy_J / 2000,
            "mean_power_W": 2000.0,
            "power_limit_W": np.array(list(GPUS.values()))[gpu],
            "utilization": rng.uniform(0.5, 1, rows),
            "samples": 38_400.0,
            "energy_per_sample_J": per_sample_J,
            "flops_per_sample": flops,
            "status": "finished",
            "user": "ada",
            "job_id": numbers.astype(str),
            "seed": numbers,
            "val_acc": rng.uniform(0.2, 0.9, rows),
        }
    )


def analyse(what: str) -> int:
    """Rows of the result of `savings`, or of `match_gpu`."""
    from energyest.tradeoff import match_gpu, savings

    runs = table_of(ROWS)
    with timed():
        return len(savings(runs) if what == "savings" else match_gpu(runs).points)


def in_a_process(*arguments: str) -> dict[str, float]:
    """Seconds of the processor and of the clock for a call in a fresh process, and its answer."""
    command = [sys.executable, "-m", "benchmarks.evidence.many_runs", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=on_one_core
    )
    times, answer = done.stdout.splitlines()
    worked_s, clock_s = json.loads(times)
    return {"processor, s": worked_s, "clock, s": clock_s, "answer": float(answer)}


def on_one_core() -> None:
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--folder", help="where to write them; by default a temporary folder")
    parser.add_argument("--collect", help=argparse.SUPPRESS)
    parser.add_argument("--analyse", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.collect or arguments.analyse:
        own = arguments.collect is not None
        print(collect(arguments.collect) if own else analyse(arguments.analyse))
        return 0
    print_head(__file__, "numpy", "pandas")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        return measure(Path(folder) / "runs", arguments.runs, arguments.ranks)


def measure(root: Path, runs: int, ranks: int) -> int:
    write_runs(root, range(runs), ranks)
    time.sleep(4)  # what has just changed is read again
    rows: dict[str, dict[str, Any]] = {}

    def take(name: str, *command: str) -> None:
        rows[name] = in_a_process(*command)

    tries = []
    for _ in range(FIRST_TRIES):
        for index in root.glob(".energyest-runs-*"):
            index.unlink()
        tries.append(in_a_process("--collect", str(root)))
    rows["the first time"] = min(tries, key=lambda one: one["processor, s"])
    take("again", "--collect", str(root))
    write_runs(root, range(runs, runs + NEW), ranks)
    take(f"with {NEW} new runs", "--collect", str(root))
    time.sleep(4)
    take("again, when these have settled", "--collect", str(root))
    size = next(root.glob(".energyest-runs-*")).stat().st_size
    take(f"savings of {ROWS:,} runs", "--analyse", "savings")
    take(f"match_gpu of {ROWS:,} runs", "--analyse", "match_gpu")
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["answer"] = table["answer"].astype(int)
    print(f"{runs:,} runs of {ranks} ranks; the index has {size / 1e6:.1f} MB\n")
    print(table.rename(columns={"answer": "rows"}).to_string(float_format="%.2f"))
    aims = dict.fromkeys(rows, AGAIN_AIM_S) | {"the first time": FIRST_AIM_S}
    aims |= dict.fromkeys([name for name in rows if f"{ROWS:,}" in name], ANALYSIS_AIM_S)
    goals = [compared(name, rows[name]["processor, s"], aim) for name, aim in aims.items()]
    print("\nthe processor's time:", *goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


def compared(name: str, value: float, aim: float) -> Goal:
    return Goal(name, f"{aim:g} s", f"{value:.3g} s", value <= aim)


if __name__ == "__main__":
    sys.exit(main())
