"""`TrainerSteps`: tells a training of epochs, batches and evaluations of a Trainer.

Its events do not show what a batch holds, nor when an evaluation begins, and an epoch's end comes
before its evaluation: so some of its methods are tapped while it trains.
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
        failure: the class of the error that has left a step or an evaluation; empty without.

    Args:
        trainer: which trains.
        plan: counts its epochs and batches.
        training: is told of them.
        after_epoch: called when an epoch is over, with its evaluation.
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
        # What a step or an evaluation works on.
        self._model: nn.Module | None = None
        self._batch: Any = None
        # Evaluations under way, one in the other where there are several data sets.
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
        """Leave the Trainer as it was."""
        self._training = None
        for tap in reversed(self._taps):
            tap.remove()

    # ------------------------------------------------------------------ epochs

    def start_epoch(self) -> None:
        """An epoch begins."""
        self.finish_epoch()
        self._plan.start_epoch()
        if self._training is not None:
            self._training.start_epoch()

    def end_epoch(self, *, is_evaluated: bool) -> None:
        """An epoch ends.

        Args:
            is_evaluated: whether an evaluation is to come, which belongs to it.
        """
        self._plan.end_epoch()
        self._epoch_is_over = True
        if not is_evaluated:
            self.finish_epoch()

    def finish_epoch(self) -> None:
        """The evaluation of an epoch that has ended is over, too, or has not come."""
        if self._epoch_is_over:
            self._epoch_is_over = False
            self._end_epoch()
            self._after_epoch()

    @never_raises  # by itself: on every rank, what comes after it has to come
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
            # What is evaluated before the first epoch is in none.
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
    """The model as one process trains it."""
    return model.module if isinstance(model, DistributedDataParallel) else model
