"""`EnergyMonitor`: the hooks of a Lightning Trainer, translated for `tracking.Training`."""

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
        budget_kWh, budget_kg, budget_hours: what the training may use, emit (CO2e) and take; see
            docs/how_to/stop_at_a_budget.md. With several processes, the same on every rank.
        on_exceed: "warn" that a budget is exceeded or will be; or "stop" to end the training then,
            as `trainer.should_stop` does, with a checkpoint if the Trainer makes any.
        carbon_intensity: of the electricity: a country, such as "DE", or
            a number in g CO2e per kWh; by default the setting, see docs/reference/settings.md.
        pue: power usage effectiveness of the data centre, for CO2e alone; by default the setting,
            or 1.
        quiet: leave out the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is out of its range. Once training runs, nothing is raised.
        EstimateError: the country is not known, or the intensity is negative or not finite.

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
        """A fit is to come; what was left of one before it is over."""
        if stage == "fit":
            self._has_begun = False
            self._resumes_at = None

    @never_raises
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._begin_fit(trainer, pl_module)
        # As Lightning's Timer does at the end of a batch.
        agree = trainer.strategy.broadcast if trainer.world_size > 1 else None
        self._watch_budget(agree, is_first_rank=trainer.is_global_zero)

    @never_raises
    def _begin_fit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop("interrupted")  # a fit before this one that never came to its end
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
            # Barebones is without any logging.
            log_values=lambda v: None if trainer.barebones else self._log.put(trainer, v),
            is_first_rank=trainer.is_global_zero,
        )

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
        self._end_batch(pl_module, batch)
        self._keep_to_budget(trainer, epoch_ends=False)

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
        self._end_epoch()
        self._keep_to_budget(trainer, epoch_ends=True)

    @never_raises
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch is over."""
        # Not later: the Trainer then moves all metrics to the CPU, which makes them look fresh.
        if self._training is not None:
            self._training.end()
        self._flush_log(trainer, is_last=True)
        if self._watch_of_budget is not None and self._watch_of_budget.must_stop:
            checkpointing.save_last(trainer)

    @never_raises
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is over."""
        self._finish()

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
            number = places.place_of(trainer, self, EnergyMonitor).number
            checkpointing.save(position, number, checkpoint)

    @never_raises
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A training is resumed; some strategies say so only after it has begun."""
        if trainer.state.fn == "fit":
            number = places.place_of(trainer, self, EnergyMonitor).number
            position = checkpointing.load(number, checkpoint)
            # A tuner's own checkpoint has no position in it and changes nothing; nor does one that
            # a finder of learning rates or batch sizes has made within this very fit.
            if position is None or (self._has_begun and self._is_of_this_run(position)):
                return
            self._resumes_at = position
            if self._training is not None:
                self._continue(is_first_rank=trainer.is_global_zero)

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """What Hugging Face's Trainer calls, which takes another callback."""
        raise ConfigurationError(
            "EnergyMonitor is for Lightning's Trainer: Hugging Face's takes EnergyCallback, "
            "`from energyest import EnergyCallback`"
        )

    on_train_begin = on_init_end  # of a Trainer that it was added to later

    # ------------------------------------------------------------------ inside

    # Guarded by themselves: what fails in them must not keep this rank from what all do together.
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
        # They hold the Trainer and its model. (Lightning makes the model's `log` and `log_dict`
        # attributes of a callback.)
        kept = {n: v for n, v in super().__getstate__().items() if n not in ("log", "log_dict")}
        return {**kept, "_log": EnergyLog(), "_metrics": FreshMetrics()}
