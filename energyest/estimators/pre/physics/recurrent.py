"""Kernels of recurrent layers: one for all time steps, or two for each of them.

The rules are what `benchmarks.collect.kernel_counts` counted on an H200 with torch 2.11. Mixed
precision runs these layers in fp16, also if it is bf16 elsewhere (aten/src/ATen/autocast_mode.cpp,
`_cudnn_rnn`).
"""

from __future__ import annotations

from energyest.records.workload import Operation

# Up to these widths, a kernel keeps the weights and runs all steps, forward and backward.
_SMALL, _SMALL_BACKWARD = 192, 128
# The same for a single LSTM layer in half precision whose width is a multiple of the second number.
_LARGE, _MULTIPLE = 1024, 128
_KERNELS_A_STEP = 2


def layers(operation: Operation) -> int:
    """Number of layers and directions: each has a matrix for its input and one for its state."""
    o = operation
    flops_of_layer = 4.0 * o.rows * o.steps * o.columns * o.depth
    if o.steps == 1 or not flops_of_layer:
        return 1
    # The backward pass has twice the arithmetic.
    return max(round(o.flops / flops_of_layer / (1 + (o.phase == "backward"))), 1)


def kernels_of_steps(operation: Operation, *, is_half: bool) -> int:
    """Number of kernels that are started for single time steps; 0 if one kernel runs them all."""
    o, number = operation, layers(operation)
    if o.depth <= (_SMALL_BACKWARD if o.phase == "backward" else _SMALL):
        return 0
    is_lstm = o.name.startswith("lstm") or "cudnn_rnn" in o.name
    is_large = o.depth <= _LARGE and o.depth % _MULTIPLE == 0
    if is_half and is_lstm and is_large and number == 1:
        return 0
    return _KERNELS_A_STEP * o.steps * number
