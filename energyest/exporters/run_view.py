"""`RunView`: what a run's folder shows of it at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.horizon import tells_length
from energyest.records import storage
from energyest.records.loading import load_trace
from energyest.records.meta import read_text
from energyest.records.trace import EnergyTrace


@dataclass(frozen=True)
class RunView:
    """A run as it is now.

    Attributes:
        trace: what was measured so far.
        estimate: estimate of the whole run; None if there is none.
        reason: why the estimate has no guarantee yet, or why there is none; else empty.
    """

    trace: EnergyTrace
    estimate: Estimate | None
    reason: str

    @classmethod
    def of(cls, trace: EnergyTrace, epochs: float | None = None) -> RunView:
        """Estimate a run from its trace.

        Args:
            trace: what was measured so far.
            epochs: epochs of the whole training; by default as planned.
        """
        if epochs is None and not tells_length(trace):
            return cls(trace, None, "its length is not known: pass --epochs")
        try:
            return cls(trace, estimate_step(trace, epochs), "")
        except NotStableError as error:
            return cls(trace, error.estimate, error.reason)
        except EstimateError as error:
            return cls(trace, None, str(error))

    @classmethod
    def load(cls, folder: Path, epochs: float | None = None) -> RunView:
        """Read a run from its folder.

        Raises:
            TraceError: the folder holds no trace, or one that cannot be read.
        """
        return cls.of(load_trace(folder), epochs)

    @property
    def status(self) -> str:
        """How the run ended; "running" while it has not."""
        return read_text(self.trace.meta, "status") or "finished"


def state_of(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """A value that changes when the files of a trace do; empty if there are none.

    Returns:
        For each file its name, size, time of change in ns, and number.
    """
    found = []
    for name in storage.FILES:
        try:
            there = (folder / name).stat()
        except OSError:
            continue
        found.append((name, there.st_size, there.st_mtime_ns, there.st_ino))
    return tuple(found)
