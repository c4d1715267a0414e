"""Estimators: from traces and workloads to estimates. They need neither torch nor NVML."""

from importlib import import_module
from typing import TYPE_CHECKING

from energyest.estimate import Estimate
from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.compare import compare_estimators
from energyest.estimators.early_stopping.estimate import estimate_early_stop
from energyest.estimators.pre.estimate import estimate_pre
from energyest.estimators.pre.power_limits import power_limits
from energyest.estimators.scores import EstimatorScores, score_estimators
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.planned_changes import PlannedChange
from energyest.estimators.step.stability import find_stable_epoch

if TYPE_CHECKING:
    from energyest.estimators.pre.model import PreModel
    from energyest.estimators.regression.table_model import TableModel

__all__ = [
    "Estimate",
    "EstimatorScores",
    "PlannedChange",
    "PreModel",
    "TableModel",
    "compare_estimators",
    "estimate_early_stop",
    "estimate_first_epoch",
    "estimate_flops",
    "estimate_green_algorithms",
    "estimate_mlco2",
    "estimate_pre",
    "estimate_step",
    "find_stable_epoch",
    "power_limits",
    "score_estimators",
]

# These are scikit-learn estimators; importing scikit-learn takes longer than everything else.
_MODULES = {"PreModel": "pre.model", "TableModel": "regression.table_model"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
