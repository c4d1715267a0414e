"""How far off a projection may be: the spread of the errors of past projections."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from energyest.arrays import FloatArray
from energyest.estimators.step.disturbances import DRAWS, Disturbances, chance, way_back
from energyest.estimators.step.level import Level, fixed_level

# Weights of what is known about the error, and the heaviness of its tails: chosen by
# `benchmarks/evidence/step_calibration.py`, which judges them on families of runs left out.
#: Of the uncertainty of the level, the noise of the epochs to come, and the drift.
WEIGHTS = (1.2, 0.06, 0.02)
#: Error that a level of one epoch does not show yet.
UNSEEN = 0.0055
#: Degrees of freedom of the t-distribution.
TAILS = 2.3
# An end of an interval is told by draws if at least half as many lie beyond it.
_LEAST_BEYOND = 20


def error_of(level: Level, remaining: float) -> float:
    """Scale of the relative error of `level` as the mean of the epochs to come.

    The variance is the weighted sum of `parts_of`.

    Args:
        level: the level that is projected.
        remaining: number of epochs to come, more than 0.
    """
    weights = (*WEIGHTS, UNSEEN**2)
    parts = parts_of(level, remaining)
    return math.sqrt(sum(w * part for w, part in zip(weights, parts, strict=True)))


def parts_of(level: Level, remaining: float) -> tuple[float, float, float, float]:
    """What the variance of the relative error of `level` is made of.

    - the uncertainty of the level itself: when it began, and how well so few epochs tell its mean;
    - the noise of the epochs to come;
    - the drift of the level so far. That of a random walk is expected to go on: the mean of r more
      epochs lies off that of n by 1 + r / n times the variance of the drift within the n;
    - what no run shows ahead, such as a GPU that warms up: the less, the longer a level has lasted.
    """
    further = 1 + remaining / level.epochs
    noise = level.spread / max(remaining, 1.0)
    return level.uncertainty, noise, further * level.drift**2, 1 / level.epochs


def quantile(confidence: float) -> float:
    """Half-width of the interval that holds that share of errors of scale 1."""
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
    to_come: tuple[int, float],
    *,
    further: float = 0.0,
) -> FloatArray:
    """Relative errors of a mean of the epochs of a level, as the mean of those to come.

    Args:
        mean: the mean, above 0.
        values: shape (values,), what each epoch so far has cost, finite.
        start: position of the level's first epoch.
        epochs: shape (values,), which epoch of the training each of them is.
        to_come: the first epoch to come, and where the training ends.
        further: scale of a relative error that comes from elsewhere.

    Returns:
        Shape (DRAWS,).
    """
    number = to_come[1] - to_come[0]
    disturbances = Disturbances(values, start, epochs)
    calm = fixed_level(disturbances.calm, start, len(values))
    extra = disturbances.to_come(*to_come)
    likely, more = way_back(values, start)
    futures = 1 + extra / number + (chance().way_back < likely) * more
    error = math.hypot(error_of(calm, number), further)
    off: FloatArray = (futures + error * errors()) * calm.mean / mean - 1
    return off


def ends_around(
    total: float, off: FloatArray, *, least: float, confidence: float
) -> tuple[float, float]:
    """The interval that holds that share of what may be, with as much below it as above.

    Where what is expected is no part of that, it reaches to it.

    Args:
        total: what is expected, which it holds as well.
        off: shape (DRAWS,), by how much what may be is above `total`, in its unit.
        least: what is known to have been used, below which it does not reach.
        confidence: the share. Where so few draws do not tell its ends, those of a smaller share are
            stretched as those of the t-distribution are.
    """
    told = min(confidence, 1 - _LEAST_BEYOND / DRAWS)
    lower, upper = np.quantile(off, [(1 - told) / 2, (1 + told) / 2])
    stretch = quantile(confidence) / quantile(told) if told < confidence else 1.0
    return (
        max(total + min(float(lower), 0.0) * stretch, min(least, total)),
        total + max(float(upper), 0.0) * stretch,
    )
