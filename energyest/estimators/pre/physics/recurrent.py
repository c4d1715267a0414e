"""Kernels of recurrent layers: one for all time steps, or two for each of them.

The rules are what `benchmarks.collect.kernel_counts` counted on an H200 with torch 2.11. Mixed
precision runs these layers in fp16, also if it is bf16 elsewhere (aten/src/ATen/autocast_mode.cpp,
`_cudnn_rnn`).
"""

from __future__ import annotations

from energyest.estimators.pre.physics.alignment import is_half
from energyest.records.workload import Operation, Workload

# Up to these widths, a kernel keeps the weights and runs all steps, forward and backward.
_SMALL, _SMALL_BACKWARD = 192, 128
# The same for a single LSTM layer in half precision whose width is a multiple of the second number.
_LARGE, _MULTIPLE = 1024, 128
_KERNELS_A_STEP = 2


def layers(operation: Operation) -> int:
    """Number of layers and directions, if inputs are as wide as states.

    Each has a matrix for its input and one for its state.
    """
    o = operation
    flops_of_layer = 4.0 * o.rows * o.steps * o.columns * o.depth
    if o.steps == 1 or not flops_of_layer:
        return 1
    # The backward pass has twice the arithmetic.
    return max(round(o.flops / flops_of_layer / (1 + (o.phase == "backward"))), 1)


def kernels_of_steps(operation: Operation, workload: Workload) -> int:
    """Number of kernels that are started for single time steps; 0 if one kernel runs them all."""
    o, number = operation, layers(operation)
    if workload.precision == "bf16" and workload.parameter_bytes == 2:
        return _KERNELS_A_STEP * o.steps * number  # weights in bf16 themselves
    if o.depth <= (_SMALL_BACKWARD if o.phase == "backward" else _SMALL):
        return 0
    is_lstm = o.name.startswith("lstm")
    is_large = o.depth <= _LARGE and o.depth % _MULTIPLE == 0
    if is_half(workload) and is_lstm and is_large and number == 1:
        return 0
    return _KERNELS_A_STEP * o.steps * number
