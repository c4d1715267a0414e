"""What happens now and then in a training: spikes of single epochs, validation every k epochs."""

from __future__ import annotations

import math
import statistics

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray

# A spike differs from its neighbours by more than so many times what they differ from each other,
# to which this share of their level is added.
_STANDS_OUT = 3.0
_NEIGHBOURS_DIFFER = 0.02
# Neighbours that differ by more than this share lie on two levels.
_ALIKE = 0.2


def without_spikes(values: FloatArray) -> FloatArray:
    """The values, with those that stand out between two alike replaced by these two's mean.

    A checkpoint or a validation every so often is such a spike and no change of level. Whether the
    last value is one cannot be seen from its neighbours: it is, if one like it was seen before.

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
    # Where every other value stands out, nobody can say which of them do.
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


def remaining_spikes(positions: NDArray[np.intp], measured: int, total: float) -> float | None:
    """How often something that happened in some of the epochs will happen in those to come.

    Args:
        positions: shape (events,), ascending: the epochs in which it happened.
        measured: number of epochs so far.
        total: number of epochs of the whole training.

    Returns:
        The number of events to come if they come at regular intervals; None if they do not, or if
        there were too few to tell.
    """
    gaps = np.diff(positions)
    if not len(positions) or measured >= total:
        return 0.0
    if len(positions) == 1:
        # Every k epochs, counted from the first, is the habit of the field; a second would be due.
        period = float(positions[0]) + 1
        if period < 2 or measured >= 2 * period:
            return None
    else:
        period = float(gaps.mean())
        # Intervals of steps meet a period of whole epochs one earlier or later.
        if gaps.max() - gaps.min() > 1 or measured - 1 - positions[-1] > math.ceil(period):
            return None
    to_come = (np.floor(float(total)) - 1 - float(positions[-1])) / period
    return max(0.0, float(np.floor(to_come + 1e-9)))
