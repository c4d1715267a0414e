"""The package's own errors. Every error that a caller can cause is one of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyest.estimate import Estimate


class EnergyestError(Exception):
    """Base of all errors of this package."""


class TraceError(EnergyestError, ValueError):
    """A trace, or the arrays or files to build one from, break a rule."""


class EstimateError(EnergyestError, ValueError):
    """An estimate was asked for that the given trace or arguments cannot answer."""


class RunsError(EnergyestError, ValueError):
    """A table of runs, or an argument of their analysis, breaks a rule; the message says which."""


class WorkloadError(EnergyestError, ValueError):
    """A model could not be described as a workload, or a stored workload breaks a rule."""


class ProbeError(EnergyestError, RuntimeError):
    """Steps could not be measured: no GPU, no power reading, no memory, or a step that fails."""


class ConfigurationError(EnergyestError, ValueError):
    """A monitor was set up in a way that cannot work; raised before training begins."""


class MissingDependencyError(EnergyestError, ImportError):
    """A feature needs an optional package; the message names the extra to install."""


class NotStableError(EnergyestError):
    """The training has not (yet) settled on a level to project from.

    Attributes:
        reason: why, without the advice that the text of the error adds.
        estimate: the best estimate that the epochs so far allow, without a guarantee; None when
            there is no measured epoch at all.
        missing_epochs: how many more epochs have to be measured, at the least.
    """

    def __init__(
        self, message: str, *, estimate: Estimate | None = None, missing_epochs: int = 1
    ) -> None:
        super().__init__(message)
        self.reason = message
        self.estimate = estimate
        self.missing_epochs = missing_epochs

    def __str__(self) -> str:
        if self.estimate is None:
            return self.reason
        return f"{self.reason}. The error's .estimate holds the best guess so far"

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call __init__ with the message alone and lose the estimate.
        return (_rebuild, (self.reason, self.estimate, self.missing_epochs))


def _rebuild(message: str, estimate: Estimate | None, missing_epochs: int) -> NotStableError:
    return NotStableError(message, estimate=estimate, missing_epochs=missing_epochs)
