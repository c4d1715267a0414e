"""`EnergyMonitor`: the hooks of a Lightning Trainer, translated for `tracking.Training`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.estimate import Estimate
from energyest.lightning import checkpointing, ddp
from energyest.lightning.finetuning import planned_flips
from energyest.lightning.metrics import EnergyLog, FreshMetrics
from energyest.lightning.namespaces import Callback
from energyest.lightning.run_metadata import facts_of
from energyest.lightning.spawn import SharedPath
from energyest.lightning.trainer_plan import TrainerPlan
from energyest.measure.sensors import Kind, Sensor
from energyest.measure.torch_gpus import trained_on, unreadable
from energyest.records.loading import load_trace
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload
from energyest.tracking import checks
from energyest.tracking.continuation import Position
from energyest.tracking.guard import never_raises
from energyest.tracking.live_projection import projection_of
from energyest.tracking.progress import BatchSize
from energyest.tracking.session import Session
from energyest.tracking.track import find_sensors
from energyest.tracking.training import Training

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


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
        folder: where to write the trace; by default `energy` in the Trainer's `log_dir`. If it
            holds a trace already, or a file that has the name of one of a trace's, a free name
            next to it is taken.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors, its
            memory.
        every_n_steps: batches in an interval, however many of them make an optimizer step; None
            for whole epochs.
        count_flops: watch what the first steps compute: it gives the FLOPs, as fvcore counts
            them, and PRE's first projection. Nothing is run for it. A model that is compiled or
            scripted is not watched.
        workload: what a step does, from `describe_workload`, if you have it or the model is not
            watched; the FLOPs and the first projection then come from it.
        rehearse_finetuning: ask finetuning callbacks of your own ahead, too, by calling their
            `finetune_function` for each epoch on copies; Lightning's own are asked anyway.
        sensors: sensors to use instead of those of this machine; they are closed when `fit` ends.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of the projection.
        hparams: names of hyperparameters that are to be in the trace, such as "data.root", whatever
            they hold. By default numbers, truth values and short plain words are; what could be a
            secret, an address, a path or longer text is not.
        batch_size: a function that tells how many samples are in a batch, where its build does not
            show it: `lambda batch: len(batch["lengths"])`.

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
        workload: Workload | None = None,
        rehearse_finetuning: bool = False,
        sensors: Sequence[Sensor] | None = None,
        interval_s: float = 0.1,
        confidence: float = 0.9,
        hparams: Sequence[str] = (),
        batch_size: BatchSize | None = None,
    ) -> None:
        checks.check_settings(confidence, interval_s, components, batch_size)
        self._hparams = checks.check_names("hparams", hparams)
        self._folder = checks.check_folder(folder)
        self._components = tuple(components)
        self._every = checks.check_every_n_steps(every_n_steps)
        self._count_flops = count_flops
        self._workload = checks.check_workload(workload)
        self._rehearse = rehearse_finetuning
        self._sensors = sensors
        self._interval_s = interval_s
        self._confidence = confidence
        self._batch_size = batch_size
        # What the newest `fit` has cost, also after its end; and how it goes, until then.
        self._session: Session | None = None
        self._training: Training | None = None
        self._has_begun = False
        self._log = EnergyLog()
        self._metrics = FreshMetrics()
        self._resumes_at: Position | None = None
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
        if self._training is not None:
            return self._training.trace
        return EnergyTrace({}) if self._session is None else self._session.trace

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
        return None if self._session is None else self._session.projection

    @property
    def total_J(self) -> float:
        """Joules since the training began, before a checkpoint and on all ranks; NaN before it."""
        if self._left_by_child.read() is not None:
            return self.trace.total_J
        return math.nan if self._session is None else self._session.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None before `fit` or if it is in memory only."""
        path = self._left_by_child.read()
        return path if path is not None or self._session is None else self._session.folder

    # ------------------------------------------------------------------ hooks

    @never_raises
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A fit is to come; what was left of one before it is over."""
        if stage == "fit":
            self._has_begun = False
            self._resumes_at = None

    @never_raises
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._stop("interrupted")  # a fit before this one that never came to its end

        def make(folder: Path | None, meta: Mapping[str, Any]) -> Session:
            root = trainer.strategy.root_device
            gpus = trained_on(pl_module, root)
            # Processors and memory are the machine's: one process on it counts them.
            kinds = [k for k in self._components if k == "gpu" or trainer.local_rank == 0]
            return Session(
                find_sensors(gpus, kinds, self._sensors, others=unreadable(root)),
                folder=folder,
                interval_s=self._interval_s,
                confidence=self._confidence,
                batch_size=self._batch_size,
                meta=meta,
            )

        folder = ddp.folder_for(trainer, self._folder)
        place = checkpointing.number_of(trainer, self, EnergyMonitor)
        self._session = ddp.begin(trainer, make, folder, place)
        if trainer.is_global_zero:
            self._left_by_child.write(self._session.folder)
        self._session.describe(**facts_of(trainer, pl_module, self._hparams))
        self._log = EnergyLog()
        self._metrics = FreshMetrics()
        self._metrics.forget(trainer)
        # Before the start: if Ctrl-C comes during it, the end must come too.
        self._training = Training(
            self._session,
            TrainerPlan(trainer, self._every),
            count_flops=self._count_flops,
            workload=self._workload,
            take_metrics=lambda: self._metrics.take(trainer),
            # Barebones is without any logging.
            log_values=lambda v: None if trainer.barebones else self._log.put(trainer, v),
        )
        self._has_begun = True
        self._continue(trainer)
        self._session.start()

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The callbacks are set up: what will they unfreeze, and when?"""
        if self._training is not None:
            flips = planned_flips(trainer, pl_module, users=self._rehearse)
            self._training.expect_changes(flips)

    @never_raises
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        self._flush_log(trainer)
        if self._training is not None:
            self._training.start_epoch()

    @never_raises
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch begins."""
        self._flush_log(trainer)
        if self._training is not None:
            self._training.start_batch(pl_module, batch, batch_idx)

    @never_raises
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch ends."""
        if self._training is not None:
            self._training.end_batch(pl_module, batch)

    @never_raises
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Forward and backward are over."""
        if self._training is not None:
            self._training.before_optimizer_step()

    @never_raises
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins, unless it is the sanity check or one outside of `fit`."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.start_validation()

    @never_raises
    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch is validated next."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.start_validation_batch(pl_module, dataloader_idx)

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
        """A batch was validated."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.end_validation_batch(batch, dataloader_idx)

    @never_raises
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.end_validation()

    @never_raises
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch ends."""
        if self._training is not None:
            self._training.end_epoch()

    @never_raises
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch is over."""
        # Not later: the Trainer then moves all metrics to the CPU, which makes them look fresh.
        if self._training is not None:
            self._training.end()
        self._flush_log(trainer, is_last=True)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is over."""
        if self._training is not None:
            training, self._training = self._training, None
            training.finish()

    @never_raises
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The training was broken off: by an error, by Ctrl-C or by a signal."""
        if self._training is not None:
            self._training.log_late_metrics()
            self._flush_log(trainer, is_last=True)
        self._stop(f"interrupted by {type(exception).__name__}")

    @never_raises
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever happened before: the thread ends here."""
        if stage == "fit":  # not if another Trainer validates on the way
            self._stop("finished")

    @never_raises
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """What was measured so far goes into the checkpoint: a resumed training goes on from it."""
        # Not a fit before this one, which a tuner would take along when this one is set up.
        if self._session is not None and self._has_begun:
            training = self._training
            if self._resumes_at is not None:  # by a signal, before the training has gone on
                position = self._resumes_at
            elif training is not None:
                position = training.position()
            else:
                plan = TrainerPlan(trainer, self._every)
                position = Position(self._session.checkpoint(), plan.epoch, plan.batches_seen)
            checkpointing.save(trainer, self, EnergyMonitor, position, checkpoint)

    @never_raises
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A training is resumed; some strategies say so only after it has begun."""
        if trainer.state.fn == "fit":
            position = checkpointing.load(trainer, self, EnergyMonitor, checkpoint)
            # A tuner's own checkpoint has no position in it and changes nothing; nor does one that
            # a finder of learning rates or batch sizes has made within this very fit.
            if position is None or (self._has_begun and self._is_of_this_run(position)):
                return
            self._resumes_at = position
            if self._training is not None:
                self._continue(trainer)

    # ------------------------------------------------------------------ inside

    def _is_of_this_run(self, position: Position) -> bool:
        return self._session is not None and position.earlier.run_id == self._session.run_id

    def _continue(self, trainer: Trainer) -> None:
        """Go on where the checkpoint was made, if one was loaded."""
        position = self._resumes_at
        if self._training is not None and position is not None:
            self._training.continue_from(position, is_first_rank=trainer.is_global_zero)
            self._resumes_at = None

    def _flush_log(self, trainer: Trainer, *, is_last: bool = False) -> None:
        if self._log.is_waiting:
            self._log.flush(trainer, is_last=is_last)

    def _stop(self, status: str) -> None:
        training, self._training = self._training, None
        if training is not None:
            training.interrupt(status)
        elif self._session is not None:  # broken off before there was one, or over
            self._session.stop(status)

    def __getstate__(self) -> dict[str, Any]:
        # They hold threads and open files, which cannot go to another process; and the Trainer and
        # its model. (Lightning makes the model's `log` and `log_dict` attributes of a callback.)
        log = EnergyLog()
        own = {"_session": None, "_training": None, "_has_begun": False, "_resumes_at": None}
        kept = {name: v for name, v in vars(self).items() if name not in ("log", "log_dict")}
        return {**kept, **own, "_log": log, "_metrics": FreshMetrics()}
