"""The package's own exceptions. Every error that a caller can cause is one of these."""

from __future__ import annotations


class EnergyestError(Exception):
    """Base of all errors of this package."""


class TraceError(EnergyestError, ValueError):
    """A trace is invalid, or it cannot be built from the given arrays or files."""


class EstimateError(EnergyestError, ValueError):
    """The given trace or arguments do not allow the requested estimate."""


class RunsError(EnergyestError, ValueError):
    """A table of runs, or an argument of its analysis, is invalid; the message says why."""


class WorkloadError(EnergyestError, ValueError):
    """A model could not be described as a workload, or a stored workload is invalid."""


class ProbeError(EnergyestError, RuntimeError):
    """Steps could not be measured: no GPU, no power reading, out of memory, or a failed step."""


class ConfigurationError(EnergyestError, ValueError):
    """A monitor's settings cannot work; raised before training begins."""


class MissingDependencyError(EnergyestError, ImportError):
    """A feature needs an optional package; the message names the package to install."""
