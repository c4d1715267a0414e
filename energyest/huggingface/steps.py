"""`TrainerSteps`: passes epochs, batches and evaluations of a Trainer on to a `Training`.

The Trainer's events show neither the batch nor the start of an evaluation, and the end of an epoch
comes before its evaluation. Some of the Trainer's methods are therefore wrapped during training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from energyest.huggingface.taps import Tap
from energyest.huggingface.trainer_plan import TrainerPlan
from energyest.tracking.guard import never_raises
from energyest.tracking.training import Training

if TYPE_CHECKING:
    from transformers import Trainer

_After = Callable[[BaseException | None], None]


class TrainerSteps:
    """Follows a Trainer through its training, until `leave`.

    Attributes:
        failure: class of the error that ended a step or an evaluation; empty if there was none.

    Args:
        trainer: the Trainer.
        plan: counts epochs and batches.
        training: receives epochs, batches and evaluations.
        after_epoch: called when an epoch and its evaluation are over.
    """

    def __init__(
        self,
        trainer: Trainer,
        plan: TrainerPlan,
        training: Training,
        *,
        after_epoch: Callable[[], None],
    ) -> None:
        self.failure = ""
        self._plan = plan
        self._training: Training | None = training
        self._after_epoch = after_epoch
        # The model and batch of the current step or evaluation.
        self._model: nn.Module | None = None
        self._batch: Any = None
        # Number of evaluations under way; they are nested if there are several data sets.
        self._evaluations = 0
        self._data_set = 0
        self._is_validating = False
        self._epoch_is_over = False
        methods: dict[str, tuple[Callable[..., None], _After]] = {
            "training_step": (self._start_batch, self._end_batch),
            "evaluate": (self._start_evaluation, self._end_evaluation),
            "predict": (self._start_evaluation, self._end_evaluation),
            "prediction_step": (self._start_prediction, self._end_prediction),
        }
        self._taps = [Tap(trainer, name, *both) for name, both in methods.items()]

    def leave(self) -> None:
        """Restore the Trainer's methods."""
        self._training = None
        for tap in reversed(self._taps):
            tap.remove()

    # ------------------------------------------------------------------ epochs

    def start_epoch(self) -> None:
        """Begin an epoch."""
        self.finish_epoch()
        self._plan.start_epoch()
        if self._training is not None:
            self._training.start_epoch()

    def end_epoch(self, *, is_evaluated: bool) -> None:
        """End an epoch.

        Args:
            is_evaluated: whether an evaluation, which belongs to the epoch, is still to come.
        """
        self._plan.end_epoch()
        self._epoch_is_over = True
        if not is_evaluated:
            self.finish_epoch()

    def finish_epoch(self) -> None:
        """Finish an ended epoch after its evaluation, or if there was none."""
        if self._epoch_is_over:
            self._epoch_is_over = False
            self._end_epoch()
            self._after_epoch()

    @never_raises  # guarded separately: every rank has to make the calls that follow
    def _end_epoch(self) -> None:
        if self._training is not None:
            self._training.end_epoch()

    # ------------------------------------------------------------------ batches

    @never_raises
    def _start_batch(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> None:
        if self._training is not None:
            self._model, self._batch = _unwrapped(model), inputs
            self._training.start_batch(self._model, inputs, self._plan.batches_seen)

    @never_raises
    def _end_batch(self, error: BaseException | None) -> None:
        model, batch, self._batch = self._model, self._batch, None
        if self._training is None or model is None:
            return
        if error is not None:
            self.failure = type(error).__name__
            self._training.abandon_batch()
            return
        self._plan.count_batch()
        self._training.end_batch(model, batch)

    # ------------------------------------------------------------------ evaluations

    @never_raises
    def _start_evaluation(self, *_: Any, **__: Any) -> None:
        self._evaluations += 1
        if self._evaluations == 1:
            self._data_set = 0
            # An evaluation before the first epoch belongs to no epoch.
            self._is_validating = self._training is not None and self._training.session.in_row
            if self._training is not None and self._is_validating:
                self._training.start_validation()

    @never_raises
    def _end_evaluation(self, error: BaseException | None) -> None:
        self._evaluations -= 1
        self._data_set += 1
        if error is not None:
            self.failure = type(error).__name__
        if self._evaluations == 0 and self._training is not None:
            if self._is_validating:
                self._is_validating = False
                self._training.end_validation()
            if error is None:
                self.finish_epoch()

    @never_raises
    def _start_prediction(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> None:
        if self._training is not None and self._is_validating:
            self._batch = inputs
            self._training.start_validation_batch(_unwrapped(model), self._data_set)

    @never_raises
    def _end_prediction(self, error: BaseException | None) -> None:
        batch, self._batch = self._batch, None
        if self._training is None or not self._is_validating:
            return
        if error is not None:
            self._training.abandon_batch()
        else:
            self._training.end_validation_batch(batch, self._data_set)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model without its DistributedDataParallel wrapper."""
    return model.module if isinstance(model, DistributedDataParallel) else model
