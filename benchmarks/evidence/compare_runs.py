"""Every estimator on many finished trainings, compared as in the paper: RMSE, MAPE and R².

1. 72 trainings of our own, twelve epochs each, on an H100 and an H200 (`examples/data`). Four
   epochs of each are observed. PRE has seen none of them.
2. 120 trainings by S. del Rey, GAISSA-UPC/seaa2023_ect (CC BY 4.0; not part of this repository).
   15 epochs of each are observed. They have no workload for PRE. Because each run is cut into equal
   parts, knowing the duration, as in the paper, helps no estimator.

If the second data set is missing, the first is still compared, and the exit status is 2.

    python -m benchmarks.evidence.compare_runs [--plots FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.common.data_folder import missing
from benchmarks.common.head import print_head
from benchmarks.common.real_trainings import DELREY_READINGS, choices, delrey2023
from energyest import EnergyTrace
from energyest.estimators import EstimatorScores, score_estimators

OBSERVED_OWN = 4


def authors() -> dict[str, EnergyTrace]:
    """The authors' runs with the facts that the baselines need: memory and FLOPs."""
    found = {}
    for run in delrey2023():
        # A step costs three times the FLOPs of its forward pass.
        total = 3e9 * run.row["GFLOPs"] * run.row["total seen images"]
        flops = np.full(run.epochs, total / run.epochs)
        ram = {"device": "ram:0", "kind": "ram", "memory_bytes": 1e9 * run.ram_GB}
        facts = {"devices": [*run.trace.devices, ram], "model": run.row["architecture"]}
        columns = {**run.trace.epoch_columns, "flops": flops}
        meta = {**run.trace.meta, **facts}
        found[run.run_id] = EnergyTrace(columns, run.trace.power_columns, meta)
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plots", type=Path, help="folder for the pictures")
    options = parser.parse_args()
    absent = missing(*DELREY_READINGS)
    if absent is not None:
        print(f"compare_runs: {absent}", file=sys.stderr)
    print_head(__file__, "numpy")
    compared = {"own": score_estimators(choices(), observed=OBSERVED_OWN, model="architecture")}
    _show("Own, H100 and H200", compared["own"])
    if absent is None:
        compared["delrey"] = score_estimators(authors())
        print()
        _show("delrey2023", compared["delrey"])
    if options.plots is not None:
        from energyest import plots

        options.plots.mkdir(parents=True, exist_ok=True)
        for name, scores in compared.items():
            figure = plots.plot_comparison(scores, by="model")
            figure.savefig(options.plots / f"estimators_{name}.png", dpi=150)
    return 0 if absent is None else 2


def _show(title: str, scores: EstimatorScores) -> None:
    print(f"{title}: {scores}")


if __name__ == "__main__":
    sys.exit(main())
