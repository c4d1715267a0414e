"""Occasional events in a training: spikes of single epochs, validation every k epochs."""

from __future__ import annotations

import math
import statistics

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray

# A spike deviates from its neighbours by more than `_STANDS_OUT` times (their difference plus the
# share `_NEIGHBOURS_DIFFER` of their level).
_STANDS_OUT = 3.0
_NEIGHBOURS_DIFFER = 0.02
# Neighbours that differ by more than this share lie on different levels.
_ALIKE = 0.2


def without_spikes(values: FloatArray) -> FloatArray:
    """Replace values that stand out between two similar ones by the mean of these two.

    Occasional checkpoints and validations are spikes of this kind, not changes of level. For the
    last value, the neighbours do not decide: it is a spike if a similar one occurred before.

    Args:
        values: shape (values,), finite.
    """
    if len(values) < 3:
        return values
    cleaned: FloatArray = values.copy()
    left, inner, right = values[:-2], values[1:-1], values[2:]
    between = (left + right) / 2
    likely = np.abs(left - right) + _NEIGHBOURS_DIFFER * np.abs(between)
    height = inner - between
    alike = np.abs(left - right) <= _ALIKE * np.abs(between)
    spikes = alike & (np.abs(height) > _STANDS_OUT * likely)
    # If every other value stands out, it is unclear which of them are spikes.
    crowded = np.zeros_like(spikes)
    crowded[1:] |= spikes[:-1]
    crowded[:-1] |= spikes[1:]
    spikes &= ~crowded
    cleaned[1:-1][spikes] = between[spikes]
    usual = statistics.median(cleaned[-6:-1].tolist())
    last = float(values[-1]) - usual
    if (np.sign(last) * height[spikes] >= abs(last) / 2).any() and abs(last) > (
        _STANDS_OUT * _NEIGHBOURS_DIFFER * abs(usual)
    ):
        cleaned[-1] = usual
    return cleaned


def remaining_spikes(positions: NDArray[np.intp], measured: float, total: float) -> float | None:
    """Number of future occurrences of an event that happened in some of the epochs.

    Args:
        positions: shape (events,), epochs in which the event happened, ascending.
        measured: number of epochs so far.
        total: number of epochs of the whole training.

    Returns:
        The number of remaining events if they occur at regular intervals; None if they do not, or
        if there were too few to decide.
    """
    gaps = np.diff(positions)
    if not len(positions) or measured >= total:
        return 0.0
    if len(positions) == 1:
        # By convention, events come every k epochs from the first on; a second one may be overdue.
        period = float(positions[0]) + 1
        if period < 2 or measured >= 2 * period:
            return None
    else:
        period = float(gaps.mean())
        # With rows that are intervals, an event may come one row earlier or later.
        if gaps.max() - gaps.min() > 1 or measured - 1 - positions[-1] > math.ceil(period):
            return None
    to_come = (np.floor(float(total)) - 1 - float(positions[-1])) / period
    return max(0.0, float(np.floor(to_come + 1e-9)))
