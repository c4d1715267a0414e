"""Estimate, measure and project what training a deep-learning model costs in energy.

from energyest import EnergyMonitor, describe_workload, estimate_pre, estimate_step

workload = describe_workload(model, batch)                    # before training, without a GPU
estimate_pre(workload, "H100", epochs=90, train_samples=1_281_167)

monitor = EnergyMonitor()
trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
trainer.fit(model)
monitor.trace.epochs                      # what each epoch cost
estimate_step(monitor.trace, epochs=200)  # what 200 epochs would cost
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyest.callbacks.lightning import EnergyMonitor
    from energyest.callbacks.loop import track
    from energyest.errors import (
        ConfigurationError,
        EnergyestError,
        EstimateError,
        MissingDependencyError,
        NotStableError,
        ProbeError,
        TraceError,
        WorkloadError,
    )
    from energyest.estimators.compare import compare_estimators
    from energyest.estimators.estimate import Estimate
    from energyest.estimators.planned import PlannedChange
    from energyest.estimators.pre.estimate import estimate_pre
    from energyest.estimators.pre.model import PreModel
    from energyest.estimators.pre.table_model import TableModel
    from energyest.estimators.stability import find_stable_epoch
    from energyest.estimators.step import estimate_step
    from energyest.gpus import Gpu
    from energyest.measure.describe import describe_workload
    from energyest.measure.probe import probe
    from energyest.measure.sensors import detect
    from energyest.probed import Probe
    from energyest.trace import EnergyTrace, load_trace
    from energyest.workload import Workload

__version__ = "0.1.0"

# Each public name and its module, imported on first use: `import energyest` itself stays fast and
# imports neither torch nor pandas.
_MODULES = {
    "ConfigurationError": "errors",
    "EnergyMonitor": "callbacks.lightning",
    "EnergyTrace": "trace",
    "EnergyestError": "errors",
    "Estimate": "estimators.estimate",
    "EstimateError": "errors",
    "Gpu": "gpus",
    "MissingDependencyError": "errors",
    "NotStableError": "errors",
    "PlannedChange": "estimators.planned",
    "PreModel": "estimators.pre.model",
    "Probe": "probed",
    "ProbeError": "errors",
    "TableModel": "estimators.pre.table_model",
    "TraceError": "errors",
    "Workload": "workload",
    "WorkloadError": "errors",
    "compare_estimators": "estimators.compare",
    "describe_workload": "measure.describe",
    "detect": "measure.sensors",
    "estimate_pre": "estimators.pre.estimate",
    "estimate_step": "estimators.step",
    "find_stable_epoch": "estimators.stability",
    "load_trace": "trace",
    "probe": "measure.probe",
    "track": "callbacks.loop",
}

__all__ = [
    "ConfigurationError",
    "EnergyMonitor",
    "EnergyTrace",
    "EnergyestError",
    "Estimate",
    "EstimateError",
    "Gpu",
    "MissingDependencyError",
    "NotStableError",
    "PlannedChange",
    "PreModel",
    "Probe",
    "ProbeError",
    "TableModel",
    "TraceError",
    "Workload",
    "WorkloadError",
    "compare_estimators",
    "describe_workload",
    "detect",
    "estimate_pre",
    "estimate_step",
    "find_stable_epoch",
    "load_trace",
    "probe",
    "track",
]


def __getattr__(name: str) -> object:
    if name in ("estimators", "plots"):
        return import_module(f"energyest.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'energyest' has no attribute {name!r}")
    value = getattr(import_module(f"energyest.{_MODULES[name]}"), name)
    globals()[name] = value  # the next look-up finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
