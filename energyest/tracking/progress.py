"""The progress of a training: steps, samples and seconds, in total and per row."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from energyest.measure.signals import let_handlers_raise

log = logging.getLogger("energyest")

# A user's function that returns the number of samples in a batch.
BatchSize = Callable[[Any], int]


class SampleCounter:
    """Counts the samples in a batch; notes once if the number is unknown.

    Args:
        users: the user's own function, if there is one.
        note: called with a text for the trace's notes.
    """

    def __init__(self, users: BatchSize | None, note: Callable[[str], None]) -> None:
        self._users = users
        self._note = note
        self._has_noted = False

    def __call__(self, batch: Any, loaders: Any = None) -> int | None:
        """Number of samples in a batch; None if unknown.

        Args:
            batch: the batch as the training receives it.
            loaders: the loaders it comes from, if several are read at once.
        """
        samples = None
        try:
            samples = self._count(batch, loaders)
        except Exception as error:  # the function and the batch are the user's
            let_handlers_raise(error)
            if not self._has_noted:
                log.warning("energyest: the samples in a batch could not be counted", exc_info=True)
        if samples is None and not self._has_noted:
            self._has_noted = True
            self._note(
                f"samples: the number in a batch ({type(batch).__name__}) is unknown; "
                "pass a function batch_size that returns it"
            )
        return samples

    def _count(self, batch: Any, loaders: Any) -> int | None:
        if self._users is None:
            # Imported here because torch is slow to import and not every loop needs it.
            from energyest.profiling.samples import batch_size_by_loader  # noqa: PLC0415

            return batch_size_by_loader(loaders, batch)
        samples = operator.index(self._users(batch))
        if samples < 0:
            raise ValueError(f"batch_size returned {samples}")
        return samples


class Count(NamedTuple):
    """Batches that were trained on.

    Attributes:
        steps: number of batches.
        samples: samples in the batches of known size.
        unknown: number of batches of unknown size.
    """

    steps: int = 0
    samples: int = 0
    unknown: int = 0


_NOTHING = Count()


@dataclass
class Progress:
    """Counts since the training began.

    Attributes:
        done: the counts, as one value, so that a signal handler always finds them consistent.
        validation_samples: samples of the current validation; NaN if a batch's size is unknown.
        elapsed_s: total duration of the rows that have ended, in seconds.
        before_row, before_epoch: `done` when the current row or epoch began.
        most_samples: samples of the longest epoch; NaN if unknown.
        carried_steps, carried_samples: counts of a row that an earlier part of the run had begun.
    """

    done: Count = _NOTHING
    validation_samples: float = 0
    elapsed_s: float = 0.0
    before_row: tuple[int, float, int] = _NOTHING
    before_epoch: Count = _NOTHING
    most_samples: float = math.nan
    carried_steps: int = 0
    carried_samples: float = 0

    def count(self, samples: int | None) -> None:
        """Count a training batch.

        Args:
            samples: samples in the batch; None if unknown.
        """
        steps, before, unknown = self.done
        self.done = Count(steps + 1, before + (samples or 0), unknown + (samples is None))

    def start_epoch(self) -> None:
        """Begin an epoch."""
        self.before_epoch = self.done

    def end_epoch(self) -> float:
        """End an epoch; return the samples in a full epoch, NaN if unknown."""
        done, before = self.done, self.before_epoch
        if done.unknown == before.unknown:
            samples = done.samples - before.samples
            self.most_samples = samples if not self.most_samples > samples else self.most_samples
        return self.most_samples

    def start_row(self) -> None:
        """Begin a row."""
        steps, samples, unknown = self.done
        self.before_row = steps - self.carried_steps, samples - self.carried_samples, unknown
        self.carried_steps, self.carried_samples = 0, 0

    @property
    def row_steps(self) -> int:
        """Batches of the current row."""
        return self.done.steps - self.before_row[0]

    @property
    def row_samples(self) -> float:
        """Samples of the current row; NaN if the size of a batch is unknown."""
        _, before, unknown = self.before_row
        return self.done.samples - before if self.done.unknown == unknown else math.nan
