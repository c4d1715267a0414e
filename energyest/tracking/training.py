"""`Training`: what the adapters of trainers have in common: rows, the first batch, plans.

An adapter tells it when epochs, batches and validations begin and end, and asks nothing back; what
its framework's trainer knows, `Training` asks of the adapter's `TrainingPlan`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload
from energyest.tracking.continuation import Continuation, Position
from energyest.tracking.first_projection import FirstProjection
from energyest.tracking.flop_watch import FlopWatch
from energyest.tracking.guard import never_raises
from energyest.tracking.plan import Length, TrainingPlan
from energyest.tracking.progress import Progress
from energyest.tracking.session import Session
from energyest.tracking.trainable_changes import ChangeWatch, Flip

Metrics = dict[str, float]


class Training:
    """A training as it goes: each epoch, or each interval of so many batches, is a row.

    Args:
        session: measures it.
        plan: what the trainer knows.
        count_flops: watch what the first steps compute, and the first where other parameters
            become trainable.
        workload: what a step does, if it was described before; then none is watched.
        take_metrics: what was logged since it was called last.
        log_values: called when a row has ended, with what is to be logged of it, by name.
    """

    def __init__(
        self,
        session: Session,
        plan: TrainingPlan,
        *,
        count_flops: bool,
        workload: Workload | None = None,
        take_metrics: Callable[[], Metrics],
        log_values: Callable[[Mapping[str, float]], None],
    ) -> None:
        self.session = session
        self._plan = plan
        self._flops = FlopWatch(session, is_on=count_flops, workload=workload)
        self._describes = count_flops or workload is not None
        self._workload = workload
        self._take_metrics = take_metrics
        self._log_values = log_values
        self._progress = Progress()
        self._changes = ChangeWatch(session, plan, self._flops.ratio, self._flops.change)
        self._first: FirstProjection | None = None
        self._continuation: Continuation | None = None
        self._batch_seen = False
        self._thread = threading.get_ident()
        self._batch_size: int | None = None
        if plan.every_n_steps is not None:
            session.describe(interval_steps=plan.every_n_steps)

    # ------------------------------------------------------------------ before it begins

    @never_raises
    def continue_from(self, position: Position, *, is_first_rank: bool) -> None:
        """Go on where a checkpoint was made; before the first row."""
        self._continuation = Continuation(
            position,
            self.session,
            self._plan,
            self._progress,
            self._changes,
            is_first_rank=is_first_rank,
        )

    def expect_changes(self, flips: list[Flip]) -> None:
        """Which parameters will become trainable, or not any more, is known ahead."""
        self._changes.expect(flips)

    # ------------------------------------------------------------------ epochs and batches

    def start_epoch(self) -> None:
        """An epoch begins, and with it a row, unless an interval goes on."""
        self._progress.start_epoch()
        if not self.session.in_row:
            self.log_late_metrics()
            self._start_row()

    def start_batch(self, model: nn.Module, batch: Any, index: int) -> None:
        """The interval before may be full; the first batch shows what the model's input is.

        Args:
            model: what is trained.
            batch: what it is trained on next.
            index: number of the batch in its epoch.
        """
        if self._interval_is_full():
            self._end_row()
        if not self.session.in_row:
            # An interval; or what is left of a resumed epoch, which no epoch's start announces.
            self._start_row()
        if not self._batch_seen:
            self._batch_seen = True
            self._first_batch(model, batch, index)
        elif index == 0 or not self._progress.row_steps:
            self._changes.look(model, self._position)
        self._flops.begin_step(model)

    def before_optimizer_step(self) -> None:
        """Forward and backward of a batch are over."""
        self._flops.before_optimizer_step()

    def end_batch(self, model: nn.Module, batch: Any) -> None:
        """A batch was trained on.

        Args:
            model: what is trained.
            batch: what it was trained on.
        """
        samples = self.session.samples_in(batch, self._plan.loaders)
        step = self._flops.end_step(samples)
        self._progress.count(samples)
        if step is not None and step.gradients is not None:
            self._changes.count()
        if self._first is not None and step is not None:
            self._first.describe(model, batch, samples, step)
            self._first.estimate()

    def abandon_batch(self) -> None:
        """A batch was broken off."""
        self._flops.leave()

    def end_epoch(self) -> None:
        """An epoch ends, and with it a row, unless it is an interval that is not full yet."""
        self._flops.leave()  # of a batch that was skipped
        self.session.describe(train_samples=_known(self._progress.end_epoch()))
        rows_are_epochs = self._plan.every_n_steps is None
        if self._progress.carried_steps and not self.session.in_row and rows_are_epochs:
            self._start_row()  # resumed where only this end was left of the epoch
        if rows_are_epochs or self._interval_is_full():
            self._end_row()

    def end(self) -> None:
        """The last epoch is over, and with it the last interval, however short."""
        self.log_late_metrics()
        if not self.session.in_row and self._continuation is not None:
            self._continuation.end_row()
        # An interval whose first batch was skipped, with the rest of its epoch, is none.
        if self._plan.every_n_steps is None or self._progress.row_steps:
            self._end_row()

    def finish(self) -> None:
        """The training is over, perhaps earlier than it was planned to be."""
        self.session.length = self.session.length.ended_after(self.session.rows)
        self.session.stop("finished")

    def interrupt(self, status: str) -> None:
        """The training was broken off.

        Args:
            status: by what, for the trace's meta.
        """
        self._flops.leave()
        self._complete_last_row()
        self._log_open_row(samples=self._progress.row_samples)
        self.session.stop(status)

    # ------------------------------------------------------------------ validation

    def start_validation(self) -> None:
        """Validation begins."""
        self.session.start_validation()

    def start_validation_batch(self, model: nn.Module, loader: int) -> None:
        """A batch is validated next.

        Args:
            model: what is validated.
            loader: number of the loader that it comes from.
        """
        self._flops.begin_validation_batch(model, loader)

    def end_validation_batch(self, batch: Any, loader: int) -> None:
        """A batch was validated.

        Args:
            batch: the batch.
            loader: as of `start_validation_batch`.
        """
        samples = self.session.samples_in(batch, self._plan.validation_loaders)
        self._flops.end_validation_batch(samples, loader)
        self._progress.validation_samples += math.nan if samples is None else samples

    def end_validation(self) -> None:
        """Validation ends."""
        self.session.end_validation()
        self.session.describe(validation_samples=_known(self._progress.validation_samples))
        self._progress.validation_samples = 0

    # ------------------------------------------------------------------ metrics, checkpoints

    def log_late_metrics(self) -> None:
        """Give the row that runs or has ended what was logged after its end."""
        metrics = self._take_metrics()
        if self.session.rows or self.session.in_row:
            self.session.log(**metrics)

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        self._complete_last_row()
        return self.session.trace

    def position(self) -> Position:
        """Where the training is and what it has cost; every rank has to ask for it."""
        self._complete_last_row()
        self._log_open_row(samples=self._progress.row_samples * self._plan.world_size)
        return Position(self.session.checkpoint(), self._plan.epoch, self._plan.batches_seen)

    # ------------------------------------------------------------------ inside

    @property
    def _position(self) -> float:
        """Rows that have ended, and the share of the one that runs."""
        every = self._plan.every_n_steps
        return self.session.rows + (0.0 if every is None else self._progress.row_steps / every)

    def _first_batch(self, model: nn.Module, batch: Any, index: int) -> None:
        """See what a step is, project from that, and look for planned changes."""
        session = self.session
        self._batch_size = session.samples_in(batch, self._plan.loaders)
        session.describe(batch_size=self._batch_size)
        if self._describes and not session.rows:  # an earlier part would tell more than PRE
            self._first = FirstProjection(session, self._plan, self._workload)
            self._first.look_ahead(self._batch_size)
        self._changes.begin(model, index, self._position)
        if session.rows:  # an earlier part of the run, which tells more than PRE
            rows = self._plan.rows_at_start(session.rows, self._progress.row_steps)
            session.length = session.length._replace(rows=rows)
        elif self._first is not None:
            self._first.estimate()  # of a workload that is known

    def _interval_is_full(self) -> bool:
        every = self._plan.every_n_steps
        return self.session.in_row and every is not None and self._progress.row_steps >= every

    def _start_row(self) -> None:
        if self._continuation is not None:
            self._continuation.before_row()
        if not self.session.rows:
            self.session.describe(first_epoch=self._plan.epoch)
        # In this order: at the moment the row begins, its counts are its own.
        self._progress.start_row()
        self.session.start_row(self._plan.epoch, continues=True)

    def _end_row(self) -> None:
        """A row ends: record it, project, and log both."""
        if not self.session.in_row:
            return
        progress = self._progress
        counts = {"steps": progress.row_steps, "samples": progress.row_samples}
        flops = self._flops.row_flops(progress.row_samples, progress.row_steps)
        if math.isfinite(flops):
            counts["flops"] = flops
        # An epoch's metrics are taken later: the trainer is about to compute them itself.
        metrics = {} if self._plan.every_n_steps is None else self._take_metrics()
        row = self.session.end_row({**counts, **metrics})
        progress.elapsed_s += row.get("duration_s", math.nan)
        if self._continuation is not None:
            self._continuation.compare_gpus()
        # Known only now: how many steps an epoch makes shows at its end.
        self._record_plan(row)
        self._log(row)

    @never_raises  # by itself: a trainer that cannot be asked must not cost the logging
    def _record_plan(self, row: Mapping[str, float]) -> None:
        plan, progress = self._plan, self._progress
        self.session.length = Length(
            plan.rows(self.session.rows, progress.row_steps),
            plan.duration_s(progress.elapsed_s, row.get("duration_s", math.nan)),
        )
        self.session.describe(
            validation_every_n_rows=plan.validation_every_n_rows,
            validation_to_training_batches=plan.validation_to_training_batches,
        )
        if self._first is not None:
            # The length of an epoch may show only now.
            self._first.look_ahead(self._batch_size)
            self._first.estimate()
            if not self._first.is_pending:
                self._first = None

    @never_raises  # by itself: a logger that fails must not cost the next row its beginning
    def _log(self, row: Mapping[str, float]) -> None:
        is_epoch = self._plan.every_n_steps is None
        values = {
            "energy/epoch_J" if is_epoch else "energy/interval_J": row.get("energy_J"),
            "energy/total_J": self.session.total_after_J(row),
            "energy/mean_power_W": row.get("mean_power_W"),
        }
        projection = self.session.projection_if_cheap()
        if projection is not None:
            values["energy/projected_J"] = projection.energy_J
            values["energy/projected_lower_J"] = projection.lower_J
            values["energy/projected_upper_J"] = projection.upper_J
        self._log_values({n: v for n, v in values.items() if v is not None and math.isfinite(v)})

    def _complete_last_row(self) -> None:
        # Another thread might give them to the row that begins meanwhile.
        if not self.session.in_row and threading.get_ident() == self._thread:
            self.log_late_metrics()

    def _log_open_row(self, samples: float) -> None:
        if self.session.in_row:
            self.session.log(steps=self._progress.row_steps, samples=samples)


def _known(samples: float) -> int | None:
    return round(samples) if math.isfinite(samples) else None
