"""What is known ahead of a training: how long it is to be, and what its framework's trainer says.

A row of the trace is an epoch or, where `every_n_steps` is given, an interval of that many training
batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

# Projections for lengths of the training that differ by more than this are not compared.
_SAME_LENGTH = 0.01


class Length(NamedTuple):
    """How long a run is to be; None where unknown.

    Attributes:
        rows: number of rows, with a fraction where the last is cut short.
        duration_s: seconds since the first of them began, after which a time limit ends the run.
    """

    rows: float | None = None
    duration_s: float | None = None

    def ended_after(self, rows: float) -> Length:
        """That of a run that is over after so many rows, perhaps earlier than it was to be."""
        if not rows:
            return self
        return Length(rows if self.rows is None else min(rows, self.rows))

    def is_like(self, other: Length) -> bool:
        """Whether totals of the two can be compared."""
        return all(
            a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_SAME_LENGTH))
            for a, b in zip(self, other, strict=True)
        )


class TrainingPlan(Protocol):
    """What a framework's trainer knows, as `Training` asks an adapter for it.

    All of it is asked of the trainer as it stands at that moment.
    """

    @property
    def every_n_steps(self) -> int | None:
        """Training batches in a row; None where rows are epochs."""
        ...

    @property
    def epoch(self) -> int:
        """The trainer's number of the epoch under way."""
        ...

    @property
    def batches_seen(self) -> int:
        """Training batches that the epoch under way, or the last, has been through."""
        ...

    @property
    def rows_in_epoch(self) -> float:
        """Rows in an epoch; infinite if its length is not known ahead."""
        ...

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        ...

    @property
    def precision(self) -> str:
        """The trainer's word for the format in which its model is computed."""
        ...

    @property
    def is_on_gpu(self) -> bool:
        """Whether the model is computed on a GPU."""
        ...

    @property
    def loaders(self) -> Any:
        """Where a training batch comes from: a mapping or list where several loaders are asked."""
        ...

    @property
    def validation_loaders(self) -> Any:
        """The same of a validation batch."""
        ...

    @property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers of the training."""
        ...

    @property
    def accumulate_grad_batches(self) -> int:
        """Training batches to an optimizer step."""
        ...

    @property
    def validation_every_n_rows(self) -> float | None:
        """Rows from one validation to the next; None without validation, or if unknown.

        1 also where several lie within each epoch and rows are epochs; less than 1 where validation
        comes by batches, regardless of epochs, and more often than rows end.
        """
        ...

    @property
    def validation_to_training_batches(self) -> float | None:
        """Batches of one validation for each training batch of a row; None if unknown."""
        ...

    def rows(self, rows: int, batches: int) -> float | None:
        """How many rows the trace will have, at the end of one of them.

        Args:
            rows: how many there are.
            batches: training batches in the last of them.

        Returns:
            Whole rows and, where the training ends within one, the share of the last; None if
            nothing bounds it, or if the length of an epoch is not known.
        """
        ...

    def rows_at_start(self, rows: int = 0, batches: int = 0) -> float | None:
        """The same at the first batch.

        Args:
            rows: how many an earlier part of the training has.
            batches: what it has of the row that runs.
        """
        ...

    def row_samples(self, batch_size: int) -> int | None:
        """Training samples in a row, at the first batch; None if unknown."""
        ...

    def row_validation_samples(self, batch_size: int) -> int:
        """Samples that are validated for each row, in the mean, at the first batch; 0 if unknown.

        Args:
            batch_size: of loaders that do not tell theirs.
        """
        ...

    def duration_s(self, elapsed_s: float, row_s: float) -> float | None:
        """When a time limit ends the training, in seconds since the first row began.

        Pauses are left out, as in `duration_s` of the rows.

        Args:
            elapsed_s: seconds of all rows so far; NaN if unknown.
            row_s: seconds that the last row took.

        Returns:
            None without a limit.
        """
        ...
