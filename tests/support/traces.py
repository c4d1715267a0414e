"""Traces of made-up epochs."""

from __future__ import annotations

import numpy as np

from energyest import EnergyTrace


def trace_of(energy_J, duration_s=2.0, *, meta=None, **columns) -> EnergyTrace:
    energy = np.asarray(energy_J, dtype=float)
    return EnergyTrace.from_epochs(
        energy, np.broadcast_to(duration_s, energy.shape), meta=meta, **columns
    )
