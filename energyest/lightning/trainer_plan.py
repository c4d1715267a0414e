"""`TrainerPlan`: the planned length and validation schedule of a Lightning Trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from energyest.adapters.batch_plan import BatchPlan
from energyest.measure.signals import let_handlers_raise

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class TrainerPlan(BatchPlan):
    """The plan of a Trainer of either namespace, in its state at each call.

    Args:
        trainer: the Trainer, with its limits, loaders, loops and callbacks.
        every_n_steps: training batches in an interval; None if rows are epochs.
    """

    def __init__(self, trainer: Trainer, every_n_steps: int | None) -> None:
        super().__init__(every_n_steps)
        self._trainer = trainer

    # ------------------------------------------------------------------ what is trained

    @property
    @override
    def epoch(self) -> int:
        return int(self._trainer.current_epoch)

    @property
    @override
    def world_size(self) -> int:
        return int(self._trainer.world_size)

    @property
    @override
    def precision(self) -> str:
        return str(self._trainer.precision)

    @property
    @override
    def is_on_gpu(self) -> bool:
        return bool(self._trainer.strategy.root_device.type == "cuda")

    @property
    @override
    def loaders(self) -> Any:
        return _loaders_of(self._trainer.fit_loop)

    @property
    @override
    def validation_loaders(self) -> Any:
        return _loaders_of(self._trainer.fit_loop.epoch_loop.val_loop)

    @property
    @override
    def optimizers(self) -> Sequence[Any]:
        return self._trainer.optimizers

    @property
    @override
    def accumulate_grad_batches(self) -> int:
        return self._trainer.accumulate_grad_batches

    # ------------------------------------------------------------------ rows

    @property
    @override
    def planned_epoch_batches(self) -> float:
        return self._trainer.num_training_batches

    @override
    def epoch_samples(self, batch_size: int) -> int | None:
        loader: Any = self._trainer.train_dataloader
        is_plain = getattr(loader, "batch_size", None) == batch_size
        if not is_plain or getattr(loader, "drop_last", True):
            return None
        try:  # samplers and data sets may be the user's
            return len(loader.sampler)
        except Exception as error:
            let_handlers_raise(error)
            return None

    # ------------------------------------------------------------------ validation

    @property
    @override
    def validation_every_n_rows(self) -> float | None:
        trainer = self._trainer
        epochs, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
        if batches is None or not trainer.enable_validation:
            return None
        if self._every_n_steps is None and epochs is not None:
            return float(epochs)
        length, row = self.epoch_batches, self.row_batches
        if epochs is not None or math.isinf(batches):
            if length is None:
                return None
            # `batches` is infinite if the length of an epoch is unknown: validation is at its end.
            batches = (epochs or 1) * length / max(1, length // batches)
        return None if row is None else batches / row

    @property
    @override
    def validation_to_training_batches(self) -> float | None:
        if not self._trainer.enable_validation:
            return None
        batches = sum(self._trainer.num_val_batches)  # 0 before the loaders are created
        row = self.row_batches
        if row is None or not (0 < batches < math.inf):
            return None
        return batches / row

    @override
    def row_validation_samples(self, batch_size: int) -> int:
        first: Any = self._trainer.val_dataloaders
        while isinstance(first, list | tuple | dict) and first:
            first = next(iter(first.values() if isinstance(first, dict) else first))
        size = getattr(first, "batch_size", None) or batch_size
        return round(self._row_validation_batches() * size)

    def _row_validation_batches(self) -> float:
        trainer = self._trainer
        within_epochs, row, length = trainer.check_val_every_n_epoch, self.row_batches, None
        batches = trainer.val_check_batch
        if batches is None or row is None or not trainer.enable_validation:
            return 0.0
        validation = sum(trainer.num_val_batches)
        length = self.epoch_batches
        if not math.isfinite(validation) or (within_epochs is not None and length is None):
            return 0.0
        if within_epochs is None:
            return validation * row / batches
        assert length is not None
        each_epoch = 1 if math.isinf(batches) else max(1, length // batches)
        return validation * each_epoch / within_epochs * row / length

    # ------------------------------------------------------------------ time limits

    @override
    def duration_s(self, elapsed_s: float, row_s: float) -> float | None:
        if not math.isfinite(elapsed_s):
            return None
        ends_s = []
        # A Timer of either namespace; it stops training at the end of a batch or of an epoch.
        for timer in self._trainer.callbacks:  # type: ignore[attr-defined]
            remaining = getattr(timer, "time_remaining", None)
            remaining_s = remaining() if callable(remaining) else None
            if remaining_s is None:
                continue
            if getattr(timer, "_interval", "step") == "epoch":
                remaining_s = self._until_epoch_end(remaining_s, row_s)
            ends_s.append(elapsed_s + max(0.0, remaining_s))
        # Rounded, so that it does not depend on the moment at which the clock is read.
        return round(min(ends_s), 2) if ends_s else None

    def _until_epoch_end(self, remaining_s: float, row_s: float) -> float:
        """Seconds until the end of the epoch in which the time runs out."""
        length, every = self.epoch_batches, self._every_n_steps
        if length is None or not row_s > 0:
            return remaining_s
        if every is None:
            epoch_s, to_end_s = row_s, 0.0
        else:
            epoch_s = row_s * length / every
            to_end_s = epoch_s * (1 - self._batches_in_epoch / length)
        epochs = math.ceil(max(0.0, remaining_s - to_end_s) / epoch_s)
        return to_end_s + epochs * epoch_s

    # ------------------------------------------------------------------ batches

    @property
    @override
    def batches_seen(self) -> int:
        progress: Any = self._trainer.fit_loop.epoch_loop.batch_progress.current
        return int(progress.processed)

    @override
    def batches_to_come(self, *, at_start: bool = False) -> float:
        """Training batches from now to the end; infinite if nothing limits them."""
        trainer = self._trainer
        bounds = [math.inf]
        length = self.epoch_batches
        in_epoch: float = self._batches_in_epoch
        # Batches whose gradients await the next optimizer step; none at the end of an epoch.
        pending = self._batches_in_epoch % trainer.accumulate_grad_batches
        if not at_start and (self._every_n_steps is None or in_epoch == length):
            in_epoch, pending = length or 0, 0
        if trainer.max_epochs is not None and trainer.max_epochs >= 0 and length is not None:
            bounds.append((trainer.max_epochs - trainer.current_epoch) * length - in_epoch)
        if trainer.max_steps >= 0:
            # A batch may make any number of optimizer steps: take the mean so far.
            batches, steps = self._total_batches - pending, trainer.global_step
            to_come = max(0, trainer.max_steps - steps)
            per_step = batches / steps if steps else trainer.accumulate_grad_batches
            bounds.append(to_come * per_step - pending)
        return max(0.0, min(bounds))

    @property
    @override
    def epoch_batches(self) -> float | None:
        """Training batches per epoch; for a loader without a length, from the epochs so far."""
        trainer = self._trainer
        if math.isfinite(trainer.num_training_batches):
            return trainer.num_training_batches or None
        in_epoch = self._batches_in_epoch
        if trainer.current_epoch > 0:
            return (self._total_batches - in_epoch) / trainer.current_epoch or None
        return (in_epoch or None) if self._every_n_steps is None else None

    @property
    def _batches_in_epoch(self) -> int:
        """Training batches so far in the current epoch; 0 between two epochs."""
        epochs = self._trainer.fit_loop.epoch_progress.current
        if epochs.completed == epochs.ready:
            return 0
        return self._trainer.fit_loop.epoch_loop.batch_progress.current.completed

    @property
    def _total_batches(self) -> int:
        """Training batches so far, including those before a checkpoint."""
        return self._trainer.fit_loop.epoch_loop.batch_progress.total.completed


def _loaders_of(loop: Any) -> Any:
    combined = getattr(loop, "_combined_loader", None)
    # In sequential mode, each batch comes from one loader.
    at_once = getattr(combined, "_mode", "sequential") != "sequential"
    return getattr(combined, "iterables", None) if at_once else None
