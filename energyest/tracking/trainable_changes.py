"""Changes of the trainable parameters: planned in advance, or observed when they happen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from energyest.tracking.plan import TrainingPlan
from energyest.tracking.session import Session

# At most this many changes are recorded.
_MOST_CHANGES = 50
# A change that is undone within this many rows is an alternation, not a change.
_ALTERNATION = 3
_UNFORESEEN = "requires_grad changed"


@dataclass(frozen=True)
class Flip:
    """A change of the trainable parameters at the start of an epoch.

    Attributes:
        epoch: the Trainer's number for the epoch.
        trainable: `requires_grad` of all parameters after the change, by name.
        callback: class of the callback that makes the change.
    """

    epoch: int
    trainable: Mapping[str, bool]
    callback: str


def trainable_names(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that require gradients."""
    return frozenset(name for name, p in module.named_parameters() if p.requires_grad)


@dataclass
class _Change:
    """A change of the trainable parameters.

    Attributes:
        row: row of the trace at which it takes effect; with a fraction if within a row.
        trainable: names of the parameters that are trainable after the change.
        reason: what makes the change.
        before: names of the parameters that are trainable before the change.
        flops_ratio: training FLOPs after ÷ training FLOPs before the change; None if unknown.
        known_since: number of rows that had ended when the change became known.
        has_come: whether the change was observed.
    """

    row: float
    trainable: frozenset[str]
    reason: str
    before: frozenset[str] = frozenset()
    flops_ratio: float | None = None
    known_since: float = 0
    has_come: bool = False

    def as_meta(self) -> dict[str, Any]:
        """The entry for `planned_changes`, which `estimators.step.planned_changes` reads."""
        return {
            "epoch": self.row,
            "flops_ratio": self.flops_ratio,
            "reason": self.reason,
            "known_since": self.known_since,
        }


class ChangeWatch:
    """Records changes of the trainable parameters, and their FLOPs, in the trace's meta.

    Args:
        session: session that records the changes.
        plan: knows where in the trace an epoch begins.
        ratio: takes two sets of names of trainable parameters and returns the training FLOPs with
            the first ÷ those with the second; None if unknown.
        on_change: called with the previous and the new set of trainable names.
    """

    def __init__(
        self,
        session: Session,
        plan: TrainingPlan,
        ratio: Callable[[frozenset[str], frozenset[str]], float | None],
        on_change: Callable[[frozenset[str], frozenset[str]], None],
    ) -> None:
        self._session = session
        self._plan = plan
        self._ratio = ratio
        self._on_change = on_change
        self._flips: list[Flip] = []
        self._changes: list[_Change] = []
        self._earlier: list[Mapping[str, Any]] = []
        self._parameters: list[nn.Parameter] = []
        self._flags: list[bool] = []
        self._trainable: frozenset[str] = frozenset()
        # The trainable parameters before the last unplanned change, and the row of that change.
        self._before: tuple[frozenset[str], float] | None = None
        self._alternates = False

    def expect(self, flips: Sequence[Flip]) -> None:
        """Announce the planned changes, in order of epochs."""
        self._flips = list(flips)[:_MOST_CHANGES]

    def recall(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Keep changes from before or at the start of this part of the run in the trace's meta."""
        self._earlier += changes
        self._record()

    def begin(self, module: nn.Module, index: int, position: float) -> None:
        """Begin at the first batch: turn the announced changes into rows of the trace.

        Args:
            module: the model being trained.
            index: number of the batch in its epoch, which may be a resumed one.
            position: rows of the trace before the batch, including the share of the current row.
        """
        self._parameters = list(module.parameters())
        self._flags = [p.requires_grad for p in self._parameters]
        self._trainable = trainable_names(module)
        every, rows_an_epoch = self._plan.every_n_steps, self._plan.rows_in_epoch
        flips = self._flips if math.isfinite(rows_an_epoch) else []
        names = [frozenset(n for n, on in flip.trainable.items() if on) for flip in flips]
        before = self._trainable
        for flip, after in zip(flips, names, strict=True):
            row = (flip.epoch - self._plan.epoch) * rows_an_epoch
            row -= 0.0 if every is None else index / every
            if row > 0:
                change = _Change(position + row, after, flip.callback, before, known_since=position)
                self._changes.append(change)
            before = after
        if self._changes:
            self._record()

    def count(self) -> None:
        """Fill in the FLOPs ratios of the changes, after a step was watched."""
        for change in self._changes:
            if change.flops_ratio is None:
                change.flops_ratio = self._ratio(change.trainable, change.before)
        if self._changes:
            self._record()

    def look(self, module: nn.Module, row: float) -> None:
        """Check the trainable parameters at the start of an epoch or interval.

        Args:
            module: the model being trained.
            row: number of rows of the trace that have ended, plus the share of the current one.
        """
        flags = [p.requires_grad for p in self._parameters]
        if flags != self._flags:
            self._flags = flags
            before, self._trainable = self._trainable, trainable_names(module)
            self._take_in(before, row)
            self._on_change(before, self._trainable)
        # Drop changes that were planned by now but did not happen.
        kept = [c for c in self._changes if c.has_come or c.row > row]
        if len(kept) < len(self._changes):
            self._changes = kept
            self._record()

    # ------------------------------------------------------------------ inside

    def _take_in(self, before: frozenset[str], row: float) -> None:
        """Record an observed change of the trainable parameters."""
        after = self._trainable
        for change in self._changes:
            if change.trainable == after and abs(change.row - row) < 1:
                change.has_come = True
                break
        else:
            if self._alternates:
                return
            if self._before is not None and self._goes_back(after, row):
                # Two networks trained in turn, for example: the cost of an epoch does not change.
                self._alternates = True
                self._changes = [c for c in self._changes if c.reason != _UNFORESEEN]
                self._record()
                return
            self._before = (before, row)
            ratio = self._ratio(after, before)
            change = _Change(row, after, _UNFORESEEN, before, ratio, known_since=row, has_come=True)
            self._changes.append(change)
            self._changes = self._changes[:_MOST_CHANGES]
            self._record()

    def _goes_back(self, after: frozenset[str], row: float) -> bool:
        assert self._before is not None
        earlier, at = self._before
        return after == earlier and row - at <= _ALTERNATION

    def _record(self) -> None:
        changes = sorted(self._changes, key=lambda change: change.row)
        self._session.describe(
            planned_changes=[*self._earlier, *(change.as_meta() for change in changes)]
        )
