"""A training that goes on from a checkpoint: where it was, and what of its rows is left."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
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
    """Where a training stood when the checkpoint was made.

    Attributes:
        earlier: what it had cost.
        epoch: the trainer's epoch.
        batches: training batches of it that were done.
    """

    earlier: RunCheckpoint
    epoch: int
    batches: int


class Continuation:
    """Takes a training up where a checkpoint was made.

    Args:
        position: where that was.
        session: of this process; it has no row yet.
        plan: tells where the training is now, and in how many processes.
        progress: what it has done, which is nothing so far.
        changes: watches its changes.
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
        # Until a row begins; and what the run was measured on, until all devices of this part are
        # known.
        self._at: Position | None = position
        self._before: RunCheckpoint | None = None
        earlier = position.earlier
        try:
            earlier.check_unit(plan.every_n_steps)
        except ConfigurationError as error:
            log.warning("energyest: %s: its rows are left out, its energy is not", error)
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
        """Where the GPUs are others than before, an epoch costs something else from now on.

        To be called when all devices are known: with several ranks, after the first row.
        """
        if self._before is not None:
            change = _change_of_gpus(self._before, self._session.trace)
            self._before = None
            if change is not None:
                self._changes.recall([change])

    def before_row(self) -> None:
        """A row is to begin: is it what is left of the one in which the checkpoint was made?"""
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
        """Of the row in which the checkpoint was made nothing is left: it ends as it was then."""
        if self._at is None or not self._progress.carried_steps:
            return
        self._progress.start_row()
        self._session.start_row(self._at.epoch, continues=True)
        steps, samples = self._progress.row_steps, self._progress.row_samples
        self._session.end_row({"steps": steps, "samples": samples})


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
