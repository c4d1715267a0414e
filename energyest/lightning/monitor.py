"""`EnergyMonitor`: a Lightning callback that passes the Trainer's hooks on to `Training`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.adapters.monitor import Monitor
from energyest.carbon import Intensity
from energyest.errors import ConfigurationError
from energyest.lightning import checkpointing, places
from energyest.lightning.finetuning import planned_flips
from energyest.lightning.metrics import EnergyLog, FreshMetrics
from energyest.lightning.namespaces import Callback
from energyest.lightning.run_metadata import facts_of
from energyest.lightning.trainer_plan import TrainerPlan
from energyest.measure.sensors import Kind, Sensor
from energyest.records.workload import Workload
from energyest.tracking.continuation import Position
from energyest.tracking.cost.budget import OnExceed
from energyest.tracking.guard import never_raises
from energyest.tracking.progress import BatchSize

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer


class EnergyMonitor(Monitor, Callback):
    """Measures the energy of `Trainer.fit` epoch by epoch and projects the whole training.

        monitor = EnergyMonitor()
        trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
        trainer.fit(model)
        monitor.trace.epochs

    Works with the Trainer of `pytorch_lightning` and of `lightning.pytorch`. The trace grows in
    `<log_dir>/energy` during training; `energyest.load_trace` reads it. The monitor logs
    `energy/epoch_J`, `energy/total_J`, `energy/mean_power_W` and, as soon as there is a projection,
    `energy/projected_J`, `energy/projected_lower_J` and `energy/projected_upper_J` to every logger;
    at the end, what the whole run has cost, as `energy/run_kWh` and more.

    An epoch lasts from the end of the previous epoch to its own end, including validation. Energy
    used between two epochs, for example to save a checkpoint, counts towards the later one. The
    metrics that you log become columns of the trace, unless they have the name of a column that
    the monitor fills itself.

    With several processes, every rank needs a monitor; the results at rank 0 cover all ranks. The
    measurements are stored in the Trainer's checkpoints: when a training resumes from one, its
    trace continues.

    To project a training of a single epoch, or one bounded by `max_steps`, use intervals:
    `EnergyMonitor(every_n_steps=200)`. An interval lasts from its first batch to the first batch of
    the next interval, including anything in between, such as validation. An interval that is full
    at the end of an epoch ends there.
    `energy/interval_J` then takes the place of `energy/epoch_J`.

    Args:
        folder: where to write the trace; by default `energy` in the Trainer's `log_dir`. If it
            already holds a trace, or a file with the name of a trace file, a free name next to it
            is used.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors and
            its memory; on request also "module" and "system", see
            docs/how_to/measure_a_node.md.
        every_n_steps: batches per interval, regardless of gradient accumulation; None for whole
            epochs.
        count_flops: observe the operations of the first steps, for FLOPs (counted as fvcore does)
            and for PRE's first projection. No extra step is run. Compiled and scripted models are
            not observed.
        workload: description of a step, from `describe_workload`. If given, the FLOPs and the
            first projection come from it; useful for models that are not observed.
        rehearse_finetuning: also find out in advance what your own finetuning callbacks will do,
            by calling their `finetune_function` on copies for each epoch. This is always done for
            Lightning's own callbacks.
        sensors: sensors to use instead of those of this machine; they are closed when `fit` ends.
        interval_s: sampling interval in seconds; GPUs update their readings every 0.1 s. It becomes
            0.5 s in long epochs, while power is steady and the energy counters work.
        confidence: coverage probability of the interval of the projection.
        hparams: names of hyperparameters, such as "data.root", to record in the trace whatever
            their values. By default, numbers, booleans and short plain words are recorded; possible
            secrets, addresses, paths and longer text are not.
        batch_size: a function that returns the number of samples in a batch, if the structure of
            the batch does not show it: `lambda batch: len(batch["lengths"])`.
        budget_kWh, budget_kg, budget_hours: how much energy the training may use, how much CO2e it
            may emit and how long it may take; see docs/how_to/stop_at_a_budget.md. With several
            processes, pass the same values on every rank.
        on_exceed: "warn" when a budget is exceeded or will be, or "stop" to end the training then,
            by setting `trainer.should_stop`, with a checkpoint if the Trainer saves any.
        carbon_intensity: carbon intensity of the electricity: a country, such as "DE", or a number
            in g CO2e per kWh; by default the setting, see docs/reference/settings.md.
        pue: power usage effectiveness of the data centre, for CO2e only; by default the setting,
            or 1.
        quiet: omit the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is invalid. Nothing is raised once training has started.
        EstimateError: the country is unknown, or the intensity is negative or not finite.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from energyest import EnergyMonitor
        >>> monitor = EnergyMonitor(quiet=True)
        >>> quiet = {'enable_progress_bar': False, 'enable_model_summary': False}
        >>> pl.Trainer(max_epochs=3, callbacks=[monitor], **quiet).fit(model, datamodule)
        >>> len(monitor.trace)
        3
    """

    _name = "EnergyMonitor"

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
        budget_kWh: float | None = None,
        budget_kg: float | None = None,
        budget_hours: float | None = None,
        on_exceed: OnExceed = "warn",
        carbon_intensity: Intensity | None = None,
        pue: float | None = None,
        quiet: bool | None = None,
    ) -> None:
        super().__init__(
            folder,
            components=components,
            every_n_steps=every_n_steps,
            count_flops=count_flops,
            workload=workload,
            sensors=sensors,
            interval_s=interval_s,
            confidence=confidence,
            hparams=hparams,
            batch_size=batch_size,
            budget_kWh=budget_kWh,
            budget_kg=budget_kg,
            budget_hours=budget_hours,
            on_exceed=on_exceed,
            carbon_intensity=carbon_intensity,
            pue=pue,
            quiet=quiet,
        )
        self._rehearse = rehearse_finetuning
        self._log = EnergyLog()
        self._metrics = FreshMetrics()

    # ------------------------------------------------------------------ hooks

    @never_raises
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare for a new fit; discard the state of an earlier one."""
        if stage == "fit":
            self._has_begun = False
            self._resumes_at = None

    @never_raises
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start measuring."""
        self._begin_fit(trainer, pl_module)
        # As Lightning's Timer does at the end of a batch.
        agree = trainer.strategy.broadcast if trainer.world_size > 1 else None
        self._watch_budget(agree, is_first_rank=trainer.is_global_zero)

    @never_raises
    def _begin_fit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop("interrupted")  # an earlier fit that did not end properly
        folder = places.folder_for(trainer, self._folder)
        place = places.place_of(trainer, self, EnergyMonitor)
        session = self._begin(pl_module, trainer.strategy.root_device, folder, place)
        session.describe(**facts_of(trainer, pl_module, self._hparams))
        self._log = EnergyLog()
        self._metrics = FreshMetrics()
        self._metrics.forget(trainer)
        self._start(
            session,
            TrainerPlan(trainer, self._every),
            take_metrics=lambda: self._metrics.take(trainer),
            # A barebones Trainer does not log.
            log_values=lambda v: None if trainer.barebones else self._log.put(trainer, v),
            is_first_rank=trainer.is_global_zero,
        )

    @never_raises
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find out what the callbacks will unfreeze, now that they are set up."""
        if self._training is not None:
            flips = planned_flips(trainer, pl_module, users=self._rehearse)
            self._training.expect_changes(flips)

    @never_raises
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch."""
        self._flush_log(trainer)
        if self._training is not None:
            self._training.start_epoch()

    @never_raises
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a training batch."""
        self._flush_log(trainer)
        if self._training is not None:
            self._training.start_batch(pl_module, batch, batch_idx)

    @never_raises
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a training batch."""
        self._end_batch(pl_module, batch)
        self._keep_to_budget(trainer, epoch_ends=False)

    @never_raises
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """Note that forward and backward pass of a batch are done."""
        if self._training is not None:
            self._training.before_optimizer_step()

    @never_raises
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin validation, unless it is the sanity check or outside `fit`."""
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
        """Begin a validation batch."""
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
        """End a validation batch."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.end_validation_batch(batch, dataloader_idx)

    @never_raises
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End validation."""
        if self._training is not None and not trainer.sanity_checking:
            self._training.end_validation()

    @never_raises
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an epoch."""
        self._end_epoch()
        self._keep_to_budget(trainer, epoch_ends=True)

    @never_raises
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch."""
        # Not later: the Trainer then moves all metrics to the CPU, which makes them look new.
        if self._training is not None:
            self._training.end()
        self._flush_log(trainer, is_last=True)
        if self._watch_of_budget is not None and self._watch_of_budget.must_stop:
            checkpointing.save_last(trainer)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the training."""
        self._finish()
        self._flush_log(trainer, is_last=True)

    @never_raises
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End a training that was aborted by an error, Ctrl-C or a signal."""
        if self._training is not None:
            self._training.log_late_metrics()
            self._flush_log(trainer, is_last=True)
        self._stop(f"interrupted by {type(exception).__name__}", logs=True)
        self._flush_log(trainer, is_last=True)

    @never_raises
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop measuring, whatever happened before."""
        if stage == "fit":  # not after a validation by another Trainer
            self._stop("finished")

    @never_raises
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the measurements so far in the checkpoint, so that a training can resume."""
        # Not those of an earlier fit, which a tuner would store while this one is set up.
        if self._session is not None and self._has_begun:
            training = self._training
            if self._resumes_at is not None:  # by a signal handler, before the training resumed
                position = self._resumes_at
            elif training is not None:
                position = training.position()
            else:
                plan = TrainerPlan(trainer, self._every)
                position = Position(self._session.checkpoint(), plan.epoch, plan.batches_seen)
            number = places.place_of(trainer, self, EnergyMonitor).number
            checkpointing.save(position, number, checkpoint)

    @never_raises
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume a training; some strategies call this only after it has begun."""
        if trainer.state.fn == "fit":
            number = places.place_of(trainer, self, EnergyMonitor).number
            position = checkpointing.load(number, checkpoint)
            # Ignore a tuner's own checkpoint, which has no position, and one that a learning-rate
            # or batch-size finder saved within this fit.
            if position is None or (self._has_begun and self._is_of_this_run(position)):
                return
            self._resumes_at = position
            if self._training is not None:
                self._continue(is_first_rank=trainer.is_global_zero)

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Raise an error: Hugging Face's Trainer calls this, and needs another callback."""
        raise ConfigurationError(
            "EnergyMonitor is for Lightning's Trainer. With Hugging Face's Trainer, use "
            "EnergyCallback: `from energyest import EnergyCallback`"
        )

    on_train_begin = on_init_end  # if it was added after the Trainer was created

    # ------------------------------------------------------------------ inside

    # Guarded separately: an error here must not keep this rank from calls that all ranks make.
    @never_raises
    def _end_batch(self, pl_module: LightningModule, batch: Any) -> None:
        if self._training is not None:
            self._training.end_batch(pl_module, batch)

    @never_raises
    def _end_epoch(self) -> None:
        if self._training is not None:
            self._training.end_epoch()

    def _keep_to_budget(self, trainer: Trainer, *, epoch_ends: bool) -> None:
        if self._is_over_budget(epoch_ends=epoch_ends):
            trainer.should_stop = True

    def _is_of_this_run(self, position: Position) -> bool:
        return self._session is not None and position.earlier.run_id == self._session.run_id

    def _flush_log(self, trainer: Trainer, *, is_last: bool = False) -> None:
        if self._log.is_waiting:
            self._log.flush(trainer, is_last=is_last)

    def __getstate__(self) -> dict[str, Any]:
        # Leave out what refers to the Trainer and its model. (Lightning sets the model's `log` and
        # `log_dict` as attributes of a callback.)
        kept = {n: v for n, v in super().__getstate__().items() if n not in ("log", "log_dict")}
        return {**kept, "_log": EnergyLog(), "_metrics": FreshMetrics()}
