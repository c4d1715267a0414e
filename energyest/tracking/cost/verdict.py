"""`judge`: whether a limit holds, from the energy or time spent and projected alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from energyest.estimate import Estimate
from energyest.tracking.cost.budget import Limit


class Level(IntEnum):
    """How certain it is that a limit is exceeded."""

    WITHIN = 0
    #: Part of what was spent is not measured.
    UNKNOWN = 1
    #: The upper end of the projection is above the limit.
    MAY = 2
    #: The lower end of the projection is above the limit, and the training is stable.
    WILL = 3
    #: The measured amount has reached the limit.
    SPENT = 4


@dataclass(frozen=True)
class Standing:
    """What a training has cost so far, and is projected to cost.

    Attributes:
        rows: number of epochs (or intervals) that have ended.
        energy_J: joules so far on all ranks, parts before a checkpoint included; NaN if a part is
            unknown.
        duration_s: seconds so far, likewise.
        projection: projection of the whole training; None without one.
        is_stable: whether the projection starts from a stable level.
    """

    rows: int
    energy_J: float
    duration_s: float
    projection: Estimate | None = None
    is_stable: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all planned rows have ended, so that there is nothing left to stop."""
        planned = None if self.projection is None else self.projection.epochs
        return planned is not None and self.rows >= planned

    @property
    def unit(self) -> str:
        """What a row is: an epoch or an interval."""
        return "epoch" if self.projection is None else self.projection.unit


@dataclass(frozen=True)
class Verdict:
    """The state of a limit.

    Attributes:
        level: how certain it is that the limit is exceeded.
        reason: a sentence without a full stop; empty if there is nothing to report.
    """

    level: Level = Level.WITHIN
    reason: str = ""

    @property
    def exceeds(self) -> bool:
        """Whether the limit is exceeded or will be; a budget that stops then ends the training."""
        return self.level >= Level.WILL


def judge(limit: Limit, at: Standing) -> Verdict:
    """Judge whether a limit holds.

    Unknown energy neither exceeds a limit nor counts as 0. A training is never stopped because of
    a projection alone if part of its energy was not measured.
    """
    spent = at.duration_s if limit.is_duration else at.energy_J
    if spent >= limit.most:
        done = f"{at.rows} {at.unit}{'s' * (at.rows != 1)}"
        return Verdict(
            Level.SPENT, f"the budget of {limit} is spent: {limit.text(spent)} after {done}"
        )
    middle, lower, upper = _projected(limit, at.projection)
    is_known = math.isfinite(spent)
    if at.is_stable and is_known and lower > limit.most:
        return Verdict(
            Level.WILL,
            f"the budget of {limit} will be exceeded: {_range(limit, middle, lower, upper)}"
            f"{_advice(limit, at)}",
        )
    unknown = "" if is_known else "; the amount spent so far is not known: part is not measured"
    if upper > limit.most:
        return Verdict(
            Level.MAY,
            f"the budget of {limit} may be exceeded: {_range(limit, middle, lower, upper)}"
            f"{_advice(limit, at)}{unknown}",
        )
    if not is_known and at.rows:  # before the first epoch ends, other ranks have reported nothing
        return Verdict(
            Level.UNKNOWN,
            f"it is not known whether the budget of {limit} is kept: part of the energy is not "
            "measured",
        )
    return Verdict()


def rows_that_fit(limit: Limit, at: Standing) -> float | None:
    """Number of rows that fit within the limit, including those that have ended.

    Each future row is assumed to cost the mean of the projected rows or, without a projection, the
    mean of the rows so far.

    Returns:
        A number of rows; None if the cost of a row is unknown, or if any number fits.
    """
    spent = at.duration_s if limit.is_duration else at.energy_J
    if not math.isfinite(spent):
        return None
    middle, _, _ = _projected(limit, at.projection)
    planned = None if at.projection is None else at.projection.epochs
    if planned is not None and planned > at.rows and middle > spent:
        a_row = (middle - spent) / (planned - at.rows)
    elif at.rows and spent > 0:
        a_row = spent / at.rows
    else:
        return None
    if not a_row > 0:  # the cost underflowed to 0
        return None
    rows = at.rows + max(0.0, limit.most - spent) / a_row
    return rows if math.isfinite(rows) else None


def _projected(limit: Limit, estimate: Estimate | None) -> tuple[float, float, float]:
    """The projection and the ends of its interval; NaN where unknown."""
    if estimate is None:
        return math.nan, math.nan, math.nan
    if limit.is_duration:
        known = estimate.duration_s, estimate.duration_lower_s, estimate.duration_upper_s
    else:
        known = estimate.energy_J, estimate.lower_J, estimate.upper_J
    middle, lower, upper = (math.nan if value is None else value for value in known)
    # Without an interval, a projection can show that the limit may be exceeded, not that it will.
    return middle, lower, middle if math.isnan(upper) else upper


def _range(limit: Limit, middle: float, lower: float, upper: float) -> str:
    if math.isnan(lower) or lower == upper:
        return f"projected {limit.text(middle)}"
    return f"projected {limit.text(lower)} to {limit.text(upper)}"


def _advice(limit: Limit, at: Standing) -> str:
    """How many epochs fit within the limit."""
    rows = rows_that_fit(limit, at)
    if rows is None:
        return ""
    planned = None if at.projection is None else at.projection.epochs
    of = "" if planned is None else f" of {planned:.6g}"
    return f"; about {math.floor(rows + 1e-9)}{of} {at.unit}s fit"
