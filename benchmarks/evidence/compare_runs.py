"""Every estimator on many finished trainings, as the paper compares them: RMSE, MAPE and R².

1. 72 own trainings of twelve epochs on an H100 and an H200 (`examples/data`), four epochs of each
   observed; PRE has seen none of them;
2. 120 trainings of S. del Rey, GAISSA-UPC/seaa2023_ect (CC BY 4.0; not part of this repository, see
   docs/benchmarks.md), 15 epochs of each observed. They hold no workload for PRE, and as each run
   is cut into equal parts, no estimator gains by knowing their durations, as the paper has it.

Exits with 2 if data are missing.

    python benchmarks/compare_runs.py [--plots FOLDER]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from datasets import delrey2023

import energyest
from energyest import EnergyTrace, EstimatorComparison, compare_estimators, load_trace

OWN = Path(__file__).parents[1] / "examples" / "data" / "choices.tar.gz"
OBSERVED_OWN = 4


def own() -> dict[str, EnergyTrace]:
    """The traces of `collect_choices.py`."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(OWN) as archive:
        archive.extractall(folder, filter="data")
        return {p.parent.name: load_trace(p) for p in sorted(Path(folder).glob("*/*/energy"))}


def authors() -> dict[str, EnergyTrace]:
    """The authors' runs with what the baselines want to know: memory and FLOPs."""
    found = {}
    for run in delrey2023():
        # A step's FLOPs are three times those of its forward pass.
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
    print(
        f"# compare_runs, {datetime.now(timezone.utc).date()}\n\nenergyest "
        f"{energyest.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    )
    compared = {"own": compare_estimators(own(), observed=OBSERVED_OWN, model="architecture")}
    _show("Own, H100 and H200", compared["own"])
    compared["delrey"] = compare_estimators(authors())
    _show("delrey2023", compared["delrey"])
    if options.plots is not None:
        from energyest import plots

        options.plots.mkdir(parents=True, exist_ok=True)
        for name, comparison in compared.items():
            figure = plots.plot_comparison(comparison, by="model")
            figure.savefig(options.plots / f"estimators_{name}.png", dpi=150)
    return 0


def _show(title: str, comparison: EstimatorComparison) -> None:
    print(f"\n{title}: {comparison}")


if __name__ == "__main__":
    sys.exit(main())
