"""What a Trainer knows ahead: how long its training lasts, and when it validates.

Functions of a Trainer as it stands at the end of a row of the trace, or, where they say so, at the
first batch. A row is an epoch or, where
`every` is given, an interval of that many training batches.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


def planned_rows(trainer: Trainer, rows: int, batches: int, every: int | None) -> float | None:
    """How many rows the trace will have if no time limit ends the training first.

    Args:
        trainer: bounds come from its `max_epochs` and `max_steps`.
        rows: how many rows there are.
        batches: training batches in the last of them.
        every: batches in an interval; None where rows are epochs.

    Returns:
        Whole rows and, where the training ends within one, the share of the last; None if nothing
        bounds it, or if the length of an epoch would have to be known and is not.
    """
    to_come = _batches_to_come(trainer, every)
    row = every or _epoch_batches(trainer, every)
    if row is None or not math.isfinite(to_come):
        return None
    if to_come > 0:
        return rows + to_come / row
    last = min(1.0, batches / row) or 1.0  # one without a batch: what is left of a resumed epoch
    return rows - 1 + last


def planned_rows_at_start(
    trainer: Trainer, every: int | None, rows: int = 0, batches: int = 0
) -> float | None:
    """As `planned_rows`, at the first batch; None where the length of an epoch is not known.

    Args:
        trainer: bounds come from its `max_epochs` and `max_steps`.
        every: batches in an interval; None where rows are epochs.
        rows: how many rows an earlier part of the training has.
        batches: what it has of the row that runs.
    """
    row = row_batches(trainer, every)
    to_come = _batches_to_come(trainer, every, at_start=True)
    if row is None or not math.isfinite(to_come):
        return None
    return rows + (batches + to_come) / row or None


def row_batches(trainer: Trainer, every: int | None) -> float | None:
    """Training batches in a row; None if unknown."""
    return every or _epoch_batches(trainer, every)


def row_samples(trainer: Trainer, every: int | None, batch_size: int) -> int | None:
    """Training samples in a row, at the first batch; None if unknown."""
    batches = row_batches(trainer, every)
    if batches is None:
        return None
    samples = round(batches * batch_size)
    loader: Any = trainer.train_dataloader
    is_cut = getattr(loader, "batch_size", None) == batch_size
    if every is None and is_cut and not getattr(loader, "drop_last", True):
        try:  # the last batch may be smaller; samplers and data sets are users' own
            there = len(loader.sampler)
        except Exception:
            return samples
        if samples - batch_size < there < samples:
            return there
    return samples


def row_validation_samples(trainer: Trainer, every: int | None, batch_size: int) -> int:
    """Samples that are validated for each row, in the mean, at the first batch; 0 if unknown.

    Args:
        trainer: its loaders of validation tell their batch size.
        every: batches in an interval; None where rows are epochs.
        batch_size: of the loaders that do not tell theirs.
    """
    loaders: Any = trainer.val_dataloaders
    first = loaders
    while isinstance(first, list | tuple | dict) and first:
        first = next(iter(first.values() if isinstance(first, dict) else first))
    size = getattr(first, "batch_size", None) or batch_size
    return round(_row_validation_batches(trainer, every) * size)


def _row_validation_batches(trainer: Trainer, every: int | None) -> float:
    within_epochs, row = trainer.check_val_every_n_epoch, row_batches(trainer, every)
    batches = trainer.val_check_batch
    if batches is None or row is None or not trainer.enable_validation:
        return 0.0
    validation = sum(trainer.num_val_batches)
    length = _epoch_batches(trainer, every)
    if not math.isfinite(validation) or (within_epochs is not None and length is None):
        return 0.0
    if within_epochs is None:
        return validation * row / batches
    assert length is not None
    each_epoch = 1 if math.isinf(batches) else max(1, length // batches)
    return validation * each_epoch / within_epochs * row / length


def planned_duration_s(
    trainer: Trainer, elapsed_s: float, row_s: float, every: int | None
) -> float | None:
    """When a time limit ends the training, in seconds since the first row began; None without.

    Pauses are left out, as in `duration_s` of the rows.

    Args:
        trainer: `Trainer(max_time=...)` gives it a `Timer`; so may the user.
        elapsed_s: seconds of all rows so far; NaN if unknown.
        row_s: seconds that the last row took.
        every: batches in an interval; None where rows are epochs.
    """
    if not math.isfinite(elapsed_s):
        return None
    ends_s = []
    # A Timer of either namespace; it stops the training at the end of a batch, or of an epoch.
    for timer in trainer.callbacks:  # type: ignore[attr-defined]
        remaining = getattr(timer, "time_remaining", None)
        remaining_s = remaining() if callable(remaining) else None
        if remaining_s is None:
            continue
        if getattr(timer, "_interval", "step") == "epoch":
            remaining_s = _until_epoch_end(trainer, remaining_s, row_s, every)
        ends_s.append(elapsed_s + max(0.0, remaining_s))
    # Rounded: the same every time, though the clock was read at another moment.
    return round(min(ends_s), 2) if ends_s else None


def validation_every_n_rows(trainer: Trainer, every: int | None) -> float | None:
    """Rows from one validation to the next.

    1 also where several lie within each epoch and rows are epochs; less than 1 where validation
    comes by batches, regardless of epochs, and more often than rows end. None if there is no
    validation, or if it comes by the clock.
    """
    epochs, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if batches is None or not trainer.enable_validation:
        return None
    if every is None and epochs is not None:
        return float(epochs)
    length = _epoch_batches(trainer, every)
    row = every or length
    if epochs is not None or math.isinf(batches):
        if length is None:
            return None
        # Infinite where the length of an epoch is not known ahead: validation comes at its end.
        batches = (epochs or 1) * length / max(1, length // batches)
    return None if row is None else batches / row


def validation_to_training_batches(trainer: Trainer, every: int | None) -> float | None:
    """Batches of one validation for each training batch of a row; None if unknown."""
    if not trainer.enable_validation:
        return None
    batches = sum(trainer.num_val_batches)  # 0 before the loaders were made
    row = every or _epoch_batches(trainer, every)
    if row is None or not (0 < batches < math.inf):
        return None
    return batches / row


def _batches_to_come(trainer: Trainer, every: int | None, *, at_start: bool = False) -> float:
    """Training batches from now to the end; infinite if nothing bounds them."""
    bounds = [math.inf]
    length = _epoch_batches(trainer, every)
    in_epoch: float = _batches_in_epoch(trainer)
    # Batches whose gradients wait for the next optimizer step; an epoch's end leaves none.
    pending = _batches_in_epoch(trainer) % trainer.accumulate_grad_batches
    if not at_start and (every is None or in_epoch == length):
        in_epoch, pending = length or 0, 0
    if trainer.max_epochs is not None and trainer.max_epochs >= 0 and length is not None:
        bounds.append((trainer.max_epochs - trainer.current_epoch) * length - in_epoch)
    if trainer.max_steps >= 0:
        # A batch may make any number of optimizer steps: those so far show how many.
        batches, steps = _total_batches(trainer) - pending, trainer.global_step
        to_come = max(0, trainer.max_steps - steps)
        per_step = batches / steps if steps else trainer.accumulate_grad_batches
        bounds.append(to_come * per_step - pending)
    return max(0.0, min(bounds))


def _epoch_batches(trainer: Trainer, every: int | None) -> float | None:
    """Training batches in an epoch; of a loader without a length, as the epochs so far show."""
    if math.isfinite(trainer.num_training_batches):
        return trainer.num_training_batches or None
    in_epoch = _batches_in_epoch(trainer)
    if trainer.current_epoch > 0:
        return (_total_batches(trainer) - in_epoch) / trainer.current_epoch or None
    return (in_epoch or None) if every is None else None


def batches_seen(trainer: Trainer) -> int:
    """Training batches that the epoch under way, or the last, has been through."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(progress.processed)


def _batches_in_epoch(trainer: Trainer) -> int:
    """Training batches so far in the epoch that runs; none between two epochs."""
    epochs = trainer.fit_loop.epoch_progress.current
    if epochs.completed == epochs.ready:
        return 0
    return trainer.fit_loop.epoch_loop.batch_progress.current.completed


def _total_batches(trainer: Trainer) -> int:
    """Training batches so far, those of an earlier run that this one resumes included."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.completed


def _until_epoch_end(
    trainer: Trainer, remaining_s: float, row_s: float, every: int | None
) -> float:
    """Seconds to the end of the epoch in which the time runs out."""
    length = _epoch_batches(trainer, every)
    if length is None or not row_s > 0:
        return remaining_s
    if every is None:
        epoch_s, to_end_s = row_s, 0.0
    else:
        epoch_s = row_s * length / every
        to_end_s = epoch_s * (1 - _batches_in_epoch(trainer) / length)
    epochs = math.ceil(max(0.0, remaining_s - to_end_s) / epoch_s)
    return to_end_s + epochs * epoch_s
