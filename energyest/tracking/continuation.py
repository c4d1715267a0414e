"""Resuming a training from a checkpoint: its position, and its unfinished row."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from energyest.errors import ConfigurationError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.records.devices import counts_by_name, gpus_of
from energyest.records.meta import read_number, read_objects
from energyest.records.trace import EnergyTrace
from energyest.tracking.plan import TrainingPlan
from energyest.tracking.progress import Progress
from energyest.tracking.session import Session
from energyest.tracking.trainable_changes import ChangeWatch

log = logging.getLogger("energyest")


@dataclass(frozen=True)
class Position:
    """The position of a training when a checkpoint was saved.

    Attributes:
        earlier: what the training had cost by then.
        epoch: the trainer's epoch.
        batches: training batches of that epoch that were done.
    """

    earlier: RunCheckpoint
    epoch: int
    batches: int

    def resumed_within(self, epoch: int, batches: int) -> Position:
        """The position as a training finds it that resumes within an epoch.

        A stop within an epoch ends the row. If the checkpoint was saved after that, the row is
        under way again, so that an epoch stays one row.

        Args:
            epoch: the trainer's epoch, as it resumes.
            batches: batches of that epoch that are done.
        """
        earlier = self.earlier
        if not batches or earlier.open_row or not len(earlier) or epoch != self.epoch:
            return self
        if earlier.columns["epoch"][-1] != epoch:
            return self
        return replace(self, earlier=earlier.with_last_row_open())


class Continuation:
    """Resumes a training at the position of a checkpoint.

    Args:
        position: the position in the checkpoint.
        session: session of this process; it has no row yet.
        plan: knows the present position of the training and its number of processes.
        progress: progress of the training, still empty.
        changes: watches changes of the trainable parameters.
        is_first_rank: whether this process records what all ranks had measured.
    """

    def __init__(
        self,
        position: Position,
        session: Session,
        plan: TrainingPlan,
        progress: Progress,
        changes: ChangeWatch,
        *,
        is_first_rank: bool,
    ) -> None:
        self._session, self._plan, self._progress, self._changes = session, plan, progress, changes
        # `_at` holds until a row begins; `_before` until all devices of this part are known.
        self._at: Position | None = position
        self._before: RunCheckpoint | None = None
        earlier = position.earlier
        try:
            earlier.check_unit(plan.every_n_steps)
        except ConfigurationError as error:
            log.warning("energyest: %s: its rows are left out, but its energy counts", error)
            earlier = earlier.energy_alone()
        progress.elapsed_s = earlier.duration_s
        progress.carried_steps = earlier.open_steps
        samples = earlier.open_row.get("samples", math.nan)
        if progress.carried_steps:
            progress.carried_samples = samples / plan.world_size  # NaN where they are not known
        session.continue_from(earlier, is_recorded=is_first_rank)
        if is_first_rank:
            changes.recall(_past_changes(earlier))
            self._before = earlier
            if plan.world_size == 1:
                self.compare_gpus()

    def compare_gpus(self) -> None:
        """If the GPUs differ from those before, record a change in the energy per epoch.

        Call it when all devices are known: with several ranks, after the first row.
        """
        if self._before is not None:
            change = _change_of_gpus(self._before, self._session.trace)
            self._before = None
            if change is not None:
                self._changes.recall([change])

    def before_row(self) -> None:
        """Prepare for a new row, which may be the rest of the row interrupted by the checkpoint."""
        if self._at is None:
            return
        progress, every = self._progress, self._plan.every_n_steps
        same_epoch = self._at.epoch == self._plan.epoch
        if same_epoch and self._at.batches > 0 and self._plan.batches_seen == 0:
            self._session.drop_carried()
            progress.carried_steps, progress.carried_samples = 0, 0
        elif progress.carried_steps >= every if every is not None else not same_epoch:
            self.end_row()
        self._at = None

    def end_row(self) -> None:
        """End the row in which the checkpoint was saved as it was then: nothing of it is left."""
        if self._at is None or not self._progress.carried_steps:
            return
        self._progress.start_row()
        self._session.start_row(self._at.epoch, continues=True)
        steps, samples = self._progress.row_steps, self._progress.row_samples
        self._session.end_row({"steps": steps, "samples": samples})


def _past_changes(earlier: RunCheckpoint) -> list[dict[str, Any]]:
    """Changes in the energy per epoch up to the checkpoint, for `planned_changes` of the trace."""
    changes = read_objects(earlier.meta, "planned_changes")
    return [change for change in changes if _is_by(change, _row(earlier))]


def _change_of_gpus(earlier: RunCheckpoint, trace: EnergyTrace) -> dict[str, Any] | None:
    before, now = earlier.gpus, counts_by_name(gpus_of(trace.devices))
    if not before or not now or before == now:
        return None
    names = ", ".join(f"{count} x {name}" for name, count in now.items())
    return {"epoch": _row(earlier), "reason": f"resumed on {names}", "known_since": len(earlier)}


def _row(earlier: RunCheckpoint) -> float:
    """The row at which the run resumes; half a row later if one was under way (on neither side)."""
    return len(earlier) + (0.5 if earlier.open_row else 0.0)


def _is_by(change: Mapping[str, Any], row: float) -> bool:
    """Whether an entry of a trace's meta (which may hold anything) is a change up to that row."""
    epoch = read_number(change, "epoch")
    return epoch is not None and epoch <= row
