"""The uncertainty of a projection, calibrated with errors of past projections."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from energyest.arrays import FloatArray
from energyest.estimators.step.disturbances import DRAWS, Disturbances, chance
from energyest.estimators.step.level import Level, fixed_level
from energyest.estimators.step.young_level import other_level

# Weights of the parts of the error, and the heaviness of its tails, chosen with
# `benchmarks/evidence/step_calibration.py`, which validates them on left-out families of runs.
#: Weights of the uncertainty of the level, the noise of the remaining epochs, and the drift.
WEIGHTS = (0.9, 0.06, 0.03)
#: Error of a level of one epoch that the run does not show yet.
UNSEEN = 0.0075
#: Degrees of freedom of the t-distribution.
TAILS = 2.2
# The ends of an interval are taken from draws if at least half this many lie beyond each.
_LEAST_BEYOND = 20


def error_of(level: Level, remaining: float) -> float:
    """Scale of the relative error of `level` as an estimate of the mean of the remaining epochs.

    The variance is the weighted sum of `parts_of`.

    Args:
        level: the level that is projected.
        remaining: number of remaining epochs, more than 0.
    """
    weights = (*WEIGHTS, UNSEEN**2)
    parts = parts_of(level, remaining)
    return math.sqrt(sum(w * part for w, part in zip(weights, parts, strict=True)))


def parts_of(level: Level, remaining: float) -> tuple[float, float, float, float]:
    """The parts of the variance of the relative error of `level`.

    - the uncertainty of the level itself: its start, and its mean over few epochs;
    - the noise of the remaining epochs;
    - the drift of the level so far, which is expected to continue like a random walk: the mean of r
      more epochs deviates from that of n by 1 + r / n times the variance of the drift within the n;
    - effects that a run does not show in advance, such as a GPU that warms up: the longer the level
      has lasted, the smaller.
    """
    further = 1 + remaining / level.epochs
    noise = level.spread / max(remaining, 1.0)
    return level.uncertainty, noise, further * level.drift**2, 1 / level.epochs


def quantile(confidence: float) -> float:
    """Half-width of the interval that holds the share `confidence` of errors of scale 1."""
    return float(stdtrit(TAILS, (1 + confidence) / 2))


@cache
def errors() -> FloatArray:
    """Errors of scale 1 in random order, of shape (DRAWS,)."""
    quantiles: FloatArray = stdtrit(TAILS, chance().error)
    return quantiles


def errors_of_mean(
    mean: float,
    values: FloatArray,
    start: int,
    epochs: NDArray[np.intp],
    to_come: tuple[float, float],
    *,
    further: float = 0.0,
    dip: int = 0,
) -> FloatArray:
    """Relative errors of the mean of a level as an estimate of the mean of the remaining epochs.

    Args:
        mean: the mean, above 0.
        values: shape (values,), cost of each epoch so far, finite.
        start: position of the level's first epoch.
        epochs: shape (values,), number of each of these epochs in the training.
        to_come: the first remaining epoch, and the end of the training.
        further: scale of an additional relative error.
        dip: number of values at the end that are not part of the level.

    Returns:
        Shape (DRAWS,).
    """
    number = to_come[1] - to_come[0]
    disturbances = Disturbances(values, start, epochs)
    calm = fixed_level(disturbances.calm, start, len(values) - dip)
    extra = disturbances.to_come(*to_come)
    other = other_level(values, start, dip)
    futures = 1 + extra / number + (chance().other_level < other.probability) * other.more
    error = math.hypot(error_of(calm, number), further)
    off: FloatArray = (futures + error * errors()) * calm.mean / mean - 1
    return off


def ends_around(
    total: float, off: FloatArray, *, least: float, confidence: float
) -> tuple[float, float]:
    """The central interval that holds the share `confidence` of the simulated futures.

    It is extended to include the expected value, if necessary.

    Args:
        total: the expected value.
        off: shape (DRAWS,), deviations of the futures from `total`, in the same unit.
        least: the amount already used, which is a lower bound of the interval.
        confidence: the share. If there are too few draws for it, the ends for a smaller share are
            scaled like those of the t-distribution.
    """
    told = min(confidence, 1 - _LEAST_BEYOND / DRAWS)
    lower, upper = np.quantile(off, [(1 - told) / 2, (1 + told) / 2])
    stretch = quantile(confidence) / quantile(told) if told < confidence else 1.0
    return (
        max(total + min(float(lower), 0.0) * stretch, min(least, total)),
        total + max(float(upper), 0.0) * stretch,
    )
