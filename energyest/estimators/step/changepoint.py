"""The start of the present level of a sequence: a probability for every possible position.

The method is Bayesian because the start is most uncertain when it matters most: a few epochs after
a change, one epoch more or less affects the level noticeably. The mean over all possible starts,
weighted by their probability, is about as accurate as the mean since the most probable one
(`benchmarks/evidence/step_accuracy.py` has both), but it also yields the uncertainty, which the
interval needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from energyest.arrays import FloatArray

# Priors, in terms of the logarithm of energy: relative noise and relative changes. They are round
# numbers from the middle of the range in which accuracy is flat:
# `benchmarks/evidence/step_calibration.py` prints it for half and for twice each of them.
#: Standard deviation of epochs around their level, unless the run's own jumps are larger.
NOISE = 0.015
#: Weight of this prior, in epochs.
NOISE_EPOCHS = 2.0
#: Probability that the level changes after an epoch.
CHANGE_RATE = 0.003
#: Share of levels that last one epoch: a cold start, a compilation, a change within an epoch.
SINGLE = 0.5
#: Share of changes that may lead anywhere, as opposed to near the usual level of the run.
FAR = 0.2
#: How near: standard deviation is the noise divided by the square root of this.
NEARNESS = 0.05

# Candidates for the first epoch of the level: each of the last `_DENSE` epochs; before these, the
# `_JUMPS` largest jumps and `_PER_OCTAVE` epochs per doubling of the distance, because the start of
# a long level need not be known exactly.
_DENSE = 24
_JUMPS = 8
_PER_OCTAVE = 6
# Least number of differences of neighbours needed to estimate the noise.
_JUMPS_TO_JUDGE = 3


@dataclass(frozen=True)
class LastChange:
    """The probability distribution of the start of the present level.

    Attributes:
        size: number of values.
        starts: shape (candidates,), ascending positions at which the level may begin.
        weights: shape (candidates,), their probabilities; they sum to 1.
        previous: shape (candidates,), start of the previous level, given that the present level
            begins at the candidate; 0 for the first.
    """

    size: int
    starts: NDArray[np.intp]
    weights: FloatArray
    previous: NDArray[np.intp]

    @property
    def ages(self) -> NDArray[np.intp]:
        """Number of values since the previous level ended, shape (candidates,).

        A single transitional value, such as a cold epoch, is included.
        """
        single = (self.starts > 0) & (self.starts - self.previous == 1)
        ages: NDArray[np.intp] = self.size - self.starts + single
        return ages

    def best(self, least_age: int) -> int:
        """Index of the most probable candidate.

        If the level is more likely older than `least_age` than not, the most probable of the older
        candidates is returned: many similar old candidates together outweigh a single young one.
        """
        old = self.ages >= least_age
        if self.weights[old].sum() >= 0.5:
            return int(np.argmax(np.where(old, self.weights, 0.0)))
        return int(np.argmax(self.weights))

    def shares(self) -> FloatArray:
        """Weight of each value in the mean of the future level, shape (size,); sums to 1."""
        size = self.size
        each = np.zeros(size)
        each[self.starts] = self.weights / (size - self.starts)
        shares = np.cumsum(each)
        before = int(self.previous[-1])
        if size > 1 and self.starts[-1] == size - 1 and size - 1 - before > 1:
            # A single last value may be exceptional: the previous level then returns.
            returns = SINGLE * float(self.weights[-1])
            shares[-1] -= returns
            shares[before:-1] += returns / (size - 1 - before)
        return shares


def last_change(values: FloatArray) -> LastChange:
    """Find when the present level of a sequence may have begun.

    A sequence is modelled as levels, each with its own normal noise of unknown variance, whose
    lengths are geometric or, often, one. The probability of a start is the probability of the most
    likely division into levels before it, times the probability that the rest is one level. Both
    have a closed form (a normal-inverse-gamma prior; Barry and Hartigan, "A Bayesian analysis for
    change point problems", JASA 88, 1993; Adams and MacKay, arXiv 0710.3742).

    Args:
        values: shape (values,), at least one; finite and not negative, for example joules.
    """
    size = len(values)
    largest = float(values.max())
    # Logarithms: changes are ratios, and the scale does not matter. A zero counts as tiny.
    logs = np.log(np.maximum(values / largest, 1e-6)) if largest > 0 else np.zeros(size)
    logs = logs - np.median(logs)
    starts = _candidates(logs)
    number = len(starts)
    edges = np.append(starts, size)
    end, begin = _pairs(number)
    length = edges[end + 1] - edges[begin]
    one_level = _evidence(logs, edges[begin], length, _noise(logs))
    whole, ongoing = _length_priors(size)
    # Row: the last candidate of the segment; column: the first.
    stretches = np.empty((number, number))
    stretches[end, begin] = one_level + whole[length]
    # The best division of the values before each candidate, and the start of its last level.
    before = np.zeros(number)
    previous = np.zeros(number, dtype=np.intp)
    for j in range(1, number):
        ways = before[:j] + stretches[j - 1, :j]
        previous[j] = best = int(ways.argmax())
        before[j] = ways[best]
    total = before + one_level[-number:] + ongoing[length[-number:]]
    weights = np.exp(total - total.max())
    before_it = np.where(starts > 0, starts[previous], 0)
    return LastChange(size, starts, weights / weights.sum(), before_it)


def _candidates(logs: FloatArray) -> NDArray[np.intp]:
    """Positions at which the level may begin: all recent ones, and fewer before them."""
    size = len(logs)
    if size <= _DENSE + _JUMPS:
        return np.arange(size)
    octaves = math.ceil(math.log2(size / _DENSE))
    distances = _DENSE * 2 ** (np.arange(1, octaves * _PER_OCTAVE) / _PER_OCTAVE)
    jumps = np.argpartition(np.abs(np.diff(logs[: size - _DENSE])), -_JUMPS)[-_JUMPS:] + 1
    early = np.concatenate([[0], size - distances.astype(np.intp), jumps])
    early = np.unique(early[(early >= 0) & (early < size - _DENSE)])
    return np.concatenate([early, np.arange(size - _DENSE, size)]).astype(np.intp)


def _noise(logs: FloatArray) -> float:
    """The expected noise, from the jumps of the run, few of which are changes of level."""
    jumps = np.sort(np.abs(np.diff(logs)))
    if len(jumps) < _JUMPS_TO_JUDGE:
        return NOISE
    # The factor 1.4826 turns a median into a standard deviation; sqrt(2), one of differences into
    # one of values. The lower of two middle values is used, so that one cold epoch among four does
    # not count.
    spread = 1.4826 * float(jumps[(len(jumps) - 1) // 2]) / math.sqrt(2)
    return max(NOISE, spread)


@lru_cache(maxsize=64)
def _pairs(number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of candidates (end, begin) with begin <= end, sorted by end."""
    end, begin = np.tril_indices(number)
    return end, begin


def _evidence(
    logs: FloatArray, begin: NDArray[np.intp], length: NDArray[np.intp], noise: float
) -> FloatArray:
    """Log probability of each segment of values, given that it is one level.

    Args:
        logs: the values.
        begin: shape (segments,), start of each segment.
        length: shape (segments,), number of values in each segment; at least 1.
        noise: expected noise.
    """
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    squares = np.concatenate([[0.0], np.cumsum(logs**2)])
    total = sums[begin + length] - sums[begin]
    square = squares[begin + length] - squares[begin]
    shape = NOISE_EPOCHS / 2
    scale = shape * noise**2
    n = np.arange(len(logs) + 1, dtype=np.float64)
    n[0] = 1  # unused; keeps the logarithms finite
    common = shape * math.log(scale) - gammaln(shape)
    near = (
        math.log(1 - FAR)
        + common
        + gammaln(shape + n / 2)
        - n / 2 * math.log(2 * math.pi)
        + 0.5 * np.log(NEARNESS / (NEARNESS + n))
    )
    far = (
        math.log(FAR)
        + common
        + gammaln(shape + (n - 1) / 2)
        - (n - 1) / 2 * math.log(2 * math.pi)
        - 0.5 * np.log(n)
    )
    # Rounding of the cumulative sums must not make a sum of squares negative.
    spread = scale + np.maximum(square - total**2 / length, 0.0) / 2
    shrunk = scale + np.maximum(square - total**2 / (length + NEARNESS), 0.0) / 2
    near_by = near[length] - (shape + length / 2) * np.log(shrunk)
    far_off = far[length] - (shape + (length - 1) / 2) * np.log(spread)
    evidence: FloatArray = np.logaddexp(near_by, far_off)
    return evidence


def _length_priors(size: int) -> tuple[FloatArray, FloatArray]:
    """Log probability of each length, for a level that has ended and for one that continues."""
    more = np.arange(size + 1, dtype=np.float64) - 1
    lasting = math.log1p(-SINGLE) + math.log1p(-CHANGE_RATE) * more
    ended = lasting + math.log(CHANGE_RATE)
    ended[1] = np.logaddexp(ended[1], math.log(SINGLE))
    ongoing = lasting.copy()
    ongoing[1] = 0.0
    return ended, ongoing
