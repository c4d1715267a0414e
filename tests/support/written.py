"""The files of a run: a trace with a number of epochs, and its lines."""

from __future__ import annotations

from typing import Any

import numpy as np

from energyest import EnergyTrace
from energyest.records import storage

META = {"run_id": "r", "status": "running"}


def contents_of(rows: int) -> EnergyTrace:
    """A number of epochs, each with a reading."""
    count = np.arange(rows, dtype=float)
    readings: dict[str, Any] = {name: np.full(rows, 1.0) for name in storage.POWER_COLUMNS}
    readings |= {"time_s": count, "device": np.full(rows, "gpu:0", dtype=object)}
    return EnergyTrace({"epoch": count, "energy_J": count}, readings, META)


def line(row: int) -> str:
    return storage.encode_epoch({"epoch": row, "energy_J": row})
