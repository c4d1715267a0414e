"""Measure what training a deep-learning model costs in energy, and project it.

from energyest import EnergyMonitor, estimate_step

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
        TraceError,
    )
    from energyest.estimators.compare import compare_estimators
    from energyest.estimators.estimate import Estimate
    from energyest.estimators.planned import PlannedChange
    from energyest.estimators.stability import find_stable_epoch
    from energyest.estimators.step import estimate_step
    from energyest.measure.sensors import detect
    from energyest.trace import EnergyTrace, load_trace

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
    "MissingDependencyError": "errors",
    "NotStableError": "errors",
    "PlannedChange": "estimators.planned",
    "TraceError": "errors",
    "compare_estimators": "estimators.compare",
    "detect": "measure.sensors",
    "estimate_step": "estimators.step",
    "find_stable_epoch": "estimators.stability",
    "load_trace": "trace",
    "track": "callbacks.loop",
}

__all__ = [
    "ConfigurationError",
    "EnergyMonitor",
    "EnergyTrace",
    "EnergyestError",
    "Estimate",
    "EstimateError",
    "MissingDependencyError",
    "NotStableError",
    "PlannedChange",
    "TraceError",
    "compare_estimators",
    "detect",
    "estimate_step",
    "find_stable_epoch",
    "load_trace",
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
