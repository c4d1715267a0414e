"""The package's own errors. Every error that a caller can cause is one of these."""

from __future__ import annotations


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
