"""`EnergyMonitor`: the hooks of a Lightning Trainer, translated into `track()`'s run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback

from energyest.estimate import Estimate
from energyest.lightning import checkpointing, ddp
from energyest.lightning import trainer_plan as plan
from energyest.lightning.first_projection import FirstProjection
from energyest.lightning.metrics import FreshMetrics, log_epoch, log_interval
from energyest.lightning.progress import Progress
from energyest.lightning.run_metadata import facts_of
from energyest.lightning.spawn import SharedPath
from energyest.lightning.trainable_changes import ChangeWatch
from energyest.measure.sensors import Kind, Sensor
from energyest.measure.torch_gpus import trained_on
from energyest.profiling.batches import batch_size
from energyest.records.loading import load_trace
from energyest.records.trace import EnergyTrace
from energyest.tracking.checks import check_count, check_folder, check_settings
from energyest.tracking.guard import never_raises
from energyest.tracking.live_projection import projection_of
from energyest.tracking.session import Run
from energyest.tracking.track import find_sensors

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

log = logging.getLogger("energyest")


class EnergyMonitor(Callback):
    """Measures the energy of `Trainer.fit`, epoch by epoch, and projects the whole training.

        monitor = EnergyMonitor()
        trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
        trainer.fit(model)
        monitor.trace.epochs

    Works in the Trainers of `pytorch_lightning` and of `lightning.pytorch`. The trace grows in
    `<log_dir>/energy` while training runs; `energyest.load_trace` reads it. To every logger go
    `energy/epoch_J`, `energy/total_J`, `energy/mean_power_W` and, as soon as there is a projection,
    `energy/projected_J` with `energy/projected_lower_J` and `energy/projected_upper_J`.

    An epoch lasts from the end of the one before to its own end, validation included: what lies
    between two epochs, such as saving a checkpoint, belongs to the later one. The metrics that you
    log become columns of the trace, but for those that bear the name of a column it has anyway.

    With several processes, every rank needs a monitor; rank 0's results are those of all. What was
    measured goes into the Trainer's checkpoints, and a training that goes on from one goes on with
    its trace.

    A training of one epoch, or of `max_steps`, is projected by intervals instead:
    `EnergyMonitor(every_n_steps=200)`. An interval lasts from the first of so many batches to the
    first batch of the next, with what lies between, such as validation; one that is full at the end
    of an epoch ends there.
    `energy/interval_J` then takes the place of `energy/epoch_J`.

    Args:
        folder: where to write the trace; by default `energy` in the Trainer's `log_dir`. A folder
            that holds a trace already is not overwritten: a free name next to it is taken.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors, its
            memory.
        every_n_steps: batches in an interval, however many of them make an optimizer step; None
            for whole epochs.
        count_flops: count the FLOPs of the model on a copy, with fvcore: at the first batch, and
            where other parameters become trainable. The copy also shows what a step does, from
            which PRE makes the first projection.
        rehearse_finetuning: ask finetuning callbacks of your own ahead, too, by calling their
            `finetune_function` for each epoch on copies; Lightning's own are asked anyway.
        sensors: sensors to use instead of those of this machine; they are closed when `fit` ends.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of the projection.

    Raises:
        ConfigurationError: an argument is out of its range. Once training runs, nothing is raised.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        components: Sequence[Kind] = ("gpu", "cpu", "ram"),
        every_n_steps: int | None = None,
        count_flops: bool = True,
        rehearse_finetuning: bool = False,
        sensors: Sequence[Sensor] | None = None,
        interval_s: float = 0.1,
        confidence: float = 0.9,
    ) -> None:
        check_settings(confidence, interval_s, components)
        if every_n_steps is not None:
            check_count(every_n_steps, "every_n_steps")
        self._folder = check_folder(folder)
        self._components = tuple(components)
        self._every = every_n_steps
        self._count_flops = count_flops
        self._rehearse = rehearse_finetuning
        self._sensors = sensors
        self._interval_s = interval_s
        self._confidence = confidence
        self._run: Run | None = None
        self._running = False
        self._in_row = False
        self._progress = Progress()
        self._batch_seen = False
        self._metrics = FreshMetrics()
        self._changes: ChangeWatch | None = None
        self._first: FirstProjection | None = None
        self._continuation = checkpointing.Continuation()
        self._has_begun = False
        self._left_by_child = SharedPath()

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far, of the newest `fit`; also while training runs.

        Of a `fit` in spawned processes, it is read from its folder each time.

        Raises:
            TraceError: that folder cannot be read.
        """
        path = self._left_by_child.read()
        if path is not None:
            return load_trace(path)
        return EnergyTrace({}) if self._run is None else self._run.trace

    @property
    def projection(self) -> Estimate | None:
        """Newest estimate of the whole training; None if nothing is known yet.

        On one GPU that PRE knows, it is PRE's at the first batch, to which STEP succeeds as epochs
        come in; else it is STEP's, from the training's third epoch or so on. With several ranks,
        rank 0's is of them all.
        """
        path = self._left_by_child.read()
        if path is not None:
            return projection_of(load_trace(path))
        return None if self._run is None else self._run.projection

    @property
    def total_J(self) -> float:
        """Joules since the training began, before a checkpoint and on all ranks; NaN before it."""
        if self._left_by_child.read() is not None:
            return self.trace.total_J
        return math.nan if self._run is None else self._run.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None before `fit` or if it is in memory only."""
        path = self._left_by_child.read()
        return path if path is not None or self._run is None else self._run.folder

    # ------------------------------------------------------------------ hooks

    @never_raises
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit is to come; what was left of one before it is over."""
        if stage == "fit":
            self._has_begun = False
            self._continuation = checkpointing.Continuation()

    @never_raises
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._finish("interrupted")  # a fit before this one that never came to its end

        def make(folder: Path | None, meta: Mapping[str, Any]) -> Run:
            gpus = trained_on(pl_module, trainer.strategy.root_device)
            # Processors and memory are the machine's: one process on it counts them.
            kinds = [k for k in self._components if k == "gpu" or trainer.local_rank == 0]
            return Run(
                find_sensors(gpus, kinds, self._sensors),
                folder=folder,
                interval_s=self._interval_s,
                confidence=self._confidence,
                meta=meta,
            )

        self._run = ddp.begin(trainer, make, ddp.folder_for(trainer, self._folder))
        if trainer.is_global_zero:
            self._left_by_child.write(self._run.folder)
        self._batch_seen = False
        self._first = None
        self._progress = Progress()
        self._metrics.forget(trainer)
        if self._every is not None:
            self._run.describe(interval_steps=self._every)
        self._run.describe(**facts_of(trainer, pl_module))
        self._changes = ChangeWatch(
            self._run, count_flops=self._count_flops, rehearse=self._rehearse
        )
        self._in_row = False
        self._has_begun = True
        self._go_on(trainer)
        self._running = True  # before the start: if Ctrl-C comes during it, the end must come too
        self._run.start()

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The callbacks are set up: what will they thaw, and when?"""
        if self._changes is not None and self._running:
            self._changes.foresee(trainer, pl_module)

    @never_raises
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins, and with it a row, unless an interval goes on."""
        self._progress.start_epoch()
        if not self._in_row:
            self._log_late_metrics(trainer)
            self._start_row(trainer)

    @never_raises
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The interval before may be full; the first batch shows what the model's input is."""
        if self._interval_is_full():
            self._end_row(trainer, pl_module)
        if not self._in_row:
            # An interval; or what is left of a resumed epoch, which Lightning does not announce.
            self._start_row(trainer)
        if self._run is None or self._changes is None:
            return
        if not self._batch_seen:
            self._batch_seen = True
            self._run.describe(batch_size=batch_size(batch))
            if self._count_flops:
                self._first = FirstProjection(self._run, self._confidence)
                count = self._run.count_flops(pl_module, batch)
                self._first.describe(trainer, pl_module, batch, count)
            position = self._progress.row_position(self._every)
            self._changes.begin(trainer, pl_module, batch, self._every, batch_idx, position)
            if self._progress.rows:  # an earlier part of the run, which tells more than PRE
                self._run.planned_epochs = plan.planned_rows_at_start(
                    trainer, self._every, self._progress.rows, self._progress.row_steps
                )
            elif self._first is not None:
                self._first.estimate(trainer, self._every)
        elif batch_idx == 0 or not self._progress.row_steps:
            self._changes.look(pl_module, batch, self._progress.row_position(self._every))

    @never_raises
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count steps and samples."""
        self._progress.steps += 1
        self._progress.samples += batch_size(batch) or 0

    @never_raises
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins, unless it is the sanity check or one outside of `fit`."""
        if self._run is not None and self._running and not trainer.sanity_checking:
            self._run.start_validation()

    @never_raises
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count samples."""
        self._progress.validation_samples += batch_size(batch) or 0

    @never_raises
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends."""
        if self._run is not None and self._running and not trainer.sanity_checking:
            self._run.end_validation()
            self._run.describe(validation_samples=self._progress.validation_samples)
        self._progress.validation_samples = 0

    @never_raises
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch ends, and with it a row, unless it is an interval that is not full yet."""
        if self._run is not None and self._running:
            self._run.describe(train_samples=self._progress.end_epoch())
        if self._progress.carried_steps and not self._in_row and self._every is None:
            self._start_row(trainer)  # resumed where only this end was left of the epoch
        if self._every is None or self._interval_is_full():
            self._end_row(trainer, pl_module)

    @never_raises
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch is over, and with it the last interval, however short."""
        # Not later: the Trainer then moves all metrics to the CPU, which makes them look fresh.
        self._log_late_metrics(trainer)
        if not self._in_row and self._run is not None:
            self._continuation.end_row(self._run, self._progress)
        self._end_row(trainer, pl_module)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is over, perhaps earlier than it was planned to be."""
        if self._run is not None and self._running and self._progress.rows:
            planned = self._run.planned_epochs
            if planned is None or planned > self._progress.rows:
                self._run.planned_epochs = self._progress.rows
            self._run.planned_duration_s = None
        self._finish("finished")

    @never_raises
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The training was broken off: by an error, by Ctrl-C or by a signal."""
        # Metrics of several processes are computed together, and the others may not come.
        if trainer.world_size == 1:
            self._log_late_metrics(trainer)
        if self._run is not None and self._in_row:
            self._run.log(steps=self._progress.row_steps, samples=self._progress.row_samples)
        self._finish(f"interrupted by {type(exception).__name__}")

    @never_raises
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever happened before: the thread ends here."""
        if stage == "fit":  # not if another Trainer validates on the way
            self._finish("finished")

    @never_raises
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What was measured so far goes into the checkpoint: a resumed training goes on from it."""
        # Not a fit before this one, which a tuner would take along when this one is set up.
        if self._run is not None and self._has_begun:
            if self._in_row:
                progress = self._progress
                samples = progress.row_samples * trainer.world_size
                self._run.log(steps=progress.row_steps, samples=samples)
            checkpointing.save(trainer, self, EnergyMonitor, self._run, checkpoint)

    @never_raises
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A training is resumed; some strategies say so only after it has begun."""
        if trainer.state.fn == "fit":
            self._continuation.expect(checkpointing.load(trainer, self, EnergyMonitor, checkpoint))
            if self._running:
                self._go_on(trainer)

    # ------------------------------------------------------------------ inside

    @never_raises  # by itself: what goes wrong here must not cost the measurement
    def _go_on(self, trainer: Trainer) -> None:
        if self._run is not None and self._changes is not None:
            self._continuation.begin(trainer, self._run, self._progress, self._changes, self._every)

    def _interval_is_full(self) -> bool:
        return self._in_row and self._every is not None and self._progress.row_steps >= self._every

    def _start_row(self, trainer: Trainer) -> None:
        if self._run is None or not self._running:
            return
        self._continuation.before_row(trainer, self._run, self._progress, self._every)
        self._in_row = True
        self._progress.start_row()
        if not self._progress.rows:
            self._run.describe(first_epoch=trainer.current_epoch)
        self._run.start_epoch(trainer.current_epoch, continues=True)

    def _end_row(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch or interval ends: record it, project, and log both."""
        if self._run is None or not self._in_row:
            return
        self._in_row = False
        metrics = self._metrics.take(trainer)
        progress = self._progress
        row = self._run.end_epoch(
            steps=progress.row_steps, samples=progress.row_samples or math.nan, **metrics
        )
        progress.rows += 1
        progress.elapsed_s += row.get("duration_s", math.nan)
        if self._changes is not None:
            self._continuation.compare_gpus(self._run, self._changes)
        # Known only now: how many steps an epoch makes shows at its end.
        self._record_plan(trainer, row)
        if not trainer.barebones:  # without any logging, and it would warn about ours
            self._log(trainer, pl_module, row)

    @never_raises  # by itself: a Trainer that cannot be asked must not cost the logging
    def _record_plan(self, trainer: Trainer, row: Mapping[str, float]) -> None:
        assert self._run is not None
        progress, every = self._progress, self._every
        self._run.planned_epochs = plan.planned_rows(
            trainer, progress.rows, progress.row_steps, every
        )
        self._run.planned_duration_s = plan.planned_duration_s(
            trainer, progress.elapsed_s, row.get("duration_s", math.nan), every
        )
        self._run.describe(
            validation_every_n_rows=plan.validation_every_n_rows(trainer, every),
            validation_to_training_batches=plan.validation_to_training_batches(trainer, every),
        )
        if self._first is not None:
            self._first.estimate(trainer, every)  # where the length of an epoch shows only now

    def _finish(self, status: str) -> None:
        if self._run is not None and self._running:
            self._running = self._in_row = False
            self._run.stop(status)

    def _log_late_metrics(self, trainer: Trainer) -> None:
        """Give the row that runs or has ended what was logged after this callback's turn."""
        if self._run is not None and self._running:
            metrics = self._metrics.take(trainer)
            if self._progress.rows or self._in_row:
                self._run.log(**metrics)

    @never_raises  # by itself: a logger that fails must not cost the next interval its beginning
    def _log(self, trainer: Trainer, pl_module: LightningModule, row: Mapping[str, float]) -> None:
        assert self._run is not None
        values = {
            "energy/epoch_J" if self._every is None else "energy/interval_J": row.get("energy_J"),
            "energy/total_J": self._run.total_J,
            "energy/mean_power_W": row.get("mean_power_W"),
        }
        projection = self._run.projection_if_cheap()
        if projection is not None:
            values["energy/projected_J"] = projection.energy_J
            values["energy/projected_lower_J"] = projection.lower_J
            values["energy/projected_upper_J"] = projection.upper_J
        known = {n: v for n, v in values.items() if v is not None and math.isfinite(v)}
        if self._every is None:
            log_epoch(trainer, pl_module, known)
        else:
            log_interval(trainer, known)

    def __getstate__(self) -> dict[str, Any]:
        # A run holds a thread and open files, which cannot go to another process.
        gone = {"_run": None, "_changes": None, "_first": None}
        return {**self.__dict__, **gone, "_running": False, "_in_row": False}
