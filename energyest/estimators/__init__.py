"""Traces and workloads to estimates, without torch and NVML."""

from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.compare import compare_estimators
from energyest.estimators.comparison import EstimatorComparison
from energyest.estimators.estimate import Estimate
from energyest.estimators.planned import PlannedChange
from energyest.estimators.pre.estimate import estimate_pre
from energyest.estimators.pre.model import PreModel
from energyest.estimators.pre.table_model import TableModel
from energyest.estimators.stability import find_stable_epoch
from energyest.estimators.step import estimate_step

__all__ = [
    "Estimate",
    "EstimatorComparison",
    "PlannedChange",
    "PreModel",
    "TableModel",
    "compare_estimators",
    "estimate_first_epoch",
    "estimate_flops",
    "estimate_green_algorithms",
    "estimate_mlco2",
    "estimate_pre",
    "estimate_step",
    "find_stable_epoch",
]
