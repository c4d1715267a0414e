"""What a training has done so far: its steps, samples and seconds, and those of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


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
