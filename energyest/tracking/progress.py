"""What a training has done so far: its steps, samples and seconds, and those of a row."""

from __future__ import annotations

import logging
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from energyest.measure.signals import let_handlers_raise

log = logging.getLogger("energyest")

# The user's own answer to how many samples are in a batch.
BatchSize = Callable[[Any], int]


class SampleCounter:
    """Says how many samples are in a batch, and once where that is not known.

    Args:
        users: the user's own function, if there is one.
        note: called with what is not known, for the trace's notes.
    """

    def __init__(self, users: BatchSize | None, note: Callable[[str], None]) -> None:
        self._users = users
        self._note = note
        self._has_noted = False

    def __call__(self, batch: Any, loaders: Any = None) -> int | None:
        """Samples in a batch; None where that is not known.

        Args:
            batch: as the training gets it.
            loaders: what it comes from, where several loaders are asked at once.
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
                f"samples: how many are in a batch is not known ({type(batch).__name__}); "
                "the argument batch_size, a function, can tell"
            )
        return samples

    def _count(self, batch: Any, loaders: Any) -> int | None:
        if self._users is None:
            # Here, because torch is slow to import, and other loops do without.
            from energyest.profiling.samples import batch_size_by_loader  # noqa: PLC0415

            return batch_size_by_loader(loaders, batch)
        samples = operator.index(self._users(batch))
        if samples < 0:
            raise ValueError(f"batch_size gave {samples}")
        return samples


class Count(NamedTuple):
    """Batches that were trained on.

    Attributes:
        steps: how many.
        samples: in those whose size is known.
        unknown: how many have a size that is not known.
    """

    steps: int = 0
    samples: int = 0
    unknown: int = 0


_NOTHING = Count()


@dataclass
class Progress:
    """What was counted since the training began.

    Attributes:
        done: one value, which a signal handler finds whole whenever it comes.
        validation_samples: samples of the validation that runs; NaN if one batch's are unknown.
        elapsed_s: seconds of the rows that have ended.
        before_row, before_epoch: what was done at the last beginning of one.
        most_samples: those of the longest epoch; NaN where none is known.
        carried_steps, carried_samples: of the row that an earlier part of the run had begun.
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
        """A batch was trained on.

        Args:
            samples: in it; None if that is not known.
        """
        steps, before, unknown = self.done
        self.done = Count(steps + 1, before + (samples or 0), unknown + (samples is None))

    def start_epoch(self) -> None:
        """An epoch begins."""
        self.before_epoch = self.done

    def end_epoch(self) -> float:
        """Samples in an epoch that was not cut short; NaN where that is not known."""
        done, before = self.done, self.before_epoch
        if done.unknown == before.unknown:
            samples = done.samples - before.samples
            self.most_samples = samples if not self.most_samples > samples else self.most_samples
        return self.most_samples

    def start_row(self) -> None:
        """An epoch or interval begins."""
        steps, samples, unknown = self.done
        self.before_row = steps - self.carried_steps, samples - self.carried_samples, unknown
        self.carried_steps, self.carried_samples = 0, 0

    @property
    def row_steps(self) -> int:
        """Batches of the row that runs."""
        return self.done.steps - self.before_row[0]

    @property
    def row_samples(self) -> float:
        """Samples of the row that runs; NaN if those of a batch are not known."""
        _, before, unknown = self.before_row
        return self.done.samples - before if self.done.unknown == unknown else math.nan
