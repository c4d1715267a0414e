"""Changes of which parameters a training trains: planned ahead, or seen when they come."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from energyest.profiling.flops import count_training_ratios
from energyest.tracking.plan import TrainingPlan
from energyest.tracking.session import Session

# So many changes are recorded, and counted for as long as this.
_MOST_CHANGES = 50
_MOST_SECONDS = 2.0
# A change that is undone within so many rows is none, but an alternation.
_ALTERNATION = 3
_UNFORESEEN = "requires_grad changed"


@dataclass(frozen=True)
class Flip:
    """A change of what is trainable, at the start of an epoch.

    Attributes:
        epoch: the Trainer's number of the epoch.
        trainable: `requires_grad` of all parameters after it, by their names.
        callback: class of the callback that makes it.
    """

    epoch: int
    trainable: Mapping[str, bool]
    callback: str


def trainable_names(module: nn.Module) -> frozenset[str]:
    """Names of the parameters that require gradients; another set means that some flipped."""
    return frozenset(name for name, p in module.named_parameters() if p.requires_grad)


@dataclass
class _Change:
    """A change of the trainable parameters.

    Attributes:
        row: row of the trace with which it begins; with a fraction, if within one.
        trainable: names of the parameters that are trainable after it.
        reason: who makes it.
        flops_ratio: training FLOPs after it ÷ those before it; None if unknown.
        known_since: number of rows from which on it was known.
        has_come: whether the parameters were seen to change so.
    """

    row: float
    trainable: frozenset[str]
    reason: str
    flops_ratio: float | None = None
    known_since: float = 0
    has_come: bool = False

    def as_meta(self) -> dict[str, Any]:
        """The entry of `planned_changes`, which `estimators.step.planned_changes` reads."""
        return {
            "epoch": self.row,
            "flops_ratio": self.flops_ratio,
            "reason": self.reason,
            "known_since": self.known_since,
        }


class ChangeWatch:
    """Records in the trace's meta when the trainable parameters change, and what that costs.

    Args:
        session: where to record.
        plan: tells where in the trace an epoch begins.
        count_flops: whether copies of the model may be made to count FLOPs on.
    """

    def __init__(self, session: Session, plan: TrainingPlan, *, count_flops: bool) -> None:
        self._session = session
        self._plan = plan
        self._count_flops = count_flops
        self._flips: list[Flip] = []
        self._changes: list[_Change] = []
        self._earlier: list[Mapping[str, Any]] = []
        self._parameters: list[nn.Parameter] = []
        self._flags: list[bool] = []
        self._trainable: frozenset[str] = frozenset()
        # FLOPs of forward and backward ÷ those of forward, by what is trainable.
        self._ratios: dict[frozenset[str], float | None] = {}
        self._counted_s = 0.0
        # What was trainable before the last change that was not foreseen, and when it came.
        self._before: tuple[frozenset[str], float] | None = None
        self._alternates = False

    def expect(self, flips: Sequence[Flip]) -> None:
        """What will change, by epochs, is known ahead."""
        self._flips = list(flips)[:_MOST_CHANGES]

    def recall(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Changes that came before or with this part of the run; they stay in the trace's meta."""
        self._earlier += changes
        self._record()

    def begin(self, module: nn.Module, batch: Any, index: int, position: float) -> None:
        """The first batch is there: count the FLOPs before and after each planned change.

        Args:
            module: what is trained.
            batch: the batch.
            index: number of the batch in its epoch, which may be a resumed one.
            position: rows of the trace before the batch, with the share of the one that it is in.
        """
        self._parameters = list(module.parameters())
        self._flags = [p.requires_grad for p in self._parameters]
        self._trainable = trainable_names(module)
        every, rows_an_epoch = self._plan.every_n_steps, self._plan.rows_in_epoch
        flips = self._flips if math.isfinite(rows_an_epoch) else []
        names = [frozenset(n for n, on in flip.trainable.items() if on) for flip in flips]
        self._count(module, batch, [self._trainable, *names] if names else [])
        before = self._trainable
        for flip, after in zip(flips, names, strict=True):
            row = (flip.epoch - self._plan.epoch) * rows_an_epoch
            row -= 0.0 if every is None else index / every
            if row > 0:
                ratio = self._quotient(after, before)
                self._changes.append(_Change(position + row, after, flip.callback, ratio, position))
            before = after
        if self._changes:
            self._record()

    def look(self, module: nn.Module, batch: Any, row: float) -> None:
        """An epoch or interval begins: see what is trainable now.

        Args:
            module: what is trained.
            batch: its first batch.
            row: how many rows of the trace have ended, and the share of the one that runs.
        """
        flags = [p.requires_grad for p in self._parameters]
        if flags != self._flags:
            self._flags = flags
            before, self._trainable = self._trainable, trainable_names(module)
            self._take_in(module, batch, before, row)
        # What was to change by now and did not is no change.
        kept = [c for c in self._changes if c.has_come or c.row > row]
        if len(kept) < len(self._changes):
            self._changes = kept
            self._record()

    # ------------------------------------------------------------------ inside

    def _take_in(self, module: nn.Module, batch: Any, before: frozenset[str], row: float) -> None:
        """Other parameters are trainable than before."""
        after = self._trainable
        for change in self._changes:
            if change.trainable == after and abs(change.row - row) < 1:
                change.has_come = True
                break
        else:
            if self._alternates:
                return
            if self._before is not None and self._goes_back(after, row):
                # As in training two networks in turn: no change of what an epoch costs.
                self._alternates = True
                self._changes = [c for c in self._changes if c.reason != _UNFORESEEN]
                self._record()
                return
            self._before = (before, row)
            self._count(module, batch, [before, after])
            ratio = self._quotient(after, before)
            self._changes.append(_Change(row, after, _UNFORESEEN, ratio, row, has_come=True))
            self._changes = self._changes[:_MOST_CHANGES]
            self._record()
        ratio = self._ratios.get(after)
        if ratio is not None:
            self._session.set_training_to_forward(ratio)

    def _goes_back(self, after: frozenset[str], row: float) -> bool:
        assert self._before is not None
        earlier, at = self._before
        return after == earlier and row - at <= _ALTERNATION

    def _count(self, module: nn.Module, batch: Any, choices: list[frozenset[str]]) -> None:
        """Count what is not counted yet, as long as that has not taken too long altogether."""
        new = [names for names in dict.fromkeys(choices) if names not in self._ratios]
        if not new or not self._count_flops:
            return
        named = [name for name, _ in module.named_parameters()]
        with self._session.pause():
            for part in (new[:2], *([names] for names in new[2:])):
                if self._counted_s > _MOST_SECONDS:
                    break
                began_s = time.monotonic()
                ratios = count_training_ratios(
                    module, batch, [{name: name in names for name in named} for names in part]
                )
                self._counted_s += time.monotonic() - began_s
                unknown: list[float | None] = [None] * len(part)
                self._ratios |= dict(zip(part, ratios or unknown, strict=True))

    def _quotient(self, after: frozenset[str], before: frozenset[str]) -> float | None:
        ratios = self._ratios.get(after), self._ratios.get(before)
        return None if ratios[0] is None or ratios[1] is None else ratios[0] / ratios[1]

    def _record(self) -> None:
        changes = sorted(self._changes, key=lambda change: change.row)
        self._session.describe(
            planned_changes=[*self._earlier, *(change.as_meta() for change in changes)]
        )
