"""The plan of a training: its length, and what the framework's trainer knows about it.

A row of the trace is an epoch or, if `every_n_steps` is set, an interval of that many training
batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

# Projections for training lengths that differ by more than this share are not compared.
_SAME_LENGTH = 0.01


class Length(NamedTuple):
    """The planned length of a run; None where unknown.

    Attributes:
        rows: number of rows, with a fraction if the last one is cut short.
        duration_s: time limit of the run, in seconds after the first row began.
    """

    rows: float | None = None
    duration_s: float | None = None

    def ended_after(self, rows: float) -> Length:
        """The length of a run that ended after `rows` rows, perhaps earlier than planned."""
        if not rows:
            return self
        return Length(rows if self.rows is None else min(rows, self.rows))

    def is_like(self, other: Length) -> bool:
        """Whether totals for the two lengths can be compared."""
        return all(
            a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_SAME_LENGTH))
            for a, b in zip(self, other, strict=True)
        )


class TrainingPlan(Protocol):
    """What a framework's trainer knows, as `Training` reads it from an adapter.

    Every value reflects the state of the trainer at the moment it is read.
    """

    @property
    def every_n_steps(self) -> int | None:
        """Training batches per row; None if rows are epochs."""
        ...

    @property
    def epoch(self) -> int:
        """The trainer's number for the current epoch."""
        ...

    @property
    def batches_seen(self) -> int:
        """Training batches done in the current or, between epochs, the last epoch."""
        ...

    @property
    def rows_in_epoch(self) -> float:
        """Rows per epoch; infinite if the length of an epoch is not known in advance."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        ...

    @property
    def precision(self) -> str:
        """The trainer's name for the number format of the model's computation."""
        ...

    @property
    def is_on_gpu(self) -> bool:
        """Whether the model is computed on a GPU."""
        ...

    @property
    def loaders(self) -> Any:
        """The training loader; a mapping or list if there are several."""
        ...

    @property
    def validation_loaders(self) -> Any:
        """The validation loader; a mapping or list if there are several."""
        ...

    @property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers of the training."""
        ...

    @property
    def accumulate_grad_batches(self) -> int:
        """Training batches per optimizer step."""
        ...

    @property
    def validation_every_n_rows(self) -> float | None:
        """Rows from one validation to the next; None without validation, or if unknown.

        It is also 1 if rows are epochs and each contains several validations. It is less than 1 if
        validation is scheduled by batches, regardless of epochs, and runs more often than rows end.
        """
        ...

    @property
    def validation_to_training_batches(self) -> float | None:
        """Batches of one validation divided by training batches of a row; None if unknown."""
        ...

    def rows(self, rows: int, batches: int) -> float | None:
        """Number of rows that the trace will have, as known at the end of a row.

        Args:
            rows: number of rows so far.
            batches: training batches in the last of them.

        Returns:
            The number of rows, with a fraction if the training ends within one; None if nothing
            bounds it or if the length of an epoch is unknown.
        """
        ...

    def rows_at_start(self, rows: int = 0, batches: int = 0) -> float | None:
        """Number of rows that the trace will have, as known at the first batch.

        Args:
            rows: number of rows of an earlier part of the training.
            batches: training batches that the earlier part did in the current row.
        """
        ...

    def row_samples(self, batch_size: int) -> int | None:
        """Training samples per row, as known at the first batch; None if unknown."""
        ...

    def row_validation_samples(self, batch_size: int) -> int:
        """Mean validation samples per row, as known at the first batch; 0 if unknown.

        Args:
            batch_size: batch size of loaders that do not state one.
        """
        ...

    def duration_s(self, elapsed_s: float, row_s: float) -> float | None:
        """Time limit of the training, in seconds after the first row began.

        Pauses are excluded, as in `duration_s` of the rows.

        Args:
            elapsed_s: seconds of all rows so far; NaN if unknown.
            row_s: duration of the last row in seconds.

        Returns:
            None if there is no limit.
        """
        ...
