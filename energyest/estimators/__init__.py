"""Traces to estimates: plain functions, without torch, NVML or files."""

from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.compare import compare_estimators
from energyest.estimators.estimate import Estimate
from energyest.estimators.planned import PlannedChange
from energyest.estimators.stability import find_stable_epoch
from energyest.estimators.step import estimate_step

__all__ = [
    "Estimate",
    "PlannedChange",
    "compare_estimators",
    "estimate_first_epoch",
    "estimate_flops",
    "estimate_green_algorithms",
    "estimate_mlco2",
    "estimate_step",
    "find_stable_epoch",
]
