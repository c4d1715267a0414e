"""How far off every estimator is on 120 real trainings.

Each training is projected from its first epochs and compared with its measured energy. The first
table repeats the evaluation of the paper (arXiv 2307.05520) beside the figures of an independent
implementation, from which it must not differ by more than 2 %; the second shows the default, which
finds the stable epochs itself.

Exits with 1 if a figure differs, with 2 if the data are missing.

    python benchmarks/step_accuracy.py
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from datetime import datetime, timezone

import numpy as np
import pandas as pd
from datasets import Delrey2023Run, delrey2023

import energyest
from energyest import Estimate, NotStableError, estimate_step
from energyest.estimators import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.gpus import find_gpu

Method = Callable[[Delrey2023Run], Estimate]
PAPER = {"start": 10, "window": 5}


def duration_s(run: Delrey2023Run) -> float:
    return float(run.trace.column("duration_s").sum())


def flops(run: Delrey2023Run) -> Estimate:
    """GFLOPs of a forward pass, as the authors report them, three times for every image seen."""
    gpu = find_gpu(run.row["gpu model"])
    assert gpu is not None
    total = 3 * run.row["GFLOPs"] * 1e9 * run.row["total seen images"]
    return estimate_flops(
        run.trace, run.epochs, flops=total, peak_flops_per_s=gpu.peak_flops["fp32"]
    )


# Name, estimator, RMSE in kJ and MAPE in % of the independent implementation (None: no figure).
METHODS: list[tuple[str, Method, float | None, float | None]] = [
    (
        "STEP, energy form (start 10, window 5)",
        lambda run: estimate_step(run.trace.head(15), run.epochs, **PAPER),
        7.89,
        0.57,
    ),
    (
        "STEP, power form, duration known",
        lambda run: estimate_step(
            run.trace.head(15), run.epochs, form="power", duration_s=duration_s(run), **PAPER
        ),
        16.7,
        1.94,
    ),
    (
        "STEP, power form, duration projected",
        lambda run: estimate_step(run.trace.head(15), run.epochs, form="power", **PAPER),
        None,
        None,
    ),
    ("first epoch", lambda run: estimate_first_epoch(run.trace.head(1), run.epochs), 231, None),
    (
        "Green Algorithms, duration known",
        lambda run: estimate_green_algorithms(
            run.trace, run.epochs, ram_GB=run.ram_GB, duration_s=duration_s(run)
        ),
        149,
        None,
    ),
    (
        "MLCO2, duration known",
        lambda run: estimate_mlco2(run.trace, run.epochs, duration_s=duration_s(run)),
        339,
        None,
    ),
    ("FLOPs at 33 % of the fp32 peak", flops, None, None),
]


def errors(runs: list[Delrey2023Run], estimates: list[Estimate]) -> tuple[float, float, float]:
    """RMSE in kJ, MAPE and median absolute error in %."""
    true_J = np.array([run.trace.column("energy_J").sum() for run in runs])
    off_J = np.array([estimate.energy_J for estimate in estimates]) - true_J
    relative = 100 * np.abs(off_J) / true_J
    rmse_kJ = float(np.sqrt(np.mean(off_J**2))) / 1e3
    return rmse_kJ, float(relative.mean()), float(np.median(relative))


def paper_table(runs: list[Delrey2023Run]) -> tuple[pd.DataFrame, bool]:
    rows, agree = {}, True
    for name, method, known_kJ, known_pct in METHODS:
        rmse_kJ, mape, median = errors(runs, [method(run) for run in runs])
        rows[name] = {
            "RMSE (kJ)": rmse_kJ,
            "reference (kJ)": known_kJ,
            "MAPE (%)": mape,
            "reference (%)": known_pct,
            "median (%)": median,
        }
        for reached, known in ((rmse_kJ, known_kJ), (mape, known_pct)):
            agree &= known is None or abs(reached / known - 1) <= 0.02
    return pd.DataFrame.from_dict(rows, orient="index"), agree


def default_table(runs: list[Delrey2023Run]) -> pd.DataFrame:
    rows = {}
    for observed in (3, 5, 8, 12, 15, 20, 25):
        stable, estimates, unstable = [], [], 0
        for run in runs:
            if run.epochs <= observed:
                continue
            try:
                estimates.append(estimate_step(run.trace.head(observed), run.epochs))
                stable.append(run)
            except NotStableError:
                unstable += 1
        rmse_kJ, mape, median = errors(stable, estimates)
        true_J = np.array([run.trace.column("energy_J").sum() for run in stable])
        lower = np.array([e.lower_J for e in estimates], dtype=float)
        upper = np.array([e.upper_J for e in estimates], dtype=float)
        rows[observed] = {
            "runs": len(stable),
            "not stable": unstable,
            "RMSE (kJ)": rmse_kJ,
            "MAPE (%)": mape,
            "median (%)": median,
            "coverage of 90 % (%)": 100 * np.mean((lower <= true_J) & (true_J <= upper)),
            "half-width (%)": 100 * np.median((upper - lower) / 2 / true_J),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "epochs observed"
    return table


def main() -> None:
    runs = list(delrey2023())
    print(f"# step_accuracy, {datetime.now(timezone.utc):%Y-%m-%d}\n")
    print(
        f"{len(runs)} trainings of delrey2023; energyest {energyest.__version__}, "
        f"numpy {np.__version__}, Python {platform.python_version()}\n"
    )
    table, agree = paper_table(runs)
    print(table.to_string(float_format="%.2f", na_rep="-"))
    verdict = "agrees within 2 %" if agree else "DIFFERS by more than 2 %"
    print(f"\nEvery figure with a reference {verdict}.\n")
    print("STEP by default (automatic start, all epochs of the level):\n")
    print(default_table(runs).to_string(float_format="%.2f"))
    sys.exit(0 if agree else 1)


if __name__ == "__main__":
    main()
