"""`Training`: the common part of the adapters of trainers: rows, the first batch, plans.

An adapter calls it when epochs, batches and validations begin and end. `Training` reads what the
framework's trainer knows from the adapter's `TrainingPlan`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from energyest.carbon.basis import EmissionBasis
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload
from energyest.tracking.continuation import Continuation, Position
from energyest.tracking.cost.outcome import outcome_of
from energyest.tracking.first_projection import FirstProjection
from energyest.tracking.flop_watch import FlopWatch
from energyest.tracking.guard import never_raises
from energyest.tracking.plan import Length, TrainingPlan
from energyest.tracking.progress import Progress
from energyest.tracking.session import Session
from energyest.tracking.trainable_changes import ChangeWatch, Flip

Metrics = dict[str, float]


class Training:
    """A training in progress: each epoch, or each interval of a number of batches, is a row.

    Args:
        session: session that measures the training.
        plan: what the trainer knows.
        count_flops: whether to count the FLOPs of the first steps, and again after the trainable
            parameters change.
        workload: description of a step, if it was made before; then no step is watched.
        take_metrics: returns the metrics logged since its last call.
        log_values: called when a row has ended, with the values to log, by name.
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
        """Resume from the position of a checkpoint, before the first row."""
        self._continuation = Continuation(
            position,
            self.session,
            self._plan,
            self._progress,
            self._changes,
            is_first_rank=is_first_rank,
        )

    def expect_changes(self, flips: list[Flip]) -> None:
        """Announce planned changes of the trainable parameters."""
        self._changes.expect(flips)

    # ------------------------------------------------------------------ epochs and batches

    def start_epoch(self) -> None:
        """Begin an epoch, and a row unless an interval is under way."""
        self._progress.start_epoch()
        if not self.session.in_row:
            self.log_late_metrics()
            self._start_row()

    def start_batch(self, model: nn.Module, batch: Any, index: int) -> None:
        """Begin a training batch; it may begin a new interval, and the first one is examined.

        Args:
            model: the model being trained.
            batch: the next training batch.
            index: number of the batch in its epoch.
        """
        if self._interval_is_full():
            self._end_row()
        if not self.session.in_row:
            # An interval, or the rest of a resumed epoch, for which start_epoch is not called.
            self._start_row()
        if not self._batch_seen:
            self._batch_seen = True
            self._first_batch(model, batch, index)
        elif index == 0 or not self._progress.row_steps:
            self._changes.look(model, self._position)
        self._flops.begin_step(model)

    def before_optimizer_step(self) -> None:
        """Note that forward and backward pass of a batch are done."""
        self._flops.before_optimizer_step()

    def end_batch(self, model: nn.Module, batch: Any) -> None:
        """End a training batch.

        Args:
            model: the model being trained.
            batch: the training batch.
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
        """End a training batch that was aborted."""
        self._flops.leave()

    def end_epoch(self) -> None:
        """End an epoch, and the row unless it is an interval that is not full yet."""
        self._flops.leave()  # a batch may have been skipped
        self.session.describe(train_samples=_known(self._progress.end_epoch()))
        rows_are_epochs = self._plan.every_n_steps is None
        if self._progress.carried_steps and not self.session.in_row and rows_are_epochs:
            self._start_row()  # resumed at the very end of the epoch
        if rows_are_epochs or self._interval_is_full():
            self._end_row()

    def end(self) -> None:
        """End the last epoch or the last interval, however short."""
        self.log_late_metrics()
        if not self.session.in_row and self._continuation is not None:
            self._continuation.end_row()
        # An interval without a step (its first batch skipped the rest of the epoch) is no row.
        if self._plan.every_n_steps is None or self._progress.row_steps:
            self._end_row()

    def finish(self) -> None:
        """Finish the training, perhaps earlier than planned."""
        self._end_plan()
        self.session.stop("finished")

    def interrupt(self, status: str) -> None:
        """End an aborted training.

        Args:
            status: the reason, for the trace's meta.
        """
        self._flops.leave()
        self._complete_last_row()
        self._log_open_row(samples=self._progress.row_samples)
        self.session.stop(status)

    @never_raises  # guarded separately: a failing logger must not keep the Trainer from its end
    def log_outcome(self, basis: EmissionBasis) -> None:
        """Log what the whole run has cost, now that it is over.

        Args:
            basis: what turns its energy into emissions.
        """
        # A logger may know of its run in the training's own thread only, and begin one elsewhere.
        if self.session.is_first_rank and threading.get_ident() == self._thread:
            values = outcome_of(self.session.trace, basis)
            self._log_values({f"energy/run_{name}": value for name, value in values.items()})

    # ------------------------------------------------------------------ validation

    def start_validation(self) -> None:
        """Begin validation."""
        self.session.start_validation()

    def start_validation_batch(self, model: nn.Module, loader: int) -> None:
        """Begin a validation batch.

        Args:
            model: the model being validated.
            loader: number of the loader that the batch comes from.
        """
        self._flops.begin_validation_batch(model, loader)

    def end_validation_batch(self, batch: Any, loader: int) -> None:
        """End a validation batch.

        Args:
            batch: the batch.
            loader: as in `start_validation_batch`.
        """
        samples = self.session.samples_in(batch, self._plan.validation_loaders)
        self._flops.end_validation_batch(samples, loader)
        self._progress.validation_samples += math.nan if samples is None else samples

    def end_validation(self) -> None:
        """End validation."""
        self.session.end_validation()
        self.session.describe(validation_samples=_known(self._progress.validation_samples))
        self._progress.validation_samples = 0

    # ------------------------------------------------------------------ metrics, checkpoints

    def log_late_metrics(self) -> None:
        """Add metrics that were logged late to the current row or the last one."""
        metrics = self._take_metrics()
        if self.session.rows or self.session.in_row:
            self.session.log(**metrics)

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far."""
        self._complete_last_row()
        return self.session.trace

    def position(self) -> Position:
        """The position and the cost of the training; every rank has to call this."""
        self._complete_last_row()
        self._log_open_row(samples=self._progress.row_samples * self._plan.world_size)
        return Position(self.session.checkpoint(), self._plan.epoch, self._plan.batches_seen)

    # ------------------------------------------------------------------ inside

    @property
    def _position(self) -> float:
        """Number of rows that have ended, plus the share of the current one."""
        every = self._plan.every_n_steps
        return self.session.rows + (0.0 if every is None else self._progress.row_steps / every)

    def _first_batch(self, model: nn.Module, batch: Any, index: int) -> None:
        """Describe a step, project from it, and look for planned changes."""
        session = self.session
        self._batch_size = session.samples_in(batch, self._plan.loaders)
        session.describe(batch_size=self._batch_size)
        if self._describes and not session.rows:  # an earlier part says more than PRE
            self._first = FirstProjection(session, self._plan, self._workload)
            self._first.look_ahead(self._batch_size)
        self._changes.begin(model, index, self._position)
        if session.rows:  # an earlier part of the run says more than PRE
            rows = self._plan.rows_at_start(session.rows, self._progress.row_steps)
            session.length = session.length._replace(rows=rows)
        elif self._first is not None:
            self._first.estimate()  # if the workload is already known

    def _interval_is_full(self) -> bool:
        every = self._plan.every_n_steps
        return self.session.in_row and every is not None and self._progress.row_steps >= every

    def _start_row(self) -> None:
        if self._continuation is not None:
            self._continuation.before_row()
        if not self.session.rows:
            self.session.describe(first_epoch=self._plan.epoch)
        # In this order, so that counts are reset when the row begins.
        self._progress.start_row()
        self.session.start_row(self._plan.epoch, continues=True)

    def _end_row(self) -> None:
        """End a row: record it, project, and log both."""
        if not self.session.in_row:
            return
        progress = self._progress
        counts = {"steps": progress.row_steps, "samples": progress.row_samples}
        flops = self._flops.row_flops(progress.row_samples, progress.row_steps)
        if math.isfinite(flops):
            counts["flops"] = flops
        # An epoch's metrics are taken later: the trainer has yet to compute them.
        metrics = {} if self._plan.every_n_steps is None else self._take_metrics()
        row = self.session.end_row({**counts, **metrics})
        progress.elapsed_s += row.get("duration_s", math.nan)
        if self._continuation is not None:
            self._continuation.compare_gpus()
        # Only now: the number of steps in an epoch may show only at its end.
        self._record_plan(row)
        self._log(row)

    @never_raises  # guarded separately: an error of the trainer's must not prevent logging
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
            # The length of an epoch may be known only now.
            self._first.look_ahead(self._batch_size)
            self._first.estimate()
            if not self._first.is_pending:
                self._first = None

    @never_raises  # guarded separately: a failing logger must not prevent the next row
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

    @never_raises  # guarded separately: the run has to end in any case
    def _end_plan(self) -> None:
        """The length of the training is what was done of it; a row that was cut short is a part."""
        session = self.session
        trace = session.trace
        rows = session.rows - len(trace) + trace.epochs_done
        session.length = session.length.ended_after(rows)

    def _complete_last_row(self) -> None:
        # In another thread, they might go to a row that begins meanwhile.
        if not self.session.in_row and threading.get_ident() == self._thread:
            self.log_late_metrics()

    def _log_open_row(self, samples: float) -> None:
        if self.session.in_row:
            self.session.log(steps=self._progress.row_steps, samples=samples)


def _known(samples: float) -> int | None:
    return round(samples) if math.isfinite(samples) else None
