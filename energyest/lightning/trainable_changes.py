"""Changes of what a Lightning training trains: planned by its callbacks, or seen when they come."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from energyest.lightning.finetuning import Flip, planned_flips, trainable_names
from energyest.profiling.flops import count_training_ratios

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from energyest.tracking.session import Run

# Where nothing says how many epochs there will be, callbacks are asked about so many.
_EPOCHS_AHEAD = 1000
# So many changes are recorded, and counted for as long as this.
_MOST_CHANGES = 50
_MOST_SECONDS = 2.0
# A change that is undone within so many rows is none, but an alternation.
_ALTERNATION = 3
_UNFORESEEN = "requires_grad changed"


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
        run: where to record.
        count_flops: whether copies of the model may be made to count FLOPs on.
        rehearse: whether finetuning callbacks that users wrote may be asked ahead.
    """

    def __init__(self, run: Run, *, count_flops: bool, rehearse: bool) -> None:
        self._run = run
        self._count_flops = count_flops
        self._rehearse = rehearse
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

    def foresee(self, trainer: Trainer, module: LightningModule) -> None:
        """Ask the callbacks, before the first epoch."""
        last = trainer.max_epochs
        end = last if last is not None and last > 0 else trainer.current_epoch + _EPOCHS_AHEAD
        self._flips = planned_flips(trainer, module, end, users=self._rehearse)[:_MOST_CHANGES]

    def recall(self, changes: Iterable[Mapping[str, Any]]) -> None:
        """Changes that came before or with this part of the run; they stay in the trace's meta."""
        self._earlier += changes
        self._record()

    def begin(
        self,
        trainer: Trainer,
        module: LightningModule,
        batch: Any,
        every: int | None,
        index: int,
        position: float,
    ) -> None:
        """The first batch is there: count the FLOPs before and after each planned change.

        Args:
            trainer: tells where in the trace an epoch begins.
            module: what is trained.
            batch: the batch.
            every: batches in an interval; None where rows are epochs.
            index: number of the batch in its epoch, which may be a resumed one.
            position: rows of the trace before the batch, with the share of the one that it is in.
        """
        self._parameters = list(module.parameters())
        self._flags = [p.requires_grad for p in self._parameters]
        self._trainable = trainable_names(module)
        rows_an_epoch = 1.0 if every is None else trainer.num_training_batches / every
        flips = self._flips if math.isfinite(rows_an_epoch) else []
        names = [frozenset(n for n, on in flip.trainable.items() if on) for flip in flips]
        self._count(module, batch, [self._trainable, *names] if names else [])
        before = self._trainable
        for flip, after in zip(flips, names, strict=True):
            row = (flip.epoch - trainer.current_epoch) * rows_an_epoch
            row -= 0.0 if every is None else index / every
            if row > 0:
                ratio = self._quotient(after, before)
                self._changes.append(_Change(position + row, after, flip.callback, ratio, position))
            before = after
        if self._changes:
            self._record()

    def look(self, module: LightningModule, batch: Any, row: float) -> None:
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

    def _take_in(
        self, module: LightningModule, batch: Any, before: frozenset[str], row: float
    ) -> None:
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
            self._run.training_to_forward = ratio

    def _goes_back(self, after: frozenset[str], row: float) -> bool:
        assert self._before is not None
        earlier, at = self._before
        return after == earlier and row - at <= _ALTERNATION

    def _count(self, module: LightningModule, batch: Any, choices: list[frozenset[str]]) -> None:
        """Count what is not counted yet, as long as that has not taken too long altogether."""
        new = [names for names in dict.fromkeys(choices) if names not in self._ratios]
        if not new or not self._count_flops:
            return
        named = [name for name, _ in module.named_parameters()]
        with self._run.pause():
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
        self._run.describe(
            planned_changes=[*self._earlier, *(change.as_meta() for change in changes)]
        )
