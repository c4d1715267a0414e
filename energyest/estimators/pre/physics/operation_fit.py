"""Parameters of single operations, fitted to their times on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from energyest.estimators.pre.physics.fitting import fit_parameters
from energyest.estimators.pre.physics.operation_table import Array, OperationTable
from energyest.estimators.pre.physics.parameters import OF_RECURRENT, OPERATION, Guess, Parameters
from energyest.estimators.pre.physics.roofline import operation_times
from energyest.gpus import Gpu
from energyest.records.workload import Operation, Workload

# Weight of all timed operations of one workload together, if they fill its step, relative to the
# duration of one step: they are dozens of measurements.
_WEIGHT = 10.0


@dataclass(frozen=True)
class TimedOperations:
    """Operations that were timed on a GPU.

    Attributes:
        workload: its precision, layout and batch size apply to the operations.
        gpu: the GPU.
        operations: operations, each with the GPU's time for one of them in seconds, positive.
        step_s: duration of the training step that they are part of, in seconds. Each weighs by its
            share of the step, so operations of a step that waits for the CPU weigh little. NaN if
            they are single operations, which weigh the same.
    """

    workload: Workload
    gpu: Gpu
    operations: tuple[tuple[Operation, float], ...]
    step_s: float = math.nan

    @property
    def weights(self) -> Array:
        """Weight of each operation, in their order."""
        if math.isnan(self.step_s):
            return np.full(len(self.operations), _WEIGHT / len(self.operations))
        spent_s = np.array([o.count * s for o, s in self.operations])
        weights: Array = _WEIGHT * spent_s / max(self.step_s, spent_s.sum())
        return weights


def operation_parameters(
    timed: Sequence[TimedOperations], guesses: dict[str, Guess], begin: Parameters | None
) -> Parameters:
    """Parameters of single operations, from thousands of their times; empty without any.

    Args:
        timed: timed operations of many workloads.
        guesses: of all parameters of the time of a step.
        begin: where the search begins, by default at the guesses.
    """
    if not timed:
        return {}
    table = OperationTable(
        [
            (replace(each.workload, operations=tuple(o for o, _ in each.operations)), each.gpu)
            for each in timed
        ]
    )
    seconds = np.array([s for each in timed for _, s in each.operations])
    usual = {name: value for name, (value, _) in guesses.items()}
    asked = {name: guesses[name] for name in OPERATION if name not in OF_RECURRENT}
    return fit_parameters(
        lambda p: operation_times(table, usual | p),
        seconds,
        asked,
        begin=begin,
        weights=np.concatenate([each.weights for each in timed]),
    )
