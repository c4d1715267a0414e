"""Parameters of single operations, fitted to their times on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from energyest.estimators.pre.physics.fitting import fit_parameters
from energyest.estimators.pre.physics.operation_table import OperationTable
from energyest.estimators.pre.physics.parameters import OF_RECURRENT, OPERATION, Guess
from energyest.estimators.pre.physics.roofline import Parameters, operation_times
from energyest.gpus import Gpu
from energyest.records.workload import Operation, Workload

Timed = Sequence[tuple[Operation, float]]
# Weight of all timed operations of one step together, relative to the duration of one step: they
# are dozens of measurements.
_WEIGHT = 10.0


def operation_parameters(
    pairs: Sequence[tuple[Workload, Gpu]],
    timed: Sequence[Timed],
    guesses: dict[str, Guess],
    begin: Parameters | None,
) -> Parameters:
    """Parameters of single operations, from thousands of their times; empty without any.

    Args:
        pairs: workloads, each with its GPU.
        timed: timed operations of the first of them; those of one may be empty.
        guesses: of all parameters of the time of a step.
        begin: where the search begins, by default at the guesses.
    """
    measured = [(pair, times) for pair, times in zip(pairs, timed, strict=False) if times]
    if not measured:
        return {}
    table = OperationTable(
        [
            (replace(workload, operations=tuple(operation for operation, _ in times)), gpu)
            for (workload, gpu), times in measured
        ]
    )
    seconds = np.array([s for _, times in measured for _, s in times])
    spent_s = [np.array([o.count * s for o, s in times]) for _, times in measured]
    weights = _WEIGHT * np.concatenate([each / each.sum() for each in spent_s])
    usual = {name: value for name, (value, _) in guesses.items()}
    asked = {name: guesses[name] for name in OPERATION if name not in OF_RECURRENT}
    return fit_parameters(
        lambda p: operation_times(table, usual | p),
        seconds,
        asked,
        begin=begin,
        weights=weights,
    )
