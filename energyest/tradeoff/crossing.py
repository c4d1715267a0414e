"""The complexity above which the other of two GPUs is cheaper, with Fieller's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from energyest.arrays import FloatArray


@dataclass(frozen=True)
class Crossing:
    """The zero of a line fitted through points.

    Attributes:
        x: where the line is 0; NaN for a horizontal line.
        lower: lower end of the interval; −inf, with `upper` inf, if the interval is unbounded.
        upper: upper end of the interval.
        slope: slope of the line.
    """

    x: float
    lower: float
    upper: float
    slope: float


def line_crossing(
    x: FloatArray, y: FloatArray, variance: FloatArray, confidence: float
) -> Crossing:
    """Fit a line by least squares and find where it crosses zero, with Fieller's interval.

    The interval contains every x at which the confidence interval of the line contains 0
    (E. Fieller, J. R. Stat. Soc. B 16, 1954). With three points or more, the variance of the line
    comes from their deviations from it. Two points lie on the line, whose variance then comes from
    the variances of the points.

    Args:
        x: shape (points,), not all equal.
        y: shape (points,).
        variance: variance of each `y`, shape (points,); used only for two points.
        confidence: confidence of the interval.
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
    # (intercept + slope·x)² ≤ q² (v00 + 2 v01 x + v11 x²): bounded if the slope differs from 0.
    a = slope**2 - quantile**2 * covariance[1, 1]
    b = intercept * slope - quantile**2 * covariance[0, 1]
    c = intercept**2 - quantile**2 * covariance[0, 0]
    inside = b**2 - a * c
    if not (a > 0 and inside >= 0):
        return Crossing(at, -math.inf, math.inf, float(slope))
    half = math.sqrt(inside) / a
    return Crossing(at, -b / a - half, -b / a + half, float(slope))


def gpu_crossing(
    x: FloatArray,
    ratio: FloatArray,
    variance: FloatArray,
    pair: tuple[str, str],
    confidence: float,
) -> dict[str, object]:
    """Where the other GPU becomes cheaper, or why that is unknown.

    Args:
        x: logarithm of the models' FLOPs per sample, shape (models,).
        ratio: logarithm of the energy on the smaller GPU ÷ the energy on the larger, shape
            (models,).
        variance: variance of `ratio` between repetitions; NaN if there are too few.
        pair: names of the smaller and the larger GPU.
        confidence: confidence of the interval.

    Returns:
        The columns `crossing` to `reason` of `GpuMatch.crossings`.
    """
    reason = _why_no_line(x, ratio, pair)
    sides, ends, at = ("", ""), {"lower": math.nan, "upper": math.nan}, math.nan
    if not reason:
        found = line_crossing(x, ratio, variance, confidence)
        reason = _why_no_crossing(found, x)
        if not reason:
            at, ends = math.exp(found.x), _measured_ends(found, x)
            sides = pair if found.slope > 0 else pair[::-1]
            reason = "; ".join(_reservations(ends, x, variance))
    return {
        "crossing": at,
        "crossing_lower": ends["lower"],
        "crossing_upper": ends["upper"],
        "cheaper_below": sides[0],
        "cheaper_above": sides[1],
        "covered_from": math.exp(x.min()) if len(x) else math.nan,
        "covered_to": math.exp(x.max()) if len(x) else math.nan,
        "reason": reason,
    }


def _why_no_line(x: FloatArray, ratio: FloatArray, pair: tuple[str, str]) -> str:
    """Why no crossing can be computed; empty if it can."""
    smaller, larger = pair
    if len(x) < 2 or np.ptp(x) == 0:
        return (
            f"only {len(set(x))} complexity was measured on both: two models with different FLOPs "
            "per sample are needed"
        )
    if (ratio < 0).all() or (ratio > 0).all():
        first, last = np.exp(-ratio[[np.argmin(x), np.argmax(x)]])
        return (
            f"{larger if ratio[0] > 0 else smaller} is cheaper for all models measured on both "
            f"({larger} needs {first:.3g} times the energy of {smaller} for the simplest model, "
            f"{last:.3g} times for the most complex)"
        )
    return ""


def _why_no_crossing(found: Crossing, x: FloatArray) -> str:
    """Why the crossing of the line cannot be trusted; empty if it can."""
    if not x.min() <= found.x <= x.max():
        return (
            "each is cheaper for some of the models, but that does not depend on their complexity"
        )
    if len(x) == 2:
        return ""
    if math.isinf(found.upper):
        return (
            "the models deviate too much from a common line to say where it crosses: measure more "
            "models on both"
        )
    if all(map(math.isnan, _measured_ends(found, x).values())):
        return "both ends of its interval lie outside the complexities measured on both"
    return ""


def _measured_ends(found: Crossing, x: FloatArray) -> dict[str, float]:
    """Ends of the interval in FLOPs; NaN where they lie outside the measured range."""
    return {
        "lower": math.exp(found.lower) if found.lower >= x.min() else math.nan,
        "upper": math.exp(found.upper) if found.upper <= x.max() else math.nan,
    }


def _reservations(ends: dict[str, float], x: FloatArray, variance: FloatArray) -> list[str]:
    """Limitations of the interval of a crossing."""
    if len(x) == 2 and np.isnan(variance).any():
        return ["there are too few repetitions of these two models for an interval"]
    beside = "with two models, the interval does not show how others would deviate"
    return [
        *([beside] if len(x) == 2 else []),
        *(
            f"the {end} end lies outside the complexities measured on both"
            for end, value in ends.items()
            if math.isnan(value)
        ),
    ]
