"""The present level of a sequence of epochs: its mean, uncertainty and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.estimators.step.changepoint import LastChange, last_change
from energyest.estimators.step.spikes import without_spikes

# A level is accepted after this many epochs, including a single transitional epoch: two epochs
# agree too easily by chance.
MIN_EPOCHS = 3
# Prior of the standard deviation of epochs, as a share of the level, and its weight in epochs: the
# estimate from a few nearly equal epochs can be arbitrarily small.
_LEAST_SPREAD = 0.005
_LEAST_SPREAD_EPOCHS = 1.0


@dataclass(frozen=True)
class Level:
    """A level and its properties.

    Attributes:
        start: position of its first epoch.
        epochs: number of epochs on it.
        age: number of epochs since the previous level ended: `epochs`, plus one if a single epoch,
            such as a cold one, lies between the two.
        shares: shape (values,), weight of each value in `mean`; they sum to 1.
        mean: mean cost of an epoch on the level.
        uncertainty: variance of `mean`, relative to its square.
        spread: variance of the epochs around the level, relative to the square of `mean`.
        drift: mean of the second half minus mean of the first half, relative to `mean`.
        smooth: shape (values,), the values without spikes.
        change: when the level may have begun; None for a level of given epochs.
        since: number of values after those that the mean is taken from (see `young_level`).
        dip: number of lower values at the end, among these, that are likely to be a dip.
    """

    start: int
    epochs: int
    age: int
    shares: FloatArray
    mean: float
    uncertainty: float
    spread: float
    drift: float
    smooth: FloatArray
    change: LastChange | None = None
    since: int = 0
    dip: int = 0

    @property
    def is_stable(self) -> bool:
        """Whether the level has lasted long enough to be accepted."""
        return self.missing_epochs == 0

    @property
    def missing_epochs(self) -> int:
        """Least number of further epochs until the level is accepted."""
        return max(0, MIN_EPOCHS - self.age)

    def average(self, values: FloatArray) -> float:
        """The mean over the level of other values of the same epochs; NaN if none is known."""
        known = np.isfinite(values) & (self.shares > 0)
        weight = float(self.shares[known].sum())
        return float(self.shares[known] @ values[known]) / weight if weight > 0 else math.nan


def current_level(values: FloatArray, change: LastChange | None = None) -> Level:
    """The level at the end of a sequence.

    The current level is the mean of all epochs since the last change. Because the time of that
    change is uncertain, it is averaged over all possible times, weighted by their probability (see
    `changepoint`). A spike of a single epoch (see `spikes`) is not projected if it was the only one
    on the level, or came before the level.

    Args:
        values: shape (values,), at least one; finite and not negative, for example joules.
        change: when the level began, if known from other values of the same epochs.
    """
    smooth = without_spikes(values)
    change = last_change(smooth) if change is None else change
    size = len(values)
    best = change.best(MIN_EPOCHS)
    start = int(change.starts[best])
    expected = smooth.copy()
    if np.count_nonzero(values[start:] != smooth[start:]) > 1:
        expected[start:] = values[start:]
    values = expected
    shares = change.shares()
    mean = float(shares @ values)
    scaled = values / mean if mean > 0 else values
    means, spreads = _since(scaled, change)
    uncertainty = spreads / (size - change.starts) + (means - 1) ** 2
    return Level(
        start=start,
        epochs=size - start,
        age=int(change.ages[best]),
        shares=shares,
        mean=mean,
        uncertainty=float(change.weights @ uncertainty) if mean > 0 else 0.0,
        spread=float(change.weights @ spreads),
        drift=_drift(smooth[start:] / mean) if mean > 0 else 0.0,
        smooth=smooth,
        change=change,
    )


def fixed_level(values: FloatArray, start: int, stop: int) -> Level:
    """The level of the epochs `start` to `stop` - 1, at least one of which is finite."""
    known = np.flatnonzero(np.isfinite(values[start:stop])) + start
    shares = np.zeros(len(values))
    shares[known] = 1 / len(known)
    mean = float(values[known].mean())
    scaled = values[known] / mean if mean > 0 else values[known]
    spread = float(_spread(((scaled - 1) ** 2).sum(), len(known))) if mean > 0 else 0.0
    return Level(
        start=start,
        epochs=stop - start,
        age=stop - start,
        shares=shares,
        mean=mean,
        uncertainty=spread / len(known),
        spread=spread,
        drift=_drift(scaled),
        smooth=values,
    )


def _since(scaled: FloatArray, change: LastChange) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the values from each candidate start to the end."""
    # Relative to the last value, so that small differences are not lost in rounding.
    shifted = scaled[::-1] - scaled[-1]
    counts = len(scaled) - change.starts
    sums = np.cumsum(shifted)[counts - 1]
    squares = np.cumsum(shifted**2)[counts - 1]
    around = np.maximum(squares - sums**2 / counts, 0.0)
    return scaled[-1] + sums / counts, _spread(around, counts)


def _spread(squares: FloatArray | float, count: NDArray[np.intp] | int) -> FloatArray:
    """Variance from a sum of squares around the mean, combined with the prior."""
    least = _LEAST_SPREAD_EPOCHS * _LEAST_SPREAD**2
    spread: FloatArray = (least + squares) / (_LEAST_SPREAD_EPOCHS + np.asarray(count) - 1)
    return spread


def _drift(values: FloatArray) -> float:
    half = len(values) // 2
    if not half:
        return 0.0
    return float(values[len(values) - half :].mean() - values[: len(values) - half].mean())
