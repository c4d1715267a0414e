"""From a model to a workload: what a training step does, counted, described or timed."""

from importlib import import_module
from typing import TYPE_CHECKING

from energyest.checks import check_installed
from energyest.records.probe import HostProbe, Probe
from energyest.records.workload import Operation, Workload

if TYPE_CHECKING:
    from energyest.profiling.describe import describe_workload
    from energyest.profiling.probes.gpu_probe import probe
    from energyest.profiling.probes.host_probe import probe_host

__all__ = [
    "HostProbe",
    "Operation",
    "Probe",
    "Workload",
    "describe_workload",
    "probe",
    "probe_host",
]

# These need torch; a workload described elsewhere does not.
_MODULES = {
    "describe_workload": "describe",
    "probe": "probes.gpu_probe",
    "probe_host": "probes.host_probe",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed(name, "torch", "fvcore")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
