"""Estimate, measure and project what training a deep-learning model costs in energy.

from energyest import EnergyMonitor, collect_runs, describe_workload
from energyest import estimate_pre, estimate_step, pareto_front

workload = describe_workload(model, batch)                    # before training, without a GPU
estimate_pre(workload, "H100", epochs=90, train_samples=1_281_167)

monitor = EnergyMonitor()
trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
trainer.fit(model)
monitor.trace.epochs                      # what each epoch cost
estimate_step(monitor.trace, epochs=200)  # what 200 epochs would cost

runs = collect_runs("lightning_logs")  # finished trainings, one row each: what to choose next time
pareto_front(runs, by=["model", "gpu"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energyest.carbon import carbon_intensity, co2e_kg
    from energyest.errors import (
        ConfigurationError,
        EnergyestError,
        EstimateError,
        MissingDependencyError,
        ProbeError,
        RunsError,
        TraceError,
        WorkloadError,
    )
    from energyest.estimate import Estimate, NotStableError
    from energyest.estimators.compare import compare_estimators
    from energyest.estimators.pre.estimate import estimate_pre
    from energyest.estimators.pre.model import PreModel
    from energyest.estimators.regression.table_model import TableModel
    from energyest.estimators.scores import EstimatorScores, score_estimators
    from energyest.estimators.step.estimate import estimate_step
    from energyest.estimators.step.planned_changes import PlannedChange
    from energyest.estimators.step.stability import find_stable_epoch
    from energyest.gpus import Gpu
    from energyest.lightning.monitor import EnergyMonitor
    from energyest.measure.sensors import detect
    from energyest.profiling.describe import describe_workload
    from energyest.profiling.probe import probe
    from energyest.records.load_many import load_traces
    from energyest.records.loading import load_trace
    from energyest.records.probe import Probe
    from energyest.records.trace import EnergyTrace
    from energyest.records.workload import Workload
    from energyest.tracking.track import track
    from energyest.tradeoff.advisor import advise
    from energyest.tradeoff.collect import collect_runs
    from energyest.tradeoff.groups import compare_groups
    from energyest.tradeoff.interaction import interaction
    from energyest.tradeoff.match import match_gpu
    from energyest.tradeoff.pareto import cheapest_within, pareto_front
    from energyest.tradeoff.savings import savings

__version__ = "0.1.0"

# Each public name and its module, imported on first use: `import energyest` itself stays fast and
# imports neither torch nor pandas.
_MODULES = {
    "ConfigurationError": "errors",
    "EnergyMonitor": "lightning.monitor",
    "EnergyTrace": "records.trace",
    "EnergyestError": "errors",
    "Estimate": "estimate",
    "EstimateError": "errors",
    "EstimatorScores": "estimators.scores",
    "Gpu": "gpus",
    "MissingDependencyError": "errors",
    "NotStableError": "estimate",
    "PlannedChange": "estimators.step.planned_changes",
    "PreModel": "estimators.pre.model",
    "Probe": "records.probe",
    "ProbeError": "errors",
    "RunsError": "errors",
    "TableModel": "estimators.regression.table_model",
    "TraceError": "errors",
    "Workload": "records.workload",
    "WorkloadError": "errors",
    "advise": "tradeoff.advisor",
    "carbon_intensity": "carbon",
    "cheapest_within": "tradeoff.pareto",
    "co2e_kg": "carbon",
    "collect_runs": "tradeoff.collect",
    "compare_estimators": "estimators.compare",
    "compare_groups": "tradeoff.groups",
    "describe_workload": "profiling.describe",
    "detect": "measure.sensors",
    "estimate_pre": "estimators.pre.estimate",
    "estimate_step": "estimators.step.estimate",
    "find_stable_epoch": "estimators.step.stability",
    "interaction": "tradeoff.interaction",
    "load_trace": "records.loading",
    "load_traces": "records.load_many",
    "match_gpu": "tradeoff.match",
    "pareto_front": "tradeoff.pareto",
    "probe": "profiling.probe",
    "savings": "tradeoff.savings",
    "score_estimators": "estimators.scores",
    "track": "tracking.track",
}

__all__ = [
    "ConfigurationError",
    "EnergyMonitor",
    "EnergyTrace",
    "EnergyestError",
    "Estimate",
    "EstimateError",
    "EstimatorScores",
    "Gpu",
    "MissingDependencyError",
    "NotStableError",
    "PlannedChange",
    "PreModel",
    "Probe",
    "ProbeError",
    "RunsError",
    "TableModel",
    "TraceError",
    "Workload",
    "WorkloadError",
    "advise",
    "carbon_intensity",
    "cheapest_within",
    "co2e_kg",
    "collect_runs",
    "compare_estimators",
    "compare_groups",
    "describe_workload",
    "detect",
    "estimate_pre",
    "estimate_step",
    "find_stable_epoch",
    "interaction",
    "load_trace",
    "load_traces",
    "match_gpu",
    "pareto_front",
    "probe",
    "savings",
    "score_estimators",
    "track",
]


def __getattr__(name: str) -> object:
    if name in ("estimators", "plots", "tradeoff"):
        return import_module(f"energyest.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'energyest' has no attribute {name!r}")
    value = getattr(import_module(f"energyest.{_MODULES[name]}"), name)
    globals()[name] = value  # the next look-up finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
