"""How far off a projection may be: the spread of the errors of past projections."""

from __future__ import annotations

import math

from scipy.special import stdtrit

from energyest.estimators.step.level import Level

# Weights of what is known about the error, and the heaviness of its tails: fitted to the errors of
# projections of real trainings, groups of which were left out in turn, by
# `benchmarks/evidence/step_calibration.py`.
#: Of the uncertainty of the level, the noise of the epochs to come, and the drift.
WEIGHTS = (0.728, 1.028, 0.130)
#: Error that a level of one epoch does not show yet.
UNSEEN = 0.00791
#: Degrees of freedom of the t-distribution.
TAILS = 2.698


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
