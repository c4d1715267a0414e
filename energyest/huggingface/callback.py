"""`EnergyCallback`: a callback that passes the events of Hugging Face's Trainer to `Training`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from energyest.adapters.monitor import Monitor
from energyest.adapters.processes import Place, default_folder
from energyest.carbon import Intensity
from energyest.errors import ConfigurationError, TraceError
from energyest.huggingface import checkpoint_file, model_card
from energyest.huggingface.base import TrainerCallback, check_installed
from energyest.huggingface.calls import CallWatch, TrainerCall, call_of
from energyest.huggingface.logs import EnergyLog
from energyest.huggingface.run_metadata import facts_of
from energyest.huggingface.steps import TrainerSteps
from energyest.huggingface.taps import Tap
from energyest.huggingface.trainer_plan import TrainerPlan
from energyest.measure.sensors import Kind, Sensor
from energyest.records.workload import Workload
from energyest.tracking.cost.budget import OnExceed
from energyest.tracking.cost.watch import Look
from energyest.tracking.guard import never_raises
from energyest.tracking.progress import BatchSize

if TYPE_CHECKING:
    from transformers import Trainer

log = logging.getLogger("energyest")


class EnergyCallback(Monitor, TrainerCallback):
    """Measures the energy of `Trainer.train` epoch by epoch and projects the whole training.

        callback = EnergyCallback()
        trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])
        trainer.train()
        callback.trace.epochs

    Works with the Trainer of transformers and its subclasses, such as Seq2SeqTrainer and those of
    TRL. The trace grows in `<output_dir>/energy` during training; `energyest.load_trace` reads it.
    The callback logs `energy/epoch_J`, `energy/total_J`, `energy/mean_power_W` and, as soon as
    there is a projection, `energy/projected_J`, `energy/projected_lower_J` and
    `energy/projected_upper_J` to everything that the Trainer reports to; at the end, what the whole
    run has cost, as `energy/run_kWh` and more.

    An epoch lasts from the end of the previous epoch to its own end, including its evaluation.
    Energy used between two epochs, for example to save a checkpoint, counts towards the later one.
    Metrics that the training logs become columns of the trace, unless they have the name of a
    column that the callback fills itself.

    With several processes, every rank needs the callback; the results at rank 0 cover all ranks.
    The measurements are stored in the checkpoint folders: when a training resumes from one, its
    trace continues. `push_to_hub` adds the emissions to the model card.

    To project a training of a single epoch, use intervals: `EnergyCallback(every_n_steps=200)`. An
    interval lasts from its first batch to the first batch of the next interval, including anything
    in between, such as an evaluation. An interval that is full at the end of an epoch ends there.
    `energy/interval_J` then takes the place of `energy/epoch_J`.

    Args:
        folder: where to write the trace; by default `energy` in the Trainer's `output_dir`, which
            `push_to_hub` uploads. If it already holds a trace, or a file with the name of a trace
            file, a free name next to it is used.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors and
            its memory; on request also "module" and "system", see
            docs/how_to/measure_a_node.md.
        every_n_steps: batches per interval, regardless of gradient accumulation. None for whole
            epochs; if `max_steps` limits the training to less than three epochs, or to epochs of
            unknown length, None means a fiftieth of the training.
        count_flops: observe the operations of the first steps, for FLOPs (counted as fvcore does)
            and for PRE's first projection. No extra step is run. Compiled and scripted models are
            not observed.
        workload: description of a step, from `describe_workload`. If given, the FLOPs and the
            first projection come from it; useful for models that are not observed.
        sensors: sensors to use instead of those of this machine; they are closed when `train` ends.
        interval_s: sampling interval in seconds; GPUs update their readings every 0.1 s. It becomes
            0.5 s in long epochs, while power is steady and the energy counters work.
        confidence: coverage probability of the interval of the projection.
        hparams: names of training arguments to record in the trace whatever their values. By
            default, arguments that were set are recorded if they are numbers, booleans or short
            plain words; possible secrets, addresses, paths and longer text are not.
        batch_size: a function that returns the number of samples in a batch, if the structure of
            the batch does not show it: `lambda batch: len(batch["lengths"])`.
        budget_kWh, budget_kg, budget_hours: how much energy the training may use, how much CO2e it
            may emit and how long it may take; see docs/how_to/stop_at_a_budget.md. With several
            processes, pass the same values on every rank.
        on_exceed: "warn" when a budget is exceeded or will be, or "stop" to end the training then,
            by setting `should_training_stop`, with a checkpoint.
        carbon_intensity: carbon intensity of the electricity, also for the model card: a country,
            such as "DE", or a number in g CO2e per kWh; by default the setting, see
            docs/reference/settings.md. Without either, the model card uses the world mean.
        pue: power usage effectiveness of the data centre, for CO2e only; by default the setting,
            or 1.
        quiet: omit the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is invalid. Nothing is raised once training has started.
        EstimateError: the country is unknown, or the intensity is negative or not finite.
        ImportError: transformers is not installed.

    Examples:
        >>> from transformers import Trainer, TrainingArguments
        >>> from energyest import EnergyCallback
        >>> callback = EnergyCallback(quiet=True)
        >>> args = TrainingArguments('out', num_train_epochs=2, disable_tqdm=True, report_to=[])
        >>> result = Trainer(text_model, args, train_dataset=texts, callbacks=[callback]).train()
        {'energy/epoch_J': ...}
        >>> len(callback.trace)
        2
    """

    _name = "EnergyCallback"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        components: Sequence[Kind] = ("gpu", "cpu", "ram"),
        every_n_steps: int | None = None,
        count_flops: bool = True,
        workload: Workload | None = None,
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
        check_installed()
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
        self._has_card_of: weakref.ref[Trainer] | None = None
        self._is_called_by_tap = False
        self._forget()

    def _forget(self) -> None:
        """Reset everything known about a training."""
        self._log = EnergyLog()
        self._watch: CallWatch | None = None
        self._steps: TrainerSteps | None = None
        self._tap_of_end: Tap | None = None

    # ------------------------------------------------------------------ events

    @never_raises
    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wrap methods of a new Trainer: no event reports an exception that ends its training."""
        trainer = call_of(self).trainer
        Tap(trainer, "train", self._begin_call, self._end_call)
        self._tap_card(trainer)

    @never_raises
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start measuring."""
        self._begin_training(args, state)
        agree = _broadcast if args.world_size > 1 else None
        self._watch_budget(agree, is_first_rank=args.process_index == 0)

    @never_raises
    def _begin_training(self, args: Any, state: Any) -> None:
        self._end_unnoticed()  # an earlier training that did not end properly
        self._forget()
        call = call_of(self)
        trainer = call.trainer
        place = self._place_in(trainer)
        folder = self._folder or default_folder(args.output_dir)
        # The wrapped model shows more about the GPUs and the computation than the inner one.
        session = self._begin(trainer.model_wrapped, args.device, folder, place)
        session.describe(**facts_of(trainer, self._hparams))
        self._resumes_at = None
        if state.global_step:
            self._load(call, place)
        plan = TrainerPlan(trainer, self._every)
        if self._resumes_at is not None and plan.every_n_steps is None:
            position = self._resumes_at.resumed_within(plan.epoch, plan.batches_seen)
            self._resumes_at = position
        self._tap_card(trainer)
        if not self._is_called_by_tap:
            self._watch = CallWatch(call.frame, self._end_unnoticed)
        self._start(
            session,
            plan,
            take_metrics=self._log.take,
            log_values=lambda v: self._log.put(trainer, v) if place.rank == 0 else None,
            is_first_rank=place.rank == 0,
        )
        assert self._training is not None
        self._steps = TrainerSteps(
            trainer,
            plan,
            self._training,
            after_epoch=lambda: self._after_epoch(trainer.control),
        )
        # Before the callbacks of loggers close their runs, which would otherwise begin anew.
        handler = trainer.callback_handler
        self._tap_of_end = Tap(handler, "on_train_end", self._end_training, lambda _: None)

    @never_raises
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin an epoch."""
        if self._steps is not None:
            self._steps.start_epoch()

    @never_raises
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check the budget after an optimizer step."""
        self._keep_to_budget(control, epoch_ends=False)

    @never_raises
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End an epoch, except for its evaluation if one is still to come."""
        self._end_epoch(is_evaluated=control.should_evaluate)
        if self._asks_others:
            self._keep_to_budget(control, epoch_ends=True)

    @never_raises  # guarded separately: every rank has to make the calls that follow
    def _end_epoch(self, *, is_evaluated: bool) -> None:
        if self._steps is not None:
            self._steps.end_epoch(is_evaluated=is_evaluated)

    @never_raises
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Note what was logged."""
        self._log.see(logs)

    @never_raises
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Store the measurements so far in the checkpoint, so that a training can resume."""
        if self._training is not None and self._steps is not None:
            self._steps.finish_epoch()
            position = self._training.position()
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                checkpoint_file.save(folder, self._place_in(call_of(self).trainer).number, position)

    @never_raises
    def _end_training(self, *_: Any) -> None:
        """Finish the training."""
        if self._steps is not None:
            self._steps.finish_epoch()
        self._let_go()
        if self._training is not None:
            try:
                self._training.end()
            finally:
                self._finish()

    @property
    def _asks_others(self) -> bool:
        """Whether ranks check the budget together, at events that occur on all of them."""
        return self._watch_of_budget is not None and self._watch_of_budget.asks_others

    def _after_epoch(self, control: Any) -> None:
        """Check the budget after an epoch and its evaluation, which a rank may not see."""
        if not self._asks_others:
            self._keep_to_budget(control, epoch_ends=True)

    def _keep_to_budget(self, control: Any, *, epoch_ends: bool) -> None:
        if self._is_over_budget(epoch_ends=epoch_ends):
            if not control.should_training_stop:
                control.should_save = True
            control.should_training_stop = True

    # ------------------------------------------------------------------ beginning and end

    def _place_in(self, trainer: Trainer) -> Place:
        args = trainer.args
        alike = [c for c in trainer.callback_handler.callbacks if isinstance(c, EnergyCallback)]
        number = next((i for i, callback in enumerate(alike) if callback is self), 0)
        return Place(
            args.process_index, args.local_process_index, args.world_size, number=str(number)
        )

    def _tap_card(self, trainer: Trainer) -> None:
        """From now on, add the emissions whenever the model card is written."""
        if self._has_card_of is None or self._has_card_of() is not trainer:
            self._has_card_of = weakref.ref(trainer)
            Tap(trainer, "create_model_card", None, lambda e: self._end_card(trainer, e))

    @never_raises
    def _end_card(self, trainer: Trainer, error: BaseException | None) -> None:
        if error is None and self._session is not None and trainer.is_world_process_zero():
            pretrained = model_card.is_pretrained(trainer)
            fields = model_card.emissions_of(
                self.trace, self._settings.carbon_intensity, is_pretrained=pretrained
            )
            model_card.add_emissions(Path(trainer.args.output_dir) / "README.md", fields)

    def _load(self, call: TrainerCall, place: Place) -> None:
        """Load the earlier cost of a resumed training from its checkpoint."""
        why = "the checkpoint holds no energy record"
        try:
            if call.checkpoint is not None:
                self._resumes_at = checkpoint_file.load(Path(call.checkpoint), place.number)
        except TraceError as error:
            why = str(error)
            log.warning("energyest: %s", error)
        if self._resumes_at is None and self._session is not None:
            self._session.note(f"the energy used before the checkpoint is not in this trace: {why}")

    def _begin_call(self, *_: Any, **__: Any) -> None:
        """Note that a training call begins whose end will be reported."""
        self._is_called_by_tap = True

    @never_raises
    def _end_call(self, error: BaseException | None) -> None:
        """End the training, because its call has ended."""
        self._is_called_by_tap = False
        status = "finished" if error is None else f"interrupted by {type(error).__name__}"
        self._stop(status, logs=True)

    @override
    def _notice_end(self) -> None:
        if self._watch is not None and self._watch.is_over:
            self._end_unnoticed()

    @never_raises
    def _end_unnoticed(self) -> None:
        """End a training that an exception ended, if its call was not wrapped or still runs."""
        failure = "" if self._steps is None else self._steps.failure
        self._stop(f"interrupted by {failure}" if failure else "interrupted")

    @override
    def _stop(self, status: str, *, logs: bool = False) -> None:
        self._let_go()
        super()._stop(status, logs=logs)

    def _let_go(self) -> None:
        """Restore the Trainer's methods."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.leave()
        tap, self._tap_of_end = self._tap_of_end, None
        if tap is not None:
            tap.remove()

    @override
    def __getstate__(self) -> dict[str, Any]:
        # These refer to the Trainer and to a thread.
        own = dict.fromkeys(("_steps", "_tap_of_end", "_watch", "_has_card_of"))
        fresh = {"_log": EnergyLog(), "_is_called_by_tap": False}
        return {**super().__getstate__(), **own, **fresh}

    # ------------------------------------------------------------------ in the wrong Trainer

    # Lightning's Trainer reads this before it calls a hook.
    state_key = "EnergyCallback"

    def setup(self, *_: Any, **__: Any) -> None:
        """Raise an error: Lightning's Trainer calls this first, and needs another callback."""
        raise ConfigurationError(
            "EnergyCallback is for Hugging Face's Trainer. With Lightning's Trainer, use "
            "EnergyMonitor: `from energyest import EnergyMonitor`"
        )

    def on_exception(self, *_: Any, **__: Any) -> None:
        """Do nothing: Lightning's Trainer calls this after the error in `setup`."""

    teardown = on_exception


def _broadcast(look: Look) -> Look:
    """Return the result of rank 0 on every rank, with the Trainer's own means."""
    from accelerate.utils import broadcast_object_list  # noqa: PLC0415  (comes with transformers)

    known: Look = broadcast_object_list([look])[0]
    return known
