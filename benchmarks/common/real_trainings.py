"""Finished trainings that the benchmarks read: the paper's authors', hopper's, and our own.

Third-party files are not part of this repository; `data_folder` says where they are expected.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.common.data_folder import FOLDER, PACKAGED, REPOSITORY, require
from energyest import EnergyTrace, PlannedChange, load_trace
from energyest.integration import cumulative_energy

if TYPE_CHECKING:
    import pandas as pd

# Files read from the data next to the checkout.
DELREY_READINGS = ("delrey2023/power_samples.parquet", "delrey2023/runs.csv")
DELREY_TABLE = ("delrey2023/run_table.csv",)
HOPPER_LONG = tuple(f"hopper/long_runs_{f}" for f in ("runs.csv", "epochs.csv", "samples.parquet"))
CHOICES = REPOSITORY / "examples" / "data" / "choices.tar.gz"


@dataclass(frozen=True)
class Delrey2023Run:
    """A training by the authors of STEP, with its row of facts."""

    run_id: str
    trace: EnergyTrace
    row: Any  # the run's row of runs.csv, a pandas Series

    @property
    def epochs(self) -> int:
        return len(self.trace)

    @property
    def ram_GB(self) -> float:
        """The machine's memory, as the authors state it for each environment."""
        return 16.0 if self.row["environment"] == "cloud" else 32.0


def delrey2023() -> Iterator[Delrey2023Run]:
    """120 trainings read at 1 Hz (S. del Rey, GAISSA-UPC/seaa2023_ect, CC BY 4.0).

    The ends of the epochs are not recorded: every run is cut into equal parts.
    """
    import pandas as pd

    require(*DELREY_READINGS)
    readings, runs = (FOLDER / name for name in DELREY_READINGS)
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


def delrey2023_table() -> pd.DataFrame:
    """150 finished trainings by the same authors on three GPUs; 30 of them have no readings.

    Columns are named as in `energyest.tradeoff`. FLOPs are as reported by the authors: for
    MobileNetV2, a third of the count with 2 per multiply-add. `samples` counts all images seen, in
    training and validation.
    """
    import pandas as pd

    require(*DELREY_TABLE)
    runs = pd.read_csv(FOLDER / DELREY_TABLE[0])
    named = {
        "model": runs["architecture"],
        "gpu": runs["gpu model"].str.removeprefix("NVIDIA GeForce "),
        "environment": runs["training environment"],
        "batch_size": runs["batch size"],
        "epochs": runs["trained epochs"],
        "energy_J": 1e6 * runs["energy (MJ)"],
        "duration_s": 3600 * runs["training duration (h)"],
        "mean_power_W": runs["average power draw (W)"],
        "power_limit_W": runs["max power limit (W)"],
        "utilization": runs["gpu usage (%)"] / 100,
        "training_samples": runs["training size"],
        "validation_samples": runs["validation size"],
        "samples": runs["total seen images"],
        "energy_per_sample_J": 1e6 * runs["energy (MJ)"] / runs["total seen images"],
        "flops_per_sample": 1e9 * runs["GFLOPs"],
        "f1": runs["f1-score"],
    }
    return pd.DataFrame(named)


@dataclass(frozen=True)
class LongRun:
    """A finished training, with which projections from its first epochs are compared.

    Attributes:
        run_id: its name.
        group: data set and scenario; figures are given per group.
        setting: model and GPU; runs of one setting are alike.
        trace: all of its epochs.
        changes_at: the epoch at which a planned change takes place; None without one.
        flops_ratio: training FLOPs of an epoch after that change, divided by those before it.
    """

    run_id: str
    group: str
    setting: str
    trace: EnergyTrace
    changes_at: int | None = None
    flops_ratio: float | None = None

    @property
    def epochs(self) -> int:
        return len(self.trace)

    @property
    def energy_J(self) -> np.ndarray:
        return self.trace.column("energy_J")

    @property
    def total_J(self) -> float:
        return float(self.energy_J.sum())

    @property
    def planned(self) -> list[PlannedChange]:
        """The planned change as a user would declare it."""
        if self.changes_at is None:
            return []
        return [PlannedChange(self.changes_at, flops_ratio=self.flops_ratio)]


def long_runs() -> list[LongRun]:
    """All trainings of 40 or more epochs: the authors', hopper's and our own."""
    require(*DELREY_READINGS, *HOPPER_LONG)
    return [*_of_delrey2023(), *of_hopper(), *own_runs()]


