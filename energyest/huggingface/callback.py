"""`EnergyCallback`: the events of Hugging Face's Trainer, translated for `tracking.Training`."""

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
    """Measures the energy of `Trainer.train`, epoch by epoch, and projects the whole training.

        callback = EnergyCallback()
        trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])
        trainer.train()
        callback.trace.epochs

    Works in the Trainer of transformers and in those below it, such as Seq2SeqTrainer and those of
    TRL. The trace grows in `<output_dir>/energy` while training runs; `energyest.load_trace` reads
    it. To all that the Trainer reports to go `energy/epoch_J`, `energy/total_J`,
    `energy/mean_power_W` and, as soon as there is a projection, `energy/projected_J` with
    `energy/projected_lower_J` and `energy/projected_upper_J`.

    An epoch lasts from the end of the one before to its own end, its evaluation included: what lies
    between two epochs, such as saving a checkpoint, belongs to the later one. What the training
    logs becomes columns of the trace, but for what bears the name of a column it has anyway.

    With several processes, every rank needs the callback; rank 0's results are those of all. What
    was measured goes into the folders of checkpoints, and a training that goes on from one goes on
    with its trace. `push_to_hub` puts the emissions into the model's card.

    A training of one epoch is projected by intervals instead: `EnergyCallback(every_n_steps=200)`.
    An interval lasts from the first of so many batches to the first batch of the next, with what
    lies between, such as an evaluation; one that is full at the end of an epoch ends there.
    `energy/interval_J` then takes the place of `energy/epoch_J`.

    Args:
        folder: where to write the trace; by default `energy` in the Trainer's `output_dir`, which
            `push_to_hub` uploads. If it holds a trace already, or a file that has the name of one
            of a trace's, a free name next to it is taken.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors, its
            memory.
        every_n_steps: batches in an interval, however many of them make an optimizer step. None
            for whole epochs; or for a fiftieth of the training, where `max_steps` bounds it to less
            than three epochs, or their length is not known.
        count_flops: watch what the first steps compute: it gives the FLOPs, as fvcore counts
            them, and PRE's first projection. Nothing is run for it. A model that is compiled or
            scripted is not watched.
        workload: what a step does, from `describe_workload`, if you have it or the model is not
            watched; the FLOPs and the first projection then come from it.
        sensors: sensors to use instead of those of this machine; they are closed when `train` ends.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of the projection.
        hparams: names of arguments that are to be in the trace, whatever they hold. By default
            those that were given are, as far as they are numbers, truth values or short plain
            words; what could be a secret, an address, a path or longer text is not.
        batch_size: a function that tells how many samples are in a batch, where its build does not
            show it: `lambda batch: len(batch["lengths"])`.
        budget_kWh, budget_kg, budget_hours: what the training may use, emit (CO2e) and take; see
            docs/how_to/stop_at_a_budget.md. With several processes, the same on every rank.
        on_exceed: "warn" that a budget is exceeded or will be; or "stop" to end the training then,
            as `should_training_stop` does, with a checkpoint.
        carbon_intensity: of the electricity, also for the model's card: a country, such as "DE", or
            a number in g CO2e per kWh; by default the setting, see
            docs/reference/settings.md. The card goes by the world's mean without either.
        pue: power usage effectiveness of the data centre, for CO2e alone; by default the setting,
            or 1.
        quiet: leave out the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is out of its range. Once training runs, nothing is raised.
        EstimateError: the country is not known, or the intensity is negative or not finite.
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
        """Nothing is known of a training."""
        self._log = EnergyLog()
        self._watch: CallWatch | None = None
        self._steps: TrainerSteps | None = None

    # ------------------------------------------------------------------ events

    @never_raises
    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A Trainer was made: no event will tell if an exception ends its training."""
        trainer = call_of(self).trainer
        Tap(trainer, "train", self._begin_call, self._end_call)
        self._tap_card(trainer)

    @never_raises
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to measure."""
        self._begin_training(args, state)
        agree = _broadcast if args.world_size > 1 else None
        self._watch_budget(agree, is_first_rank=args.process_index == 0)

    @never_raises
    def _begin_training(self, args: Any, state: Any) -> None:
        self._end_unnoticed()  # a training before this one that never came to its end
        self._forget()
        call = call_of(self)
        trainer = call.trainer
        place = self._place_in(trainer)
        folder = self._folder or default_folder(args.output_dir)
        # It tells more of GPUs and of what is run than what it wraps.
        session = self._begin(trainer.model_wrapped, args.device, folder, place)
        session.describe(**facts_of(trainer, self._hparams))
        self._resumes_at = None
        if state.global_step:
            self._load(call, place)
        plan = TrainerPlan(trainer, self._every)
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

    @never_raises
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch begins."""
        if self._steps is not None:
            self._steps.start_epoch()

    @never_raises
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An optimizer step ends."""
        self._keep_to_budget(control, epoch_ends=False)

    @never_raises
    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """An epoch ends, but for its evaluation if that is to come."""
        self._end_epoch(is_evaluated=control.should_evaluate)
        if self._asks_others:
            self._keep_to_budget(control, epoch_ends=True)

    @never_raises  # by itself: on every rank, what comes after it has to come
    def _end_epoch(self, *, is_evaluated: bool) -> None:
        if self._steps is not None:
            self._steps.end_epoch(is_evaluated=is_evaluated)

    @never_raises
    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Something was logged."""
        self._log.see(logs)

    @never_raises
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What was measured so far goes into the checkpoint: a resumed training goes on from it."""
        if self._training is not None and self._steps is not None:
            self._steps.finish_epoch()
            position = self._training.position()
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and folder.is_dir():
                checkpoint_file.save(folder, self._place_in(call_of(self).trainer).number, position)

    @never_raises
    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The training is over."""
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
        """Whether ranks look at the budget together: at events, which come on all of them."""
        return self._watch_of_budget is not None and self._watch_of_budget.asks_others

    def _after_epoch(self, control: Any) -> None:
        """An epoch is over with its evaluation, which no event says: a rank may not see it."""
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
        """From now on, whenever the model's card is written, it tells of the emissions."""
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
        """A training is resumed: what had it cost?"""
        why = "the checkpoint holds no record of energy"
        try:
            if call.checkpoint is not None:
                self._resumes_at = checkpoint_file.load(Path(call.checkpoint), place.number)
        except TraceError as error:
            why = str(error)
            log.warning("energyest: %s", error)
        if self._resumes_at is None and self._session is not None:
            self._session.note(
                f"what the training had cost before its checkpoint is not in this trace: {why}"
            )

    def _begin_call(self, *_: Any, **__: Any) -> None:
        """The call of a training begins, and its end will be told of."""
        self._is_called_by_tap = True

    @never_raises
    def _end_call(self, error: BaseException | None) -> None:
        """The call of the training has ended."""
        self._is_called_by_tap = False
        self._stop("finished" if error is None else f"interrupted by {type(error).__name__}")

    @override
    def _notice_end(self) -> None:
        if self._watch is not None and self._watch.is_over:
            self._end_unnoticed()

    @never_raises
    def _end_unnoticed(self) -> None:
        """An exception has ended a training, and its call was not told of or goes on."""
        failure = "" if self._steps is None else self._steps.failure
        self._stop(f"interrupted by {failure}" if failure else "interrupted")

    @override
    def _stop(self, status: str) -> None:
        self._let_go()
        super()._stop(status)

    def _let_go(self) -> None:
        """Leave the Trainer as it was."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.leave()

    @override
    def __getstate__(self) -> dict[str, Any]:
        # They hold the Trainer, and a thread.
        own = dict.fromkeys(("_steps", "_watch", "_has_card_of"))
        fresh = {"_log": EnergyLog(), "_is_called_by_tap": False}
        return {**super().__getstate__(), **own, **fresh}

    # ------------------------------------------------------------------ in the wrong Trainer

    # Lightning's Trainer asks for it before it calls a hook.
    state_key = "EnergyCallback"

    def setup(self, *_: Any, **__: Any) -> None:
        """What Lightning's Trainer calls first, which takes another callback."""
        raise ConfigurationError(
            "EnergyCallback is for Hugging Face's Trainer: Lightning's takes EnergyMonitor, "
            "`from energyest import EnergyMonitor`"
        )

    def on_exception(self, *_: Any, **__: Any) -> None:
        """What Lightning's Trainer calls after that: the error is on its way."""

    teardown = on_exception


def _broadcast(look: Look) -> Look:
    """What rank 0 says, on every rank: by what the Trainer itself talks with."""
    from accelerate.utils import broadcast_object_list  # noqa: PLC0415  (comes with transformers)

    known: Look = broadcast_object_list([look])[0]
    return known
