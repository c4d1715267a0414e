"""Real data that the benchmarks read; third-party files are not part of this repository."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from energyest import EnergyTrace

# Beside the checkout, unless ENERGYEST_DATA names another folder.
DATA = Path(os.environ.get("ENERGYEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Delrey2023Run:
    """A training by the authors of STEP, and what is known of it beside its readings."""

    run_id: str
    trace: EnergyTrace
    row: Any  # the run's row of runs.csv, a pandas Series

    @property
    def epochs(self) -> int:
        return len(self.trace)

    @property
    def ram_GB(self) -> float:
        """Memory of the machine, as the authors state it for each environment."""
        return 16.0 if self.row["environment"] == "cloud" else 32.0


def delrey2023() -> Iterator[Delrey2023Run]:
    """120 trainings read at 1 Hz (S. del Rey, GAISSA-UPC/seaa2023_ect, CC BY 4.0).

    The ends of the epochs are not recorded: every run is cut into equal parts.
    """
    import pandas as pd

    folder = DATA / "delrey2023"
    readings, runs = folder / "power_samples.parquet", folder / "runs.csv"
    for file in (readings, runs):
        if not file.exists():
            missing(file)
    samples = pd.read_parquet(readings)
    table = pd.read_csv(runs).set_index("run_id")
    for run_id, of_run in samples.groupby("run_id", observed=True):
        row = table.loc[run_id]
        time_s = of_run["t_s"].to_numpy(dtype=np.float64)
        ends_s = np.linspace(time_s[0], time_s[-1], int(row["trained epochs"]) + 1)[1:]
        device = {
            "device": "gpu:0",
            "kind": "gpu",
            "name": row["gpu model"],
            "power_limit_W": float(row["max power limit (W)"]),
        }
        trace = EnergyTrace.from_power(
            time_s,
            of_run["power_W"].to_numpy(dtype=np.float64),
            ends_s,
            utilization=of_run["gpu_util_pct"].to_numpy(dtype=np.float64) / 100,
            meta={"devices": [device], "run_id": str(run_id)},
        )
        yield Delrey2023Run(str(run_id), trace, row)


def missing(file: Path) -> NoReturn:
    """Say which file is missing, and end with status 2."""
    print(
        f"{Path(sys.argv[0]).name}: {file} is missing. Put the data folder there, or name another "
        "one in the environment variable ENERGYEST_DATA",
        file=sys.stderr,
    )
    sys.exit(2)
