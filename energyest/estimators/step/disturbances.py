"""Epochs that stand out: stalls, which cost more than the level, and dips, which cost less."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, ndtri

from energyest.arrays import FloatArray
from energyest.estimators.step.spikes import remaining_spikes

Flags = NDArray[np.bool_]

# An epoch stands out if it is off the median by more than so many times the robust spread of the
# others, and by more than a share of the level. The spread of a handful of epochs can be too small.
_STANDS_OUT = 4.0
_LEAST_HEIGHT = 0.02
_LEAST_SPREAD = 0.003
# A median below this share of the largest value is what rounding has left of 0.
_LEAST_USUAL = 1e-9
# Where more of them do, they are no exception but the noise of the level.
_MOST = 1 / 3
# Epochs before a level belong to it, too, if so many of all since then lie on it: what lies between
# was a burst and no other level.
_SAME_LEVEL = 0.6
# A lower level that is this young and follows one that was longer than this many times its age is
# mostly a long dip. The probability that it ends falls with its age, by a factor of e in so many
# epochs.
_YOUNG, _LONGER, _LEAST_EPOCHS = 10, 1.5, 4
GOES_BACK, GOES_BACK_EPOCHS = 0.5, 4.0
_FORMER_EPOCHS, _FORMER_ALIKE = 12, 0.03
# What comes in more epochs than these is drawn for so many, and scaled.
_MOST_DRAWN = 2000
# Dips cannot save more than this share of what is to come.
_MOST_SAVED = 0.8


@dataclass(frozen=True)
class Prior:
    """What is expected of stalls or of dips before a training has shown any.

    The constants are chosen by `benchmarks/evidence/step_calibration.py`.

    Attributes:
        bursts: how many are taken to have been seen,
        epochs: in how many epochs.
        size: median of what an epoch costs more or less, as a share of the level or, if
            `is_relative`, of the spread of quiet epochs: loaders that vary stall for longer.
        spread: standard deviation of the size's logarithm.
        is_relative: see `size`.
    """

    bursts: float
    epochs: float
    size: float
    spread: float
    is_relative: bool


STALLS = Prior(bursts=0.95, epochs=4.8, size=1.9, spread=0.43, is_relative=True)
DIPS = Prior(bursts=0.16, epochs=5.5, size=0.165, spread=0.33, is_relative=False)
# Probability that an epoch of a burst is followed by another, with the weight of so many epochs.
GOES_ON, _GOES_ON_WEIGHT = 0.38, 3.0
# Probability that what has come once comes at regular intervals, as a validation does or a
# checkpoint; each further one that is in time adds to it.
IS_REGULAR, EACH_ADDS, MOST_REGULAR = 0.1, 0.25, 0.95
# The prior of sizes has the weight of so many epochs: trainings differ more than their stalls do.
_SIZE_WEIGHT = 0.2

#: How many futures are drawn.
DRAWS = 1000
_SEED = 0


class Chance(NamedTuple):
    """Random numbers, always the same ones: no projection changes without a reason.

    Each row is spread as evenly as so many numbers can be, in a random order.

    Attributes:
        stalls: shape (2, DRAWS), between 0 and 1; and shape (3, DRAWS), normal.
        dips: the same for dips.
        way_back: shape (DRAWS,), between 0 and 1.
        error: the same.
    """

    stalls: tuple[FloatArray, FloatArray]
    dips: tuple[FloatArray, FloatArray]
    way_back: FloatArray
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
    """The epochs of a level that stand out, and how many like them are to come.

    Args:
        values: shape (values,), what each epoch has cost, finite.
        start: position of the level's first epoch.
        epochs: shape (values,), which epoch of the training each of them is.

    Attributes:
        calm: shape (values,), `values` with the usual value in place of those that stand out.
        are_older: whether some came before what was taken for the beginning of the level.
    """

    def __init__(self, values: FloatArray, start: int, epochs: NDArray[np.intp]) -> None:
        on_level = values[start:]
        usual = float(np.median(on_level))
        off, out = np.zeros(len(values)), np.zeros(len(values), dtype=np.bool_)
        self._spread, first = _LEAST_SPREAD, start
        if usual > _LEAST_USUAL * float(np.max(np.abs(values))):
            off = values / usual - 1
            # The median absolute deviation, as the standard deviation of normal noise.
            self._spread = max(1.4826 * float(np.median(np.abs(off[start:]))), _LEAST_SPREAD)
            stands_out = np.abs(off) > max(_STANDS_OUT * self._spread, _LEAST_HEIGHT)
            if stands_out[start:].mean() <= _MOST:
                out, first = stands_out, _first_of_level(~stands_out, start)
        self.calm = values.copy()
        if out[start:].any():
            self.calm[start:][out[start:]] = np.median(on_level[~out[start:]])
        out[:first] = False
        self.are_older = bool(out[:start].any())
        self._stalls = _Kind(STALLS, out & (off > 0), off, epochs, first)
        self._dips = _Kind(DIPS, out & (off < 0), -off, epochs, first)

    def to_come(self, begin: int, end: float) -> FloatArray:
        """What the epochs to come cost beyond the level, in epochs on the level.

        Args:
            begin: the first of them.
            end: where the training ends; it may end within an epoch.

        Returns:
            Futures, of shape (DRAWS,).
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
    """Stalls or dips of a run.

    Args:
        prior: what is expected of them.
        out: shape (values,), which epochs are some.
        off: shape (values,), how much they cost more (of dips, less), as a share of the level.
        epochs: shape (values,), which epochs of the training these are.
        first: position of the first epoch that counts.
    """

    def __init__(
        self, prior: Prior, out: Flags, off: FloatArray, epochs: NDArray[np.intp], first: int
    ) -> None:
        self._prior = prior
        self.sizes = off[out]
        self._quiet = len(out) - first - len(self.sizes)
        # Where bursts begin.
        self._bursts = epochs[out & ~np.concatenate([[False], out[:-1]])]

    def to_come(
        self,
        measured: int,
        remaining: int,
        spread: float,
        numbers: tuple[FloatArray, FloatArray],
    ) -> FloatArray:
        """What they add to, or save of, the epochs to come, in epochs on the level."""
        prior, seen = self._prior, len(self._bursts)
        (how_many, if_regular), (further, how_large, how_different) = numbers
        bursts = np.searchsorted(
            _beta_binomial(remaining, prior.bursts + seen, prior.epochs + self._quiet), how_many
        ).astype(np.float64)
        regular = remaining_spikes(self._bursts, measured, measured + remaining) if seen else None
        if regular is not None:
            share = min(IS_REGULAR + EACH_ADDS * (seen - 1), MOST_REGULAR)
            bursts = np.where(if_regular < share, regular, bursts)
        # How often a burst goes on is geometric; a sum of many is close to normal.
        events = len(self.sizes)
        ends = (_GOES_ON_WEIGHT * (1 - GOES_ON) + seen) / (_GOES_ON_WEIGHT + events)
        mean_further = bursts * (1 - ends) / ends
        further = mean_further + np.sqrt(mean_further / ends) * further
        epochs = np.minimum(bursts + np.maximum(further, 0.0), remaining)
        # Sizes are lognormal; again, a sum of many is close to normal.
        usual = prior.size * (spread if prior.is_relative else 1.0)
        weight = _SIZE_WEIGHT + events
        center = _SIZE_WEIGHT * math.log(usual) + float(np.log(self.sizes).sum())
        size = np.exp((center + prior.spread * math.sqrt(weight) * how_large) / weight)
        mean = size * math.exp(prior.spread**2 / 2)
        deviation = mean * np.sqrt(epochs * math.expm1(prior.spread**2))
        total: FloatArray = np.maximum(epochs * mean + deviation * how_different, 0.0)
        return total


