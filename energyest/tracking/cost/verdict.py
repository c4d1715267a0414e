"""`judge`: is a limit kept? From what is spent and what is projected, and from nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

from energyest.estimate import Estimate
from energyest.tracking.cost.budget import Limit


class Level(IntEnum):
    """How sure it is that a limit is exceeded, from not at all to a fact."""

    WITHIN = 0
    #: Part of what was spent is not measured.
    UNKNOWN = 1
    #: The upper end of the projection passes the limit.
    MAY = 2
    #: The lower end does, of a training that has settled on a level.
    WILL = 3
    #: What was measured does.
    SPENT = 4


@dataclass(frozen=True)
class Standing:
    """Where a training stands.

    Attributes:
        rows: epochs, or intervals, that have ended.
        energy_J: joules so far, before a checkpoint and on all ranks; NaN if a part is not known.
        duration_s: seconds so far, likewise.
        projection: of the whole training; None without one.
        is_stable: whether the projection is of a level that the training has settled on.
    """

    rows: int
    energy_J: float
    duration_s: float
    projection: Estimate | None = None
    is_stable: bool = False

    @property
    def is_over(self) -> bool:
        """Whether all rows have ended that were planned: then nothing is left to be stopped."""
        planned = None if self.projection is None else self.projection.epochs
        return planned is not None and self.rows >= planned

    @property
    def unit(self) -> str:
        """What a row is."""
        return "epoch" if self.projection is None else self.projection.unit


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a limit.

    Attributes:
        level: how sure it is that it is exceeded.
        reason: why, in a sentence without a full stop; empty where nothing is to be said.
    """

    level: Level = Level.WITHIN
    reason: str = ""

    @property
    def exceeds(self) -> bool:
        """Whether it is exceeded, or will be: then a training ends that is to be stopped."""
        return self.level >= Level.WILL


def judge(limit: Limit, at: Standing) -> Verdict:
    """Is a limit kept?

    What is not known exceeds nothing and counts as nothing spent neither: of a projection alone,
    with part of the energy not measured, no training is stopped.
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
    unknown = "" if is_known else "; what is spent so far is not known, as a part is not measured"
    if upper > limit.most:
        return Verdict(
            Level.MAY,
            f"the budget of {limit} may be exceeded: {_range(limit, middle, lower, upper)}"
            f"{_advice(limit, at)}{unknown}",
        )
    if not is_known and at.rows:  # until an epoch has ended, other ranks have told nothing
        return Verdict(
            Level.UNKNOWN,
            f"whether the budget of {limit} is kept is not known: part of what is spent is not "
            "measured",
        )
    return Verdict()


def rows_that_fit(limit: Limit, at: Standing) -> float | None:
    """Rows of the whole training that the limit has room for, those that have ended included.

    Each row to come is taken to cost what the projection says in the mean or, without one, what
    those so far did.

    Returns:
        A number of rows; None where it is not known what one costs, or any number fits.
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
    if not a_row > 0:  # too little for a float to tell from nothing
        return None
    rows = at.rows + max(0.0, limit.most - spent) / a_row
    return rows if math.isfinite(rows) else None


def _projected(limit: Limit, estimate: Estimate | None) -> tuple[float, float, float]:
    """The projection and the ends of its interval, as far as they are known; NaN where not."""
    if estimate is None:
        return math.nan, math.nan, math.nan
    if limit.is_duration:
        known = estimate.duration_s, estimate.duration_lower_s, estimate.duration_upper_s
    else:
        known = estimate.energy_J, estimate.lower_J, estimate.upper_J
    middle, lower, upper = (math.nan if value is None else value for value in known)
    # Without an interval, the projection itself may be too much, but nothing surely is.
    return middle, lower, middle if math.isnan(upper) else upper


def _range(limit: Limit, middle: float, lower: float, upper: float) -> str:
    if math.isnan(lower) or lower == upper:
        return f"{limit.text(middle)} are projected"
    return f"{limit.text(lower)} to {limit.text(upper)} are projected"


def _advice(limit: Limit, at: Standing) -> str:
    """The cheapest advice there is: how many epochs fit."""
    rows = rows_that_fit(limit, at)
    if rows is None:
        return ""
    planned = None if at.projection is None else at.projection.epochs
    of = "" if planned is None else f" of {planned:.6g}"
    return f"; about {math.floor(rows + 1e-9)}{of} {at.unit}s fit"
