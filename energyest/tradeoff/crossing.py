"""From which complexity on the other of two GPUs is the cheaper one, with Fieller's interval."""

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
    16, 1954). With three points or more, their deviations from the line give its variance. Two lie
    on their line, and its variance comes from the variances of the points.

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


def gpu_crossing(
    x: FloatArray,
    ratio: FloatArray,
    variance: FloatArray,
    pair: tuple[str, str],
    confidence: float,
) -> dict[str, object]:
    """Where the other GPU becomes the cheaper one, or why that cannot be said.

    Args:
        x: logarithm of the models' FLOPs per sample, shape (models,).
        ratio: logarithm of the smaller GPU's energy over the larger one's, shape (models,).
        variance: of `ratio` between repetitions; NaN where these are too few.
        pair: names of the smaller and the larger GPU.
        confidence: probability for the interval.

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
    """Why no crossing is looked for; empty where one is."""
    smaller, larger = pair
    if len(x) < 2 or np.ptp(x) == 0:
        return (
            f"{len(set(x))} complexity was measured on both: two models of different FLOPs per "
            "sample are needed"
        )
    if (ratio < 0).all() or (ratio > 0).all():
        first, last = np.exp(-ratio[[np.argmin(x), np.argmax(x)]])
        return (
            f"{larger if ratio[0] > 0 else smaller} is the cheaper one for all models measured on "
            f"both ({larger} needs {first:.3g} times the energy of {smaller} for the simplest, "
            f"{last:.3g} times for the most complex)"
        )
    return ""


def _why_no_crossing(found: Crossing, x: FloatArray) -> str:
    """Why the line's crossing is not to be trusted; empty where it is."""
    if not x.min() <= found.x <= x.max():
        return (
            "one is the cheaper for some of the models and the other for others, but not by their "
            "complexity"
        )
    if len(x) == 2:
        return ""
    if math.isinf(found.upper):
        return (
            "the models deviate too much from a common line to say where it crosses: measure more "
            "of them on both"
        )
    if all(map(math.isnan, _measured_ends(found, x).values())):
        return "both ends of its interval lie outside of the complexities measured on both"
    return ""


def _measured_ends(found: Crossing, x: FloatArray) -> dict[str, float]:
    """Ends of the interval in FLOPs; NaN where they lie outside of what was measured."""
    return {
        "lower": math.exp(found.lower) if found.lower >= x.min() else math.nan,
        "upper": math.exp(found.upper) if found.upper <= x.max() else math.nan,
    }


def _reservations(ends: dict[str, float], x: FloatArray, variance: FloatArray) -> list[str]:
    """What the interval of a crossing leaves open."""
    if len(x) == 2 and np.isnan(variance).any():
        return ["too few repetitions of these two models for an interval"]
    beside = "between two models, the interval says nothing on how others deviate"
    return [
        *([beside] if len(x) == 2 else []),
        *(
            f"the {end} end lies outside of the complexities measured on both"
            for end, value in ends.items()
            if math.isnan(value)
        ),
    ]
