"""Where a straight line crosses zero, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from energyest.arrays import FloatArray


@dataclass(frozen=True)
class Crossing:
    """A line through points, and where it is 0.

    Attributes:
        x: where the line is 0; NaN for a level line.
        lower: lower end of the interval; −inf, with `upper` inf, where nothing bounds it.
        upper: upper end.
        slope: of the line.
    """

    x: float
    lower: float
    upper: float
    slope: float


def line_crossing(
    x: FloatArray, y: FloatArray, variance: FloatArray, confidence: float
) -> Crossing:
    """Fit a line by least squares and find where it crosses zero, with Fieller's interval.

    The interval holds every x where the line's own interval holds 0 (E. Fieller, J. R. Stat. Soc. B
    16, 1954). Of three points or more, what they deviate from the line tells its variance; two lie
    on their line, and only what is known of each point's own variance tells it.

    Args:
        x: shape (points,), not all equal.
        y: shape (points,).
        variance: of each `y`, shape (points,); used for two points alone.
        confidence: probability for the interval.
    """
    design = np.stack([np.ones_like(x), x], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    solve = inverse @ design.T
    intercept, slope = solve @ y
    if len(x) > 2:
        left = y - design @ [intercept, slope]
        covariance = inverse * float(left @ left) / (len(x) - 2)
        quantile = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2))
    else:
        covariance = solve @ np.diag(variance) @ solve.T
        quantile = float(stats.norm.ppf((1 + confidence) / 2))
    at = -intercept / slope if slope else math.nan
    # (intercept + slope·x)² ≤ q² (v00 + 2 v01 x + v11 x²): bounded where the slope is not 0.
    a = slope**2 - quantile**2 * covariance[1, 1]
    b = intercept * slope - quantile**2 * covariance[0, 1]
    c = intercept**2 - quantile**2 * covariance[0, 0]
    inside = b**2 - a * c
    if not (a > 0 and inside >= 0):
        return Crossing(at, -math.inf, math.inf, float(slope))
    half = math.sqrt(inside) / a
    return Crossing(at, -b / a - half, -b / a + half, float(slope))
