"""Mean power of a GPU during training steps, from the shares of its peaks that they reach."""

from __future__ import annotations

import numpy as np

from energyest.estimators.pre.physics.operation_table import Array, OperationTable
from energyest.estimators.pre.physics.parameters import FORMATS, Parameters
from energyest.estimators.pre.physics.roofline import StepTimes

# What GPUs that train together draw beyond that, for their links and for kernels that wait for the
# others, as a share of the board power: chosen by three trainings on two H200, the first run in
# benchmarks/results/many_gpus.txt. Not measured on other boards.
_TOGETHER = 0.05


def power_shares(table: OperationTable, times: StepTimes, step_s: Array, p: Parameters) -> Array:
    """Mean power ÷ board power, for parameters as in `parameters.POWER`.

    One part is drawn at rest, one while anything runs, one if several GPUs train together, and the
    rest in proportion to the shares of the arithmetic and memory peaks that are reached. The
    board's limit caps the sum.

    Args:
        table: the workloads on their GPUs.
        times: their computed times.
        step_s: duration of the steps, computed or measured.
        p: parameters.
    """
    per_flop = [p[f"flops_{name}"] for name in FORMATS]
    conv, other, moved = table.shares_of_peak(step_s, per_flop)
    asked = (
        p["rest"]
        + p["busy"] * np.minimum(times.gpu_s / step_s, 1.0)
        + p["math"] * times.math_s / step_s
        + p["memory"] * times.memory_s / step_s
        + other
        + p["conv"] * conv
        + p["bytes"] * moved
        + _TOGETHER * table.is_one_of_several
    )
    drawn: Array = asked / (1 + (asked / p["cap"]) ** p["sharpness"]) ** (1 / p["sharpness"])
    return drawn
