"""A Lightning training that goes on from a checkpoint: what the monitor keeps in it, and takes up.

Under a key of its own in the checkpoint, and not as a callback's state: that would have to be told
apart from the state of a second monitor, and a training that goes on without one would be warned.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energyest.errors import ConfigurationError, TraceError
from energyest.lightning import trainer_plan as plan
from energyest.lightning.progress import Progress
from energyest.lightning.trainable_changes import ChangeWatch
from energyest.measure.checkpoint import RunCheckpoint
from energyest.records.devices import counts_by_name, gpus_of
from energyest.records.meta import read_number, read_objects
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from energyest.tracking.session import Run

log = logging.getLogger("energyest")

_KEY = "energyest"


@dataclass(frozen=True)
class Place:
    """Where a training stood when the checkpoint was made.

    Attributes:
        earlier: what it had cost.
        epoch: the Trainer's epoch.
        batches: training batches of it that were done.
    """

    earlier: RunCheckpoint
    epoch: int
    batches: int


def save(
    trainer: Trainer,
    monitor: Callback,
    kind: type[Callback],
    run: Run,
    checkpoint: dict[str, Any],
) -> None:
    """Put into a checkpoint what is needed to go on from it: plain numbers, text, lists.

    Args:
        trainer: tells where the training is.
        monitor: whose run it is.
        kind: the class of monitors, of which a Trainer may have several.
        run: what was measured.
        checkpoint: of the Trainer.
    """
    checkpoint.setdefault(_KEY, {})[_number(trainer, monitor, kind)] = {
        "run": run.state_dict(),
        "epoch": trainer.current_epoch,
        "batches": plan.batches_seen(trainer),
    }


def load(
    trainer: Trainer, monitor: Callback, kind: type[Callback], checkpoint: Mapping[str, Any]
) -> Place | None:
    """What `save` put into a checkpoint; None if there is nothing.

    Raises:
        TraceError: there is something else.
    """
    try:
        state = checkpoint.get(_KEY, {}).get(_number(trainer, monitor, kind))
        if state is None:
            return None
        epoch, batches = int(state["epoch"]), int(state["batches"])
        return Place(RunCheckpoint.from_state_dict(state["run"]), epoch, batches)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TraceError(f"the checkpoint's record of energy is damaged: {error}") from error


class Continuation:
    """Takes a fit up where a checkpoint was made; of a fit that begins anew, it does nothing."""

    def __init__(self) -> None:
        # What the checkpoint says, until the run has it; then where it was, until a row begins;
        # and what it was measured on, until all devices of this part are known.
        self._loaded: Place | None = None
        self._at: Place | None = None
        self._before: RunCheckpoint | None = None

    def expect(self, place: Place | None) -> None:
        """A checkpoint was loaded; a tuner's own, which has no place in it, changes nothing."""
        self._loaded = self._loaded if place is None else place

    def begin(
        self,
        trainer: Trainer,
        run: Run,
        progress: Progress,
        changes: ChangeWatch,
        every: int | None,
    ) -> None:
        """Put what the checkpoint holds before the run, which has no row yet.

        Args:
            trainer: tells the ranks.
            run: of this process.
            progress: what it has done, which is nothing so far.
            changes: watches its changes.
            every: batches in an interval; None where rows are epochs.
        """
        if self._loaded is None:
            return
        self._at, self._loaded = self._loaded, None
        earlier = self._at.earlier
        try:
            earlier.check_unit(every)
        except ConfigurationError as error:
            log.warning("energyest: %s: its rows are left out, its energy is not", error)
            earlier = earlier.energy_alone()
        progress.rows, progress.elapsed_s = len(earlier), earlier.duration_s
        progress.carried_steps = earlier.open_steps
        samples = earlier.open_row.get("samples", math.nan)
        progress.carried_samples = round(samples / trainer.world_size) if samples > 0 else 0
        if trainer.is_global_zero:  # what all ranks have measured is counted once
            run.continue_from(earlier)
            changes.recall(_past_changes(earlier))
            self._before = earlier
            if trainer.world_size == 1:
                self.compare_gpus(run, changes)

    def compare_gpus(self, run: Run, changes: ChangeWatch) -> None:
        """Where the GPUs are others than before, an epoch costs something else from now on.

        To be called when all devices are known: with several ranks, after the first row.
        """
        if self._before is not None:
            change = _change_of_gpus(self._before, run.trace)
            self._before = None
            if change is not None:
                changes.recall([change])

    def before_row(self, trainer: Trainer, run: Run, progress: Progress, every: int | None) -> None:
        """A row is to begin: is it what is left of the one in which the checkpoint was made?"""
        if self._at is None:
            return
        same_epoch = self._at.epoch == trainer.current_epoch
        if same_epoch and self._at.batches > 0 and plan.batches_seen(trainer) == 0:
            run.begin_anew()
            progress.carried_steps = progress.carried_samples = 0
        elif progress.carried_steps >= every if every is not None else not same_epoch:
            self.end_row(run, progress)
        self._at = None

    def end_row(self, run: Run, progress: Progress) -> None:
        """Of the row in which the checkpoint was made nothing is left: it ends as it was then."""
        if self._at is None or not progress.carried_steps:
            return
        run.start_epoch(self._at.epoch, continues=True)
        progress.start_row()
        run.end_epoch(steps=progress.row_steps, samples=progress.row_samples)
        progress.rows += 1


def _past_changes(earlier: RunCheckpoint) -> list[dict[str, Any]]:
    """What had changed the energy of an epoch by then, for the trace's `planned_changes`."""
    changes = read_objects(earlier.meta, "planned_changes")
    return [change for change in changes if _is_by(change, _row(earlier))]


def _change_of_gpus(earlier: RunCheckpoint, trace: EnergyTrace) -> dict[str, Any] | None:
    before, now = earlier.gpus, counts_by_name(gpus_of(trace.devices))
    if not before or not now or before == now:
        return None
    names = ", ".join(f"{count} x {name}" for name, count in now.items())
    return {"epoch": _row(earlier), "reason": f"resumed on {names}", "known_since": len(earlier)}


def _row(earlier: RunCheckpoint) -> float:
    """Where it goes on: within a row, if one was under way, which belongs to neither side then."""
    return len(earlier) + (0.5 if earlier.open_row else 0.0)


def _is_by(change: Mapping[str, Any], row: float) -> bool:
    """Whether an entry of a trace's meta, which may hold anything, is a change by that row."""
    epoch = read_number(change, "epoch")
    return epoch is not None and epoch <= row


def _number(trainer: Trainer, monitor: Callback, kind: type[Callback]) -> str:
    """Which of the Trainer's monitors, callbacks of that kind, it is."""
    alike = [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]
    return str(next((i for i, callback in enumerate(alike) if callback is monitor), 0))
