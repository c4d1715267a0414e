"""The projection of a running training, and a warning when a change of level moves it."""

from __future__ import annotations

import logging
import math
import time
from typing import Protocol

from energyest.display import format_energy
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.pre.blend import blend
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.level import MIN_EPOCHS
from energyest.estimators.step.planned_changes import planned_changes
from energyest.records.trace import EnergyTrace
from energyest.tracking.plan import Length

log = logging.getLogger("energyest")

# While a run goes on, the first `_ALWAYS_MADE` rows are always projected; later rows only if a
# projection takes less than this share of the time since the previous one.
_ALWAYS_MADE = 10
_SHARE_OF_TIME = 0.002
# The start of a level may first be seen a few rows off: within this many, it is the same change.
_SAME_CHANGE = 3
# An interval that is this many times wider than the one before is in doubt about the level.
_DOUBTFUL = 2.0
# After this many warnings, the user knows that the level keeps changing.
_MOST_WARNINGS = 3


class Source(Protocol):
    """Source of the rows of a run: one recorder, or those of all processes together."""

    @property
    def state(self) -> object:
        """Changes whenever there is something new."""
        ...

    def trace(self, *, readings: bool) -> EnergyTrace:
        """The trace up to now."""
        ...


class Projector:
    """Projects a run from the rows so far; computes a new projection only if something changed.

    Args:
        source: source of the rows.
        confidence: coverage probability of the interval of the projection.
    """

    def __init__(self, source: Source, confidence: float) -> None:
        self._source = source
        self._confidence = confidence
        # What the newest projection was made from, and the projection: one value, set atomically.
        self._made: tuple[object, Estimate | None] = None, None
        self._is_busy = False
        self._pre: Estimate | None = None
        self._is_stable = False
        self._levels = LevelWatch()
        self._failed = False
        self._count = 0
        self._made_at_s = -math.inf
        self._cost_s = 0.0

    @property
    def is_stable(self) -> bool:
        """Whether the newest projection starts from a stable level."""
        return self._is_stable

    def project(self, length: Length) -> Estimate | None:
        """The projection; None while the length of the run is unknown.

        Also None until the training is stable, unless there is an estimate from before the run.

        Args:
            length: planned length of the run, as in the meta of the trace.
        """
        if self._is_busy:  # called from a signal handler during a projection: return the last one
            return self._made[1]
        self._is_busy = True
        try:
            known = (self._source.state, length)
            if known != self._made[0] and length != Length():
                self._made = known, self._new_projection(length)
        finally:
            self._is_busy = False
        return self._made[1]

    def expect(self, estimate: Estimate) -> None:
        """Start from an estimate of the whole run that was made before it."""
        self._pre = estimate
        self.forget()

    def forget(self) -> None:
        """Mark the last projection as out of date."""
        self._made = None, self._made[1]

    def _new_projection(self, length: Length) -> Estimate | None:
        trace = self._source.trace(readings=False)
        self._is_stable = False
        try:
            return self._project(trace, length)
        except EstimateError as error:
            if not self._failed:
                log.warning("energyest: no projection: %s", error)
            self._failed = True
            return None

    def _project(self, trace: EnergyTrace, length: Length) -> Estimate | None:
        known: Estimate | None
        try:
            # The plan is in the trace's meta.
            known = step = estimate_step(trace, confidence=self._confidence)
        except NotStableError as error:
            if self._pre is None:
                return None  # the guess in the error is not good enough to show alone
            known = error.estimate
        else:
            self._is_stable = True
            self._levels.see(step, length, trace)
        if self._pre is None:
            return known
        return blend(self._pre, trace, known, confidence=self._confidence)

    def project_if_cheap(self, length: Length) -> Estimate | None:
        """As `project`, but skips rows if they are so short that projecting would slow training."""
        began_s = time.monotonic()
        self._count += 1
        is_costly = self._cost_s > _SHARE_OF_TIME * (began_s - self._made_at_s)
        if self._count > _ALWAYS_MADE and is_costly:
            return None
        projection = self.project(length)
        self._made_at_s = time.monotonic()
        self._cost_s = self._made_at_s - began_s
        return projection


