"""Simulated finished runs of several processes, with files as the recorder writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from energyest.records import storage

GPUS = {"NVIDIA A100-SXM4-80GB": 400.0, "NVIDIA H100 80GB HBM3": 700.0, "NVIDIA L4": 72.0}
MODELS = {f"net{size}": 10.0**9 * 1.3**size for size in range(24)}
USERS = ("ada", "grace", "alan", "edsger", "barbara")
PROJECTS = ("vision", "speech", "text")
STATUSES = ("finished",) * 9 + ("KeyboardInterrupt",)
EPOCHS, READINGS = 12, 100
#: Facts that fill a meta: operations of the workload, as of a small network.
_OPERATIONS = 60


def write_runs(root: Path, runs: Sequence[int], ranks: int) -> None:
    """Write runs, each into a folder of its own with one more in it for each further rank.

    Args:
        root: where to write them.
        runs: their numbers, from which all else follows.
        ranks: processes of each run.
    """
    for run in runs:
        folder = root / PROJECTS[run % 3] / f"version_{run}" / "energy"
        for rank, (epochs, power, meta) in enumerate(_ranks_of(run, ranks)):
            place = folder / f"rank{rank}" if rank else folder
            os.makedirs(place)
            (place / storage.EPOCHS_FILE).write_text("".join(epochs))
            (place / storage.POWER_FILE).write_text("".join(power))
            (place / storage.META_FILE).write_text(meta)


def _ranks_of(run: int, ranks: int) -> Iterator[tuple[list[str], list[str], str]]:
    rng = np.random.default_rng(run)
    gpu, limit_W = list(GPUS.items())[run % len(GPUS)]
    model, flops = list(MODELS.items())[run // len(GPUS) % len(MODELS)]
    duration_s = rng.uniform(20, 30, EPOCHS)
    end_s = 2 + np.cumsum(duration_s)
    accuracy = np.sort(rng.uniform(0.2, 0.9, EPOCHS))
    busy = float(rng.uniform(0.05 if run % 20 == 0 else 0.7, 0.1 if run % 20 == 0 else 1.0))
    operations = {
        "phase": ["forward"] * _OPERATIONS,
        "name": ["convolution"] * _OPERATIONS,
        "count": [1] * _OPERATIONS,
        "flops": [flops / _OPERATIONS] * _OPERATIONS,
        "bytes": [1.5e6] * _OPERATIONS,
    }
    for rank in range(ranks):
        gpu_J = limit_W * busy * duration_s * rng.uniform(0.98, 1.02, EPOCHS)
        columns = {
            "epoch": np.arange(EPOCHS, dtype=float),
            "start_s": end_s - duration_s,
            "end_s": end_s,
            "duration_s": duration_s,
            "energy_J": 1.1 * gpu_J,
            "gpu_energy_J": gpu_J,
            "cpu_energy_J": 0.08 * gpu_J,
            "ram_energy_J": 0.02 * gpu_J,
            "validation_energy_J": 0.1 * gpu_J,
            "validation_s": 0.1 * duration_s,
            "mean_power_W": 1.1 * gpu_J / duration_s,
            "steps": np.full(EPOCHS, 100.0),
            "samples": np.full(EPOCHS, 3200.0),
            "flops": np.full(EPOCHS, 3 * flops * 3200),
            "val_loss": 1 - accuracy,
            "val_acc": accuracy,
        }
        total_J = float(1.1 * gpu_J.sum() + 100)
        time_s = np.linspace(0, end_s[-1], READINGS)
        power = {
            "time_s": time_s,
            "device": np.full(READINGS, f"gpu:{rank}", dtype=object),
            "power_W": np.full(READINGS, limit_W * busy),
            "energy_J": limit_W * busy * time_s,
            "utilization": np.full(READINGS, busy),
            "memory_bytes": np.full(READINGS, 3e10),
            "temperature_C": np.full(READINGS, 61.0),
        }
        kinds = {"gpu": (gpu, 1 / 1.1, limit_W), "cpu": ("AMD EPYC", 0.08 / 1.1, 280.0)}
        kinds |= {"ram": ("memory", 0.02 / 1.1, 90.0)}
        devices = [
            {
                "device": f"{kind}:{rank if kind == 'gpu' else 0}",
                "kind": kind,
                "name": name,
                "source": "measured",
                "method": "simulated",
                "power_limit_W": most_W,
                "uuid": f"{run:x}-{rank}-{kind}",
                "energy_J": share * total_J,
                "missing_s": 0.0,
                "failed_readings": 0,
                "utilization": busy if kind == "gpu" else None,
            }
            for kind, (name, share, most_W) in kinds.items()
        ]
        meta = {
            "run_id": f"{run:032x}",
            "status": STATUSES[run % len(STATUSES)],
            "start_time": f"2026-{1 + run % 12:02}-{1 + run % 28:02}T{run % 24:02}:00:00+00:00",
            "interval_s": 0.1,
            "devices": devices,
            "notes": [],
            "versions": {"energyest": "0.1.0", "python": "3.12.3", "torch": "2.13.0"},
            "host": f"node{run % 50}",
            "user": USERS[run % len(USERS)],
            "project": PROJECTS[run % 3],
            "job": {"scheduler": "slurm", "id": str(100_000 + run)},
            "rank": rank,
            "world_size": ranks,
            "model": {"name": "Classifier", "parameters": int(flops / 100)},
            "precision": "bf16",
            "hparams": {"architecture": model, "lr": 0.001, "seed": run},
            "batch_size": 32,
            "forward_flops_per_sample": flops,
            "training_to_forward_flops": 3.0,
            "workload": {"model": "Classifier", "batch_size": 32, "operations": operations},
            "planned_epochs": EPOCHS,
            "duration_s": float(end_s[-1] + 1),
            "total_J": total_J,
            "components": {f"{kind}_energy_J": s * total_J for kind, (_, s, _) in kinds.items()},
        }
        yield (
            list(storage.epoch_lines(columns)),
            list(storage.power_lines(power)),
            storage.encode_meta(meta),
        )
