"""Disturbances: stalls, which cost more than the level, and dips, which cost less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, ndtri

from energyest.arrays import FloatArray
from energyest.estimators.step.level import MIN_EPOCHS
from energyest.estimators.step.spikes import remaining_spikes

Flags = NDArray[np.bool_]

# An epoch stands out if it deviates from the median by more than `_STANDS_OUT` robust standard
# deviations and by more than the share `LEAST_HEIGHT` of the level. The estimate of the standard
# deviation is bounded below, because it can be too small for a few epochs.
_STANDS_OUT = 4.0
LEAST_HEIGHT = 0.02
_LEAST_SPREAD = 0.003
# A median below this share of the largest value is 0 up to rounding.
_LEAST_USUAL = 1e-9
# If a larger share of epochs stands out, it is noise of the level.
_MOST = 1 / 3
# Earlier epochs belong to the level, too, if at least this share of all epochs since then lies on
# it: the epochs in between were a burst, not another level.
_SAME_LEVEL = 0.6
# A level may have moved by this share while it was disturbed.
_MAY_MOVE = 0.03
# Durations that differ by no more than this share are equal: epochs differ by 0.05 % and more.
_EQUAL = 1e-6
# For more remaining epochs than this, draws are made for this many, and scaled.
_MOST_DRAWN = 2000
# Dips cannot save more than this share of the remaining energy.
_MOST_SAVED = 0.8


@dataclass(frozen=True)
class Prior:
    """Prior for stalls or dips, before a training has shown any.

    The constants are chosen with `benchmarks/evidence/step_calibration.py`.

    Attributes:
        bursts: prior number of bursts,
        epochs: in this prior number of epochs.
        size: median of the extra (or saved) cost of an epoch, as a share of the level or, if
            `is_relative`, in standard deviations of quiet epochs: variable loaders stall longer.
        spread: standard deviation of the logarithm of the size.
        is_relative: see `size`.
        goes_on: prior probability that an epoch of a burst is followed by another.
    """

    bursts: float
    epochs: float
    size: float
    spread: float
    is_relative: bool
    goes_on: float


STALLS = Prior(bursts=0.95, epochs=4.8, size=1.9, spread=0.43, is_relative=True, goes_on=0.38)
DIPS = Prior(bursts=0.31, epochs=8.3, size=0.12, spread=0.35, is_relative=False, goes_on=0.24)
# The same where rows are equal times, cut from a log of power: a pause is a dip there, while it
# makes an epoch longer; and a GPU at work cannot draw much more than it does.
CUT_STALLS = Prior(bursts=0.093, epochs=6.3, size=2.8, spread=0.35, is_relative=True, goes_on=0.25)
CUT_DIPS = Prior(bursts=0.15, epochs=3.7, size=0.14, spread=0.19, is_relative=False, goes_on=0.66)
# Weight of the prior of burst lengths, in epochs.
_GOES_ON_WEIGHT = 3.0
# Probability that an event seen once recurs at regular intervals, as validation or checkpoints do,
# and the increase for each further event on time.
IS_REGULAR, EACH_ADDS, MOST_REGULAR = 0.045, 0.25, 0.95
# Weight of the prior of sizes, in epochs: it is small, as trainings differ more than their stalls.
_SIZE_WEIGHT = 0.2

#: Number of simulated futures.
DRAWS = 1000
_SEED = 0


class Chance(NamedTuple):
    """Random numbers with a fixed seed, so that no projection changes without a reason.

    Each row holds evenly spaced quantiles in random order.

    Attributes:
        stalls: uniform numbers, shape (2, DRAWS), and normal numbers, shape (3, DRAWS).
        dips: the same for dips.
        other_level: uniform numbers, shape (DRAWS,).
        error: uniform numbers, shape (DRAWS,).
    """

    stalls: tuple[FloatArray, FloatArray]
    dips: tuple[FloatArray, FloatArray]
    other_level: FloatArray
    error: FloatArray


@cache
def chance() -> Chance:
    """The random numbers of all projections."""
    order = np.random.default_rng(_SEED)
    rows = np.array([order.permutation(DRAWS) for _ in range(12)])
    even: FloatArray = (rows + 0.5) / DRAWS
    stalls, dips = ((rows[:2], ndtri(rows[2:])) for rows in (even[:5], even[5:10]))
    return Chance(stalls, dips, even[10], even[11])


class Disturbances:
    """The disturbed epochs of a level, and a forecast of future ones.

    Args:
        values: shape (values,), cost of each epoch, finite.
        start: position of the level's first epoch.
        epochs: shape (values,), number of each of these epochs in the training.
        equal_times: whether the values are of equal times, cut from a log of power.

    Attributes:
        calm: shape (values,), `values` with disturbed ones replaced by the usual value.
        are_older: whether some disturbances precede the assumed start of the level.
    """

    def __init__(
        self,
        values: FloatArray,
        start: int,
        epochs: NDArray[np.intp],
        *,
        equal_times: bool = False,
    ) -> None:
        on_level = values[start:]
        usual = float(np.median(on_level))
        off, out = np.zeros(len(values)), np.zeros(len(values), dtype=np.bool_)
        self._spread, first = _LEAST_SPREAD, start
        if usual > _LEAST_USUAL * float(np.max(np.abs(values))):
            off = values / usual - 1
            # Median absolute deviation, scaled to the standard deviation of normal noise.
            self._spread = max(1.4826 * float(np.median(np.abs(off[start:]))), _LEAST_SPREAD)
            stands_out = np.abs(off) > max(_STANDS_OUT * self._spread, LEAST_HEIGHT)
            if stands_out[start:].mean() <= _MOST:
                least = max(_STANDS_OUT * self._spread, _MAY_MOVE)
                stands_out[:start] = np.abs(off[:start]) > least
                out, first = stands_out, _first_of_level(~stands_out, start)
        self.calm = values.copy()
        if out[start:].any():
            self.calm[start:][out[start:]] = np.median(on_level[~out[start:]])
        out[:first] = False
        self.are_older = bool(out[:start].any())
        stalls, dips = (CUT_STALLS, CUT_DIPS) if equal_times else (STALLS, DIPS)
        self._stalls = _Kind(stalls, out & (off > 0), off, epochs, first)
        self._dips = _Kind(dips, out & (off < 0), -off, epochs, first)

    def to_come(self, begin: float, end: float) -> FloatArray:
        """Extra cost of the remaining epochs beyond the level, in units of an epoch on the level.

        Args:
            begin: the first remaining epoch, with a fraction if part of it is done.
            end: the end of the training, possibly within an epoch.

        Returns:
            Simulated futures, of shape (DRAWS,).
        """
        to_come = max(0.0, end - begin)
        remaining = math.ceil(min(to_come, _MOST_DRAWN))
        if not remaining:
            return np.zeros(DRAWS)
        stalls = self._stalls.to_come(begin, remaining, self._spread, chance().stalls)
        dips = self._dips.to_come(begin, remaining, self._spread, chance().dips)
        dips = np.minimum(dips, _MOST_SAVED * remaining)
        extra: FloatArray = (to_come / remaining) * (stalls - dips)
        return extra


class _Kind:
    """The stalls, or the dips, of a run.

    Args:
        prior: prior for them.
        out: shape (values,), which epochs are stalls (or dips).
        off: shape (values,), their extra (or saved) cost, as a share of the level.
        epochs: shape (values,), number of each epoch in the training.
        first: position of the first epoch that counts.
    """

    def __init__(
        self, prior: Prior, out: Flags, off: FloatArray, epochs: NDArray[np.intp], first: int
    ) -> None:
        self._prior = prior
        self.sizes = off[out]
        self._quiet = len(out) - first - len(self.sizes)
        # First epoch of each burst.
        self._bursts = epochs[out & ~np.concatenate([[False], out[:-1]])]

    def to_come(
        self,
        measured: float,
        remaining: int,
        spread: float,
        numbers: tuple[FloatArray, FloatArray],
    ) -> FloatArray:
        """The cost they add to (or save in) the remaining epochs, in epochs on the level."""
        prior, seen = self._prior, len(self._bursts)
        (how_many, if_regular), (further, how_large, how_different) = numbers
        bursts = np.searchsorted(
            _beta_binomial(remaining, prior.bursts + seen, prior.epochs + self._quiet), how_many
        ).astype(np.float64)
        regular = remaining_spikes(self._bursts, measured, measured + remaining) if seen else None
        if regular is not None:
            share = min(IS_REGULAR + EACH_ADDS * (seen - 1), MOST_REGULAR)
            bursts = np.where(if_regular < share, regular, bursts)
        # Burst lengths are geometric; a sum of many is approximately normal.
        events = len(self.sizes)
        ends = (_GOES_ON_WEIGHT * (1 - prior.goes_on) + seen) / (_GOES_ON_WEIGHT + events)
        mean_further = bursts * (1 - ends) / ends
        further = mean_further + np.sqrt(mean_further / ends) * further
        epochs = np.minimum(bursts + np.maximum(further, 0.0), remaining)
        # Sizes are lognormal; again, a sum of many is approximately normal.
        usual = prior.size * (spread if prior.is_relative else 1.0)
        weight = _SIZE_WEIGHT + events
        center = _SIZE_WEIGHT * math.log(usual) + float(np.log(self.sizes).sum())
        size = np.exp((center + prior.spread * math.sqrt(weight) * how_large) / weight)
        mean = size * math.exp(prior.spread**2 / 2)
        deviation = mean * np.sqrt(epochs * math.expm1(prior.spread**2))
        total: FloatArray = np.maximum(epochs * mean + deviation * how_different, 0.0)
        return total


def are_equal_times(durations_s: FloatArray) -> bool:
    """Whether rows are equal times, cut from a log of power, and not epochs."""
    if len(durations_s) < MIN_EPOCHS or not (durations_s > 0).all():
        return False
    return float(np.ptp(durations_s)) <= _EQUAL * float(durations_s.max())


def _beta_binomial(number: int, successes: float, failures: float) -> FloatArray:
    """Cumulative distribution of the number of successes from 0 on, of shape (number,).

    Their rate is beta-distributed. Each probability is computed from the previous one.
    """
    k = np.arange(number)
    ratio = (number - k) * (successes + k) / ((k + 1) * (failures + number - k - 1))
    first = betaln(successes, failures + number) - betaln(successes, failures)
    log_probability = first + np.concatenate([[0.0], np.cumsum(np.log(ratio[:-1]))])
    cumulative: FloatArray = np.cumsum(np.exp(log_probability))
    return cumulative


def _first_of_level(is_usual: Flags, start: int) -> int:
    """The first epoch since which most epochs lie on the level that begins at `start`.

    The level must have existed there already: transitional epochs do not recur.
    """
    shares = np.cumsum(is_usual[::-1])[::-1] / np.arange(len(is_usual), 0, -1)
    begins = is_usual[:-2] & is_usual[1:-1] & is_usual[2:]
    earlier = np.flatnonzero(begins[:start] & (shares[: len(begins)][:start] >= _SAME_LEVEL))
    return int(earlier[0]) if len(earlier) else start
