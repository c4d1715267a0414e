"""A slow, plain version of `energyest.estimators.step.changepoint`, to compare the fast one with.

Every epoch may be the first of the level, nothing is vectorised, and the best division of what
came before is found by trying all of them, last level first.
"""

from __future__ import annotations

import itertools
import math
import statistics
from functools import cache

from energyest.estimators.step.changepoint import (
    CHANGE_RATE,
    FAR,
    NEARNESS,
    NOISE,
    NOISE_EPOCHS,
    SINGLE,
)


def weights(values: list[float]) -> list[float]:
    """The probability of each position to be the first of the present level."""
    largest = max(values)
    logs = [math.log(max(value / largest, 1e-6)) if largest > 0 else 0.0 for value in values]
    middle = statistics.median(logs)
    logs = [value - middle for value in logs]
    size = len(logs)
    noise = expected_noise(logs)

    @cache
    def one_level(begin: int, end: int) -> float:
        return log_evidence(logs[begin:end], noise)

    @cache
    def best_before(end: int) -> float:
        if end == 0:
            return 0.0
        return max(
            best_before(begin) + one_level(begin, end) + log_ended(end - begin)
            for begin in range(end)
        )

    totals = [
        best_before(begin) + one_level(begin, size) + log_ongoing(size - begin)
        for begin in range(size)
    ]
    chances = [math.exp(total - max(totals)) for total in totals]
    return [chance / sum(chances) for chance in chances]


def expected_noise(logs: list[float]) -> float:
    """NOISE, or the standard deviation by the median difference of neighbours, if that is more."""
    jumps = sorted(abs(b - a) for a, b in itertools.pairwise(logs))
    if len(jumps) < 3:
        return NOISE
    return max(NOISE, 1.4826 * statistics.median_low(jumps) / math.sqrt(2))


def log_evidence(values: list[float], noise: float = NOISE) -> float:
    """Log of the probability density of the values if they are one level.

    The noise variance is inverse-gamma with shape a = NOISE_EPOCHS / 2 and scale b = a noise^2.
    Near: the level is normal around 0 with the variance of the noise over NEARNESS. Far: the level
    is anywhere, with density 1.
    """
    n = len(values)
    a = NOISE_EPOCHS / 2
    b = a * noise**2
    mean = sum(values) / n
    around_mean = sum((value - mean) ** 2 for value in values)
    around_zero = sum(value**2 for value in values)

    near_squares = around_zero - sum(values) ** 2 / (n + NEARNESS)
    near = (
        math.lgamma(a + n / 2)
        - math.lgamma(a)
        + a * math.log(b)
        - (a + n / 2) * math.log(b + near_squares / 2)
        - n / 2 * math.log(2 * math.pi)
        + 0.5 * math.log(NEARNESS / (NEARNESS + n))
    )
    far = (
        math.lgamma(a + (n - 1) / 2)
        - math.lgamma(a)
        + a * math.log(b)
        - (a + (n - 1) / 2) * math.log(b + around_mean / 2)
        - (n - 1) / 2 * math.log(2 * math.pi)
        - 0.5 * math.log(n)
    )
    return math.log(
        (1 - FAR) * math.exp(near - max(near, far)) + FAR * math.exp(far - max(near, far))
    ) + max(near, far)


def log_ended(length: int) -> float:
    """Log probability that a level that has ended had this length."""
    lasted = (1 - SINGLE) * CHANGE_RATE * (1 - CHANGE_RATE) ** (length - 1)
    return math.log(lasted + SINGLE * (length == 1))


def log_ongoing(length: int) -> float:
    """Log probability that a level has at least this length."""
    if length == 1:
        return 0.0
    return math.log((1 - SINGLE) * (1 - CHANGE_RATE) ** (length - 1))