def _of_delrey2023() -> Iterator[LongRun]:
    for run in delrey2023():
        setting = f"{run.row['environment']}-{run.row['architecture']}"
        # The protocol unfreezes the base at epoch 10. Every run is cut into equal parts, and frozen
        # epochs are shorter, so the change comes a little earlier in the trace.
        yield LongRun(run.run_id, "delrey2023", setting, run.trace, changes_at=10)


def of_hopper(reading: str = "counter") -> Iterator[LongRun]:
    """Five trainings on an H100, 40 epochs of about a second.

    Args:
        reading: where the energy comes from: the GPU's `counter`, as in a trace of the monitor, or
            the integral of its instant `power`, read 50 times a second.
    """
    import pandas as pd

    require(*HOPPER_LONG)
    files = [FOLDER / name for name in HOPPER_LONG]
    runs, epochs = (pd.read_csv(file) for file in files[:2])
    readings = pd.read_parquet(files[2])
    for _, row in runs.iterrows():
        of_run = epochs[epochs["run_id"] == row["run_id"]]
        read = readings[readings["run_id"] == row["run_id"]]
        time_s, total_J = read["t_s"].to_numpy(), read["energy_mJ"].to_numpy() / 1e3
        if reading == "power":
            total_J, _ = cumulative_energy(time_s, read["power_instant_W"].to_numpy(), time_s)
        # Epochs lie end to end, as in a trace of the monitor.
        edges_s = np.append(of_run["start_s"].to_numpy()[:1], of_run["end_s"].to_numpy())
        at_edges_J = np.interp(edges_s, time_s, total_J)
        at_train_end_J = np.interp(of_run["train_end_s"], time_s, total_J)
        validates = row["scenario"] == "validation"
        trace = EnergyTrace.from_epochs(
            np.diff(at_edges_J),
            np.diff(edges_s),
            validation_energy_J=(at_edges_J[1:] - at_train_end_J) * validates,
            validation_s=(edges_s[1:] - of_run["train_end_s"].to_numpy()) * validates,
            gpu_energy_J=np.diff(at_edges_J),
            meta=_of_gpu(row),
        )
        changes_at, ratio = _HOPPER_CHANGES.get(row["scenario"], (None, None))
        yield LongRun(
            row["run_id"],
            f"hopper {row['scenario']}",
            f"{row['model']}-{row['gpu']}",
            trace,
            changes_at,
            ratio,
        )


def _of_gpu(row: Any) -> dict[str, Any]:
    gpu = {"device": "gpu:0", "kind": "gpu", "name": row["gpu"]}
    return {"devices": [{**gpu, "power_limit_W": float(row["power_limit_W"])}]}


# Epoch of the change and ratio of the training FLOPs. A frozen backbone costs only its forward
# pass, a third of its training; twice the resolution is four times the pixels.
_HOPPER_CHANGES = {"unfreeze": (13, 3.0), "resize": (20, 4.0)}


def own_runs() -> Iterator[LongRun]:
    """Trainings measured for this project by `benchmarks.collect.scenarios`."""
    import pandas as pd

    epochs = pd.read_csv(PACKAGED / "long_runs_epochs.csv")
    runs = pd.read_csv(PACKAGED / "long_runs.csv")
    for _, row in runs.iterrows():
        # The last epoch is left out: its end was read at another phase of the counter's 0.1 s tick
        # than the other ends, which matters for epochs as short as these.
        of_run = epochs[epochs["run_id"] == row["run_id"]].iloc[:-1]
        trace = EnergyTrace.from_epochs(
            of_run["gpu_energy_J"],
            of_run["duration_s"],
            validation_energy_J=of_run["validation_energy_J"],
            validation_s=of_run["validation_s"],
            steps=of_run["steps"],
            gpu_energy_J=of_run["gpu_energy_J"],
            meta=_of_gpu(row),
        )
        changes = pd.notna(row["changes_at"])
        samples = of_run["samples"].to_numpy()
        ratio = row["training_flops_per_sample_after"] / row["training_flops_per_sample_before"]
        if changes:
            ratio *= samples[-1] / samples[int(row["changes_at"]) - 1]
        yield LongRun(
            row["run_id"],
            f"own {row['scenario']}",
            f"{row['model']}-{row['gpu']}",
            trace,
            int(row["changes_at"]) if changes else None,
            float(ratio) if changes and np.isfinite(ratio) else None,
        )


def choices() -> dict[str, EnergyTrace]:
    """72 traces of `benchmarks.collect.choices`, which are part of the examples, by run name."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(CHOICES) as archive:
        archive.extractall(folder, filter="data")
        return {p.parent.name: load_trace(p) for p in sorted(Path(folder).glob("*/*/energy"))}
