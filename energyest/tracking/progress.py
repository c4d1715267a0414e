"""What a training has done so far: its steps, samples and seconds, and those of a row."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """What was counted since the training began.

    Attributes:
        steps: training batches.
        samples: training samples.
        validation_samples: samples of the validation that runs.
        elapsed_s: seconds of the rows that have ended.
        steps_before_row, samples_before_row, samples_before_epoch: at the last beginning of one.
        most_samples: those of the longest epoch.
        carried_steps, carried_samples: of the row that an earlier part of the run had begun.
    """

    steps: int = 0
    samples: int = 0
    validation_samples: int = 0
    elapsed_s: float = 0.0
    steps_before_row: int = 0
    samples_before_row: int = 0
    samples_before_epoch: int = 0
    most_samples: int = 0
    carried_steps: int = 0
    carried_samples: int = 0

    def start_epoch(self) -> None:
        """An epoch begins."""
        self.samples_before_epoch = self.samples

    def end_epoch(self) -> int:
        """Samples in an epoch that was not cut short."""
        self.most_samples = max(self.most_samples, self.samples - self.samples_before_epoch)
        return self.most_samples

    def start_row(self) -> None:
        """An epoch or interval begins."""
        self.steps_before_row = self.steps - self.carried_steps
        self.samples_before_row = self.samples - self.carried_samples
        self.carried_steps = self.carried_samples = 0

    @property
    def row_steps(self) -> int:
        """Batches of the row that runs."""
        return self.steps - self.steps_before_row

    @property
    def row_samples(self) -> int:
        """Samples of the row that runs."""
        return self.samples - self.samples_before_row
