"""Since when has a sequence been on its present level? The probability of every answer.

Bayesian, because the answer is uncertain just when it matters: a few epochs after a change, one
more or one less decides over the level. A mean over all answers, weighted by their probability, is
about as accurate as the mean since the most probable one (`benchmarks/evidence/step_accuracy.py`
has both); what the others add is how sure it is, which the interval needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from energyest.arrays import FloatArray

# What is expected before a run is seen, in terms of the logarithm of energy: relative noise and
# relative changes. Round numbers from the middle of where the accuracy is flat:
# `benchmarks/evidence/step_calibration.py` prints it for half and for twice each of them.
#: The spread of epochs around their level, unless a run jumps more from epoch to epoch, ...
NOISE = 0.015
#: ... which counts as much as this many epochs that were seen.
NOISE_EPOCHS = 2.0
#: The chance that the level changes after an epoch.
CHANGE_RATE = 0.003
#: The share of levels that last one epoch: a cold start, a compilation, a change within an epoch.
SINGLE = 0.5
#: The share of changes that may go anywhere, as opposed to near the usual level of the run.
FAR = 0.2
#: How near: the noise divided by the square root of this.
NEARNESS = 0.05

# Every epoch may be the first of the level among so many last ones; before them, those at the
# largest jumps, and so many in each doubling of the distance: the start of a long level in noise
# need not be known to the epoch.
_DENSE = 24
_JUMPS = 8
_PER_OCTAVE = 6
# So many differences of neighbours say something of the noise.
_JUMPS_TO_JUDGE = 3


@dataclass(frozen=True)
class LastChange:
    """What is known about the beginning of the present level.

    Attributes:
        size: number of values.
        starts: shape (candidates,), ascending positions at which the level may begin.
        weights: shape (candidates,), their probabilities; sum 1.
        previous: shape (candidates,), where the level before that position begins, if the level
            begins there; 0 for the first.
    """

    size: int
    starts: NDArray[np.intp]
    weights: FloatArray
    previous: NDArray[np.intp]

    @property
    def ages(self) -> NDArray[np.intp]:
        """Number of values since the level before ended, shape (candidates,).

        A single value that leads over to the level, such as a cold epoch, counts.
        """
        single = (self.starts > 0) & (self.starts - self.previous == 1)
        ages: NDArray[np.intp] = self.size - self.starts + single
        return ages

    def best(self, least_age: int) -> int:
        """Index of the most probable candidate.

        Where the level is rather older than `least_age` than not, it is the most probable one of
        those: many old answers that differ little outweigh a young one.
        """
        old = self.ages >= least_age
        if self.weights[old].sum() >= 0.5:
            return int(np.argmax(np.where(old, self.weights, 0.0)))
        return int(np.argmax(self.weights))

    def shares(self) -> FloatArray:
        """Shape (size,), the weight of each value in the mean of the level to come; sum 1."""
        size = self.size
        each = np.zeros(size)
        each[self.starts] = self.weights / (size - self.starts)
        shares = np.cumsum(each)
        before = int(self.previous[-1])
        if size > 1 and self.starts[-1] == size - 1 and size - 1 - before > 1:
            # A last value that stands alone may stay alone: what was before it then comes back.
            returns = SINGLE * float(self.weights[-1])
            shares[-1] -= returns
            shares[before:-1] += returns / (size - 1 - before)
        return shares


def last_change(values: FloatArray) -> LastChange:
    """When the present level of a sequence may have begun.

    A sequence is taken to consist of levels, each with its own noise (normal, of unknown variance),
    whose lengths are geometric or, often, one. The probability of a start is that of the levels
    before it, divided in the most probable way, times that of what follows being one level; both
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
    # Row: the candidate with which the stretch ends; column: that with which it begins.
    stretches = np.empty((number, number))
    stretches[end, begin] = one_level + whole[length]
    # The best division of what comes before each candidate, and where its last level begins.
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
    """Positions at which the level may begin: all of the last ones, fewer before them."""
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
    """The spread to expect: that of the run, by its jumps, of which few are changes of level."""
    jumps = np.sort(np.abs(np.diff(logs)))
    if len(jumps) < _JUMPS_TO_JUDGE:
        return NOISE
    # 1.4826 turns a median into a standard deviation, sqrt(2) one of differences into one of
    # values; the lower of two middle ones, so that a cold epoch among four does not count.
    spread = 1.4826 * float(jumps[(len(jumps) - 1) // 2]) / math.sqrt(2)
    return max(NOISE, spread)


@lru_cache(maxsize=64)
def _pairs(number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of candidates, (end, begin) with begin <= end, the last ends last."""
    end, begin = np.tril_indices(number)
    return end, begin


def _evidence(
    logs: FloatArray, begin: NDArray[np.intp], length: NDArray[np.intp], noise: float
) -> FloatArray:
    """Log probability of each stretch of values if it is one level.

    Args:
        logs: the values.
        begin: shape (stretches,), where each begins.
        length: shape (stretches,), how many values it has; at least 1.
        noise: the spread to expect.
    """
    sums = np.concatenate([[0.0], np.cumsum(logs)])
    squares = np.concatenate([[0.0], np.cumsum(logs**2)])
    total = sums[begin + length] - sums[begin]
    square = squares[begin + length] - squares[begin]
    shape = NOISE_EPOCHS / 2
    scale = shape * noise**2
    n = np.arange(len(logs) + 1, dtype=np.float64)
    n[0] = 1  # of no stretch; keeps the logarithms finite
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
    """Log probability of each length of a level that has ended, and of one that goes on."""
    more = np.arange(size + 1, dtype=np.float64) - 1
    lasting = math.log1p(-SINGLE) + math.log1p(-CHANGE_RATE) * more
    ended = lasting + math.log(CHANGE_RATE)
    ended[1] = np.logaddexp(ended[1], math.log(SINGLE))
    ongoing = lasting.copy()
    ongoing[1] = 0.0
    return ended, ongoing
