"""How far off a projection may be: the spread of the errors of past projections."""

from __future__ import annotations

import math

from scipy.special import stdtrit

from energyest.estimators.level import Level

# Weights of what is known about the error, and the heaviness of its tails: fitted to the errors of
# projections of real trainings, groups of which were left out in turn, by
# `benchmarks/step_calibration.py`.
#: Of the uncertainty of the level, the noise of the epochs to come, and the drift.
WEIGHTS = (0.871, 0.682, 0.311)
#: Error that a level of one epoch does not show yet.
UNSEEN = 0.01067
#: Degrees of freedom of the t-distribution.
TAILS = 2.684


def error_of(level: Level, remaining: float) -> float:
    """Scale of the relative error of `level` as the mean of the epochs to come.

    It grows with the uncertainty of the level itself (when it began, and how well so few epochs
    tell its mean), with the noise of the epochs to come, and with the drift of the level so far. A
    part that no run shows ahead, such as a GPU that warms up or a slow change of speed, is the
    smaller the longer the level has lasted.

    Args:
        level: the level that is projected.
        remaining: number of epochs to come, more than 0.
    """
    noise = level.spread / max(remaining, 1.0)
    parts = (level.uncertainty, noise, level.drift**2, 1 / level.epochs)
    weights = (*WEIGHTS, UNSEEN**2)
    return math.sqrt(math.fsum(w * part for w, part in zip(weights, parts, strict=True)))


def quantile(confidence: float) -> float:
    """Half-width of the interval that holds that share of errors of scale 1."""
    return float(stdtrit(TAILS, (1 + confidence) / 2))