def _beta_binomial(number: int, successes: float, failures: float) -> FloatArray:
    """Probability of so many successes, at the most, of shape (number,), from 0 on.

    Their rate is beta-distributed. Each probability follows from the one before.
    """
    k = np.arange(number)
    ratio = (number - k) * (successes + k) / ((k + 1) * (failures + number - k - 1))
    first = betaln(successes, failures + number) - betaln(successes, failures)
    log_probability = first + np.concatenate([[0.0], np.cumsum(np.log(ratio[:-1]))])
    cumulative: FloatArray = np.cumsum(np.exp(log_probability))
    return cumulative


def _first_of_level(is_usual: Flags, start: int) -> int:
    """The first epoch since which most have been on the level that begins at `start`.

    It was a level already then: epochs that only lead over to one do not come again.
    """
    shares = np.cumsum(is_usual[::-1])[::-1] / np.arange(len(is_usual), 0, -1)
    begins = is_usual[:-2] & is_usual[1:-1] & is_usual[2:]
    earlier = np.flatnonzero(begins[:start] & (shares[: len(begins)][:start] >= _SAME_LEVEL))
    return int(earlier[0]) if len(earlier) else start


def way_back(values: FloatArray, start: int) -> tuple[float, float]:
    """How likely a training returns to the level before the one that begins at `start`.

    Args:
        values: shape (values,), what each epoch has cost.
        start: position of the level's first epoch.

    Returns:
        The probability, 0 unless the level is young and lower; and how much more an epoch on the
        level before has cost, as a share of one on this.
    """
    age, before = len(values) - start, values[:start]
    usual = float(np.median(values[start:]))
    if age > _YOUNG or not len(before) or not usual > 0:
        return 0.0, 0.0
    former = float(np.median(before[-_FORMER_EPOCHS:]))
    epochs = np.count_nonzero(np.abs(before - former) <= _FORMER_ALIKE * former)
    if epochs < max(_LEAST_EPOCHS, _LONGER * age) or usual > (1 - _LEAST_HEIGHT) * former:
        return 0.0, 0.0
    return min(GOES_BACK * math.exp((3 - age) / GOES_BACK_EPOCHS), 1.0), former / usual - 1
