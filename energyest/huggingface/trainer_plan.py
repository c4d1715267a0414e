"""`TrainerPlan`: the planned length and evaluation schedule of a Hugging Face Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from energyest.adapters.batch_plan import BatchPlan

if TYPE_CHECKING:
    from transformers import Trainer

# If `max_steps` allows fewer than this many epochs, this many intervals are used instead.
_FEW_EPOCHS, _INTERVALS = 3, 50


class TrainerPlan(BatchPlan):
    """The plan of a Trainer, created when training begins; it counts epochs and batches itself.

    Args:
        trainer: the Trainer, with its arguments, state and data.
        every_n_steps: training batches in an interval. None for epochs; if `max_steps` limits the
            training to less than three epochs, or to epochs of unknown length, None means a
            fiftieth of the training.
    """

    def __init__(self, trainer: Trainer, every_n_steps: int | None) -> None:
        self._trainer = trainer
        args, state = trainer.args, trainer.state
        self._accumulates = max(1, int(args.gradient_accumulation_steps))
        self._length = _length(trainer.callback_handler.train_dataloader)
        self._seen_length: int | None = None
        self._updates = self._updates_per_epoch()
        total = self._batches_of(state.max_steps)
        if every_n_steps is None and args.max_steps > 0:
            length = self._length
            if length is None or total < _FEW_EPOCHS * length:
                every_n_steps = max(1, math.ceil(total / _INTERVALS))
        super().__init__(every_n_steps)
        # The position, if training resumes from a checkpoint.
        updates = int(state.global_step)
        self._epoch: int = updates // self._updates if self._updates else 0
        self._has_begun = False
        rest = updates % self._updates if self._updates else updates
        self._in_epoch: int = 0 if args.ignore_data_skip else rest * self._accumulates

    def _updates_per_epoch(self) -> int | None:
        """Optimizer steps per epoch, as the Trainer counts them."""
        args, length = self._trainer.args, self._length
        if length is None:
            return None
        if args.max_steps <= 0:  # older Trainers omit the last, smaller step of an epoch
            fewer = max(1, length // self._accumulates)
            if self._trainer.state.max_steps == math.ceil(args.num_train_epochs * fewer):
                return fewer
        return max(1, math.ceil(length / self._accumulates))

    def _batches_of(self, updates: int) -> int:
        """Training batches in the first `updates` optimizer steps."""
        if self._length is None or self._updates is None:
            return updates * self._accumulates
        epochs, rest = divmod(updates, self._updates)
        return epochs * self._length + min(rest * self._accumulates, self._length)

    # ------------------------------------------------------------------ counting

    def start_epoch(self) -> None:
        """Begin an epoch: the one in which a checkpoint was saved, or the next."""
        if self._has_begun:
            self._epoch += 1
            self._in_epoch = 0
        self._has_begun = True

    def count_batch(self) -> None:
        """Count a training batch."""
        self._in_epoch += 1

    def end_epoch(self) -> None:
        """End an epoch, whose length is now known."""
        self._seen_length = self._in_epoch or self._seen_length

    # ------------------------------------------------------------------ what is trained

    @property
    @override
    def epoch(self) -> int:
        return self._epoch

    @property
    @override
    def batches_seen(self) -> int:
        return self._in_epoch

    @property
    @override
    def world_size(self) -> int:
        return int(self._trainer.args.world_size)

    @property
    @override
    def precision(self) -> str:
        return precision_word(self._trainer)

    @property
    @override
    def is_on_gpu(self) -> bool:
        return bool(self._trainer.args.device.type == "cuda")

    @property
    @override
    def loaders(self) -> Any:
        return None

    @property
    @override
    def validation_loaders(self) -> Any:
        return None

    @property
    @override
    def optimizers(self) -> Sequence[Any]:
        return [] if self._trainer.optimizer is None else [self._trainer.optimizer]

    @property
    @override
    def accumulate_grad_batches(self) -> int:
        return self._accumulates

    # ------------------------------------------------------------------ rows

    @override
    def batches_to_come(self, *, at_start: bool = False) -> float:
        state = self._trainer.state
        # Batches whose gradients await the next optimizer step; none at the end of an epoch.
        pending = self._in_epoch % self._accumulates if self._in_epoch != self._length else 0
        done = self._batches_of(state.global_step) + pending
        return float(max(0, self._batches_of(state.max_steps) - done))

    @property
    @override
    def epoch_batches(self) -> float | None:
        return self._length or self._seen_length

    @property
    @override
    def planned_epoch_batches(self) -> float:
        return self._length or math.inf

    @override
    def epoch_samples(self, batch_size: int) -> int | None:
        args = self._trainer.args
        samples = _length(self._trainer.train_dataset)
        if samples is None or args.dataloader_drop_last:
            return None
        return math.ceil(samples / self.world_size)

    # ------------------------------------------------------------------ evaluation

    @property
    @override
    def validation_every_n_rows(self) -> float | None:
        strategy, row = word(self._trainer.args.eval_strategy), self.row_batches
        if strategy == "epoch":
            rows = self.rows_in_epoch
            return rows if math.isfinite(rows) else None
        if strategy == "steps" and row is not None:
            return float(self._trainer.state.eval_steps * self._accumulates / row)
        return None

    @property
    @override
    def validation_to_training_batches(self) -> float | None:
        samples, row = self._validation_samples, self.row_batches
        if samples is None or row is None or word(self._trainer.args.eval_strategy) == "no":
            return None
        args = self._trainer.args
        batches: int = math.ceil(samples / (args.eval_batch_size * args.world_size))
        return batches / row

    @override
    def row_validation_samples(self, batch_size: int) -> int:
        samples, rows = self._validation_samples, self.validation_every_n_rows
        if samples is None or rows is None:
            return 0
        return round(samples / self.world_size / rows)

    @property
    def _validation_samples(self) -> int | None:
        """Samples of one evaluation, over all data sets and ranks; None if unknown."""
        there = self._trainer.eval_dataset
        lengths = [_length(one) for one in (there.values() if isinstance(there, dict) else [there])]
        known = [length for length in lengths if length is not None]
        return sum(known) or None if len(known) == len(lengths) else None

    @override
    def duration_s(self, elapsed_s: float, row_s: float) -> float | None:
        return None  # these Trainers have no time limit


def precision_word(trainer: Trainer) -> str:
    """The number format of the model's computation, by Lightning's name."""
    if trainer.args.bf16:
        return "bf16-mixed"
    if trainer.args.fp16:
        return "16-mixed"
    words = {torch.bfloat16: "bf16-true", torch.float16: "16-true", torch.float64: "64-true"}
    return words.get(getattr(trainer.model, "dtype", None), "32-true")  # type: ignore[arg-type]


def word(option: Any) -> str:
    """The text of an argument that may be an enumeration member or its text."""
    return str(getattr(option, "value", option))


def _length(data: Any) -> int | None:
    """The length of a loader or data set; None if it has none."""
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # `len` fails for the loader of a stream
        return None
