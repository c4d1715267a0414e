"""Changes of what a Lightning training trains: planned by its callbacks, or seen when they come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energyest.callbacks.finetuning import Flip, planned_flips, trainable_names
from energyest.measure.flops import count_training_ratios

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from energyest.callbacks.loop import Run

# Where nothing says how many epochs there will be, callbacks are asked about so many.
_EPOCHS_AHEAD = 1000


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
        """The entry of `planned_changes`, which `energyest.estimators.planned` reads."""
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
    """

    def __init__(self, run: Run, *, count_flops: bool) -> None:
        self._run = run
        self._count_flops = count_flops
        self._flips: list[Flip] = []
        self._changes: list[_Change] = []
        self._trainable: frozenset[str] | None = None
        # FLOPs of forward and backward ÷ those of forward, of the present parameters.
        self._ratio: float | None = None

    def foresee(self, trainer: Trainer, module: LightningModule) -> None:
        """Ask the callbacks, before the first epoch."""
        last = trainer.max_epochs
        end = last if last is not None and last > 0 else trainer.current_epoch + _EPOCHS_AHEAD
        self._flips = planned_flips(trainer, module, end)

    def begin(
        self, trainer: Trainer, module: LightningModule, batch: Any, every: int | None
    ) -> None:
        """The first batch is there: count the FLOPs before and after each planned change.

        Args:
            trainer: tells where in the trace an epoch begins.
            module: what is trained.
            batch: the batch.
            every: batches in an interval; None where rows are epochs.
        """
        self._trainable = trainable_names(module)
        self._ratio = self._run.training_to_forward
        if not self._flips:
            return
        ratios = self._ratios(module, batch, [{}, *(dict(flip.trainable) for flip in self._flips)])
        rows_an_epoch = 1.0 if every is None else trainer.num_training_batches / every
        if not math.isfinite(rows_an_epoch):
            return  # nobody knows with which interval an epoch begins
        for i, flip in enumerate(self._flips):
            row = (flip.epoch - trainer.current_epoch) * rows_an_epoch
            if row > 0:
                names = frozenset(name for name, on in flip.trainable.items() if on)
                ratio = _quotient(ratios[i + 1], ratios[i])
                self._changes.append(_Change(row, names, flip.callback, ratio))
        self._record()

    def look(self, module: LightningModule, batch: Any, row: float) -> None:
        """An epoch begins: see what is trainable now.

        Args:
            module: what is trained.
            batch: its first batch.
            row: how many rows of the trace have ended, and the share of the one that runs.
        """
        before, self._trainable = self._trainable, trainable_names(module)
        if before is not None and before != self._trainable:
            self._take_in(module, batch, row)
        # What was to change by now and did not is no change.
        kept = [c for c in self._changes if c.has_come or c.row > row]
        if len(kept) < len(self._changes):
            self._changes = kept
            self._record()

    def _take_in(self, module: LightningModule, batch: Any, row: float) -> None:
        """Other parameters are trainable than before."""
        assert self._trainable is not None
        (ratio,) = self._ratios(module, batch, [{}])
        for change in self._changes:
            if change.trainable == self._trainable and abs(change.row - row) < 1:
                change.has_come = True
                break
        else:
            why, times = "requires_grad changed", _quotient(ratio, self._ratio)
            self._changes.append(_Change(row, self._trainable, why, times, row, has_come=True))
            self._record()
        self._ratio = ratio
        if ratio is not None:
            self._run.training_to_forward = ratio

    def _ratios(
        self, module: LightningModule, batch: Any, choices: list[dict[str, bool]]
    ) -> list[float | None]:
        if not self._count_flops:
            return [None] * len(choices)
        with self._run.pause():
            ratios = count_training_ratios(module, batch, choices)
        return [None] * len(choices) if ratios is None else [*ratios]

    def _record(self) -> None:
        changes = sorted(self._changes, key=lambda change: change.row)
        self._run.describe(planned_changes=[change.as_meta() for change in changes])


def _quotient(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after / before