def projection_of(trace: EnergyTrace) -> Estimate | None:
    """The projection of a trace whose meta has the planned length; None if there is none yet."""
    try:
        return estimate_step(trace)
    except (EstimateError, NotStableError):
        return None


def why_unstable(trace: EnergyTrace) -> str:
    """Why STEP has no projection of a run, or none with a guarantee, yet; empty if it has one."""
    try:
        estimate_step(trace)
    except NotStableError as error:
        return error.reason
    except EstimateError as error:
        return str(error)
    return ""


class LevelWatch:
    """Warns, once per change of level, when it moves the projection outside the intervals."""

    def __init__(self) -> None:
        self._last: tuple[Estimate, Length] | None = None
        # The last projection from the previous level, until a warning about the change is issued.
        self._before: tuple[Estimate, Length] | None = None
        self._doubtful = 0
        self._warned_at = -math.inf
        self._warnings = 0

    def see(self, projection: Estimate, length: Length, trace: EnergyTrace) -> None:
        """Process a new projection from a stable level.

        Args:
            projection: the projection.
            length: planned length of the run.
            trace: the trace that it was made from; its meta lists planned changes.
        """
        start = projection.stable_epoch
        if start is None or _width(projection) == 0:
            return  # the run is complete: nothing is projected
        if self._last is not None:
            last = self._last[0].stable_epoch or 0
            if start < last:
                self._before = None  # the apparent change was not one
            elif start > last and start >= self._warned_at + _SAME_CHANGE:
                self._before = self._last
        # After one or two lower epochs, an interval contains the level that may begin with them. It
        # says nothing yet: the projection before them is kept for the comparison.
        if self._last is not None and self._widens(self._last[0], projection):
            self._doubtful += 1
        else:
            self._doubtful = 0
            self._last = (projection, length)
        if self._before is None or _announced(start, trace):
            return
        before, before_length = self._before
        if not length.is_like(before_length) or self._warnings == _MOST_WARNINGS:
            return
        # One lies within the interval of the other: the two projections do not differ.
        if _holds(before, projection.energy_J) or _holds(projection, before.energy_J):
            return
        self._before, self._warned_at = None, start
        self._warnings += 1
        log.warning(
            "energyest: the energy per %s changed at %s %d: the projection went from %s to %s%s",
            projection.unit,
            projection.unit,
            start,
            _text(before),
            _text(projection),
            "; later changes are not reported" if self._warnings == _MOST_WARNINGS else "",
        )

    def _widens(self, last: Estimate, projection: Estimate) -> bool:
        """Whether doubts about the same level have come up within the last epochs."""
        return (
            projection.stable_epoch == last.stable_epoch
            and _width(projection) > _DOUBTFUL * _width(last)
            and self._doubtful < MIN_EPOCHS - 1
        )


def _announced(start: int, trace: EnergyTrace) -> bool:
    """Whether a change was planned for this row or the previous one."""
    rows = [math.floor(change.epoch) for change in planned_changes(trace, None)]
    return start in rows or start - 1 in rows


def _width(estimate: Estimate) -> float:
    if estimate.lower_J is None or estimate.upper_J is None:
        return math.inf
    return estimate.upper_J - estimate.lower_J


def _holds(estimate: Estimate, energy_J: float) -> bool:
    """Whether an energy lies within the interval, or there is no interval."""
    if estimate.lower_J is None or estimate.upper_J is None:
        return True
    return estimate.lower_J <= energy_J <= estimate.upper_J


def _text(estimate: Estimate) -> str:
    text = format_energy(estimate.energy_J)
    if estimate.lower_J is None or estimate.upper_J is None:
        return text
    return f"{text} ({format_energy(estimate.lower_J)} to {format_energy(estimate.upper_J)})"
