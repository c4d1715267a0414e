"""Model to workload: what a training step does, counted, described or timed."""

from importlib import import_module
from typing import TYPE_CHECKING

from energyest.records.probe import Probe
from energyest.records.workload import Operation, Workload

if TYPE_CHECKING:
    from energyest.profiling.describe import describe_workload
    from energyest.profiling.gpu_probe import probe

__all__ = ["Operation", "Probe", "Workload", "describe_workload", "probe"]

# They need torch; a workload that was described elsewhere does not.
_MODULES = {"describe_workload": "describe", "probe": "gpu_probe"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
