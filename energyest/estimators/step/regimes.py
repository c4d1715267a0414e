"""The levels that a training has been on, one after another."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from energyest.estimators.arguments import check_trace
from energyest.estimators.step.level import MIN_EPOCHS, current_level
from energyest.records.trace import EnergyTrace

# A picture or a table has room for no more.
_MOST = 20


class Regime(NamedTuple):
    """Consecutive epochs that cost about the same.

    Attributes:
        start: position of its first epoch in the trace, counted from 0.
        stop: position after its last epoch.
        mean_J: mean energy of its epochs, validation included, in joules.
    """

    start: int
    stop: int
    mean_J: float


def find_regimes(trace: EnergyTrace) -> list[Regime]:
    """The stable levels of a trace, the earliest first.

    The last is the level that `estimate_step` projects from. Those before it are found in the same
    way, each from the epochs before the next. Epochs between two levels, such as a cold first one,
    belong to none, and neither do levels of fewer than three epochs.

    Args:
        trace: the epochs measured so far; those that were not measured or were cut short are
            left out.

    Returns:
        Up to 20 levels; of more, the latest.

    Raises:
        EstimateError: `trace` is no trace.
    """
    check_trace(trace)
    energy_J = trace.column("energy_J")
    training_J = energy_J - np.nan_to_num(trace.column("validation_energy_J"))
    known = np.flatnonzero(np.isfinite(energy_J[: math.floor(trace.epochs_done)]))
    values = np.maximum(training_J[known], 0.0)  # rounding may leave less than nothing
    found: list[Regime] = []
    while len(values) >= MIN_EPOCHS and len(found) < _MOST:
        level = current_level(values)
        if level.epochs >= MIN_EPOCHS:
            rows = known[level.start : len(values)]
            mean_J = float(energy_J[rows].mean())
            found.append(Regime(int(rows[0]), int(rows[-1]) + 1, mean_J))
        # Always fewer than before: an epoch that leads over to the level goes with it.
        values = values[: min(len(values) - level.age, level.start)]
    return found[::-1]
