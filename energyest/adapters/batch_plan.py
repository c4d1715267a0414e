"""`BatchPlan`: the number of rows of a training, from the number of batches still to come."""

from __future__ import annotations

import math
from abc import abstractmethod

from typing_extensions import override

from energyest.tracking.plan import TrainingPlan


class BatchPlan(TrainingPlan):
    """The part of a `TrainingPlan` that counts batches, common to all trainers.

    Args:
        every_n_steps: training batches in an interval; None if rows are epochs.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        self._every_n_steps = every_n_steps

    # ------------------------------------------------------------------ what the trainer knows

    @abstractmethod
    def batches_to_come(self, *, at_start: bool = False) -> float:
        """Training batches from now to the end; infinite if nothing limits them.

        Args:
            at_start: whether it is called at the first batch, not at the end of a row.
        """

    @property
    @abstractmethod
    def epoch_batches(self) -> float | None:
        """Training batches per epoch, known in advance or observed; None if unknown."""

    @property
    @abstractmethod
    def planned_epoch_batches(self) -> float:
        """Training batches per epoch, known in advance; infinite for a loader without a length."""

    @abstractmethod
    def epoch_samples(self, batch_size: int) -> int | None:
        """Samples per epoch if the last batch may be smaller; None if it may not, or if unknown."""

    # ------------------------------------------------------------------ rows

    @property
    @override
    def every_n_steps(self) -> int | None:
        return self._every_n_steps

    @override
    def rows(self, rows: int, batches: int) -> float | None:
        to_come, row = self.batches_to_come(), self.row_batches
        if row is None or not math.isfinite(to_come):
            return None
        if to_come > 0:
            return rows + to_come / row
        last = min(1.0, batches / row) or 1.0  # no batch: the end of a resumed epoch
        return rows - 1 + last

    @override
    def rows_at_start(self, rows: int = 0, batches: int = 0) -> float | None:
        to_come, row = self.batches_to_come(at_start=True), self.row_batches
        if row is None or not math.isfinite(to_come):
            return None
        return rows + (batches + to_come) / row or None

    @property
    def row_batches(self) -> float | None:
        """Training batches per row; None if unknown."""
        return self._every_n_steps or self.epoch_batches

    @property
    @override
    def rows_in_epoch(self) -> float:
        if self._every_n_steps is None:
            return 1.0
        return self.planned_epoch_batches / self._every_n_steps

    @override
    def row_samples(self, batch_size: int) -> int | None:
        batches = self.row_batches
        if batches is None:
            return None
        samples = round(batches * batch_size)
        there = None if self._every_n_steps is not None else self.epoch_samples(batch_size)
        is_cut = there is not None and samples - batch_size < there < samples
        return there if is_cut else samples
