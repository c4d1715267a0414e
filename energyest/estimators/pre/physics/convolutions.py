"""Which kernels run a convolution: torch's own ones, or cuDNN's, and with how much arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from energyest.estimators.pre.physics.alignment import is_half, number_bytes
from energyest.estimators.pre.physics.kinds import CONV, DEPTHWISE, GROUPED, kind_of
from energyest.records.workload import Operation, Workload

# Numbers of taps of the filters for which cuDNN may run a depthwise convolution in NCHW.
_CUDNN_TAPS = (1, 9, 25)
# With a stride of 2, cuDNN does so from these numbers of channels and positions of its output on.
# The positions are those of a width of 28 before the stride. With a stride of 1, it needs 49.
_MANY_CHANNELS, _SOME_CHANNELS, _POSITIONS = 512, 256, 196
_LEAST_CHANNELS, _FEWEST_POSITIONS = 32, 49
# More inputs than this per output: the filter moves by more than one position at a time.
_STRIDED = 1.8
# A filter that uses what it reads less often than this is a product of matrices.
_POINTWISE = 1.5
# Number of positions of images that are smaller than a filter of 5 x 5.
_TINY = 4
# From these numbers of inputs of a group on, the forward pass and the backward pass have kernels
# for single groups; the backward pass has the third number for each.
_MANY_INPUTS, _SOME_INPUTS, _GRADIENTS_A_GROUP = 8, 4, 5


def is_native(operation: Operation, workload: Workload) -> bool:
    """Whether torch's own kernel runs a depthwise convolution, and not cuDNN.

    The rule is torch's (`use_cudnn_depthwise` in aten/src/ATen/native/Convolution.cpp), without its
    special cases for one dimension, a batch of one, and filters of one tap with stride 2.
    """
    if kind_of(operation) != DEPTHWISE or is_channels_last(workload):
        return False
    if workload.precision != "fp16":
        return True
    if operation.depth not in _CUDNN_TAPS or operation.groups < _LEAST_CHANNELS:
        return True
    positions = operation.rows / max(workload.batch_size, 1)
    if inputs_per_output(operation, workload) < _STRIDED:
        return positions < _FEWEST_POSITIONS
    is_large = positions >= _POSITIONS
    return operation.groups < (_SOME_CHANNELS if is_large else _MANY_CHANNELS)


def inputs_per_output(operation: Operation, workload: Workload) -> float:
    """Numbers that a convolution reads per number that it computes, from its bytes; at least 1.

    The forward pass reads the input and writes the output. The backward pass reads the input and
    the gradient of the output, and writes the gradient of the input.
    """
    outputs = operation.rows * operation.columns * operation.groups
    if not outputs:
        return 1.0
    moved = operation.bytes / number_bytes(workload) / outputs
    return max((moved - 1) / (2 if operation.phase == "backward" else 1), 1.0)


def first_ones(operations: Sequence[Operation]) -> set[tuple[int, int, int]]:
    """Sizes of the convolutions that read images: no gradient of their input is needed.

    They have one or three channels, for which tensor units are too wide.
    """
    backward = [o for o in operations if kind_of(o) == CONV and o.phase == "backward"]
    return {sizes(o) for o in backward if not has_both_gradients(o) and _has_few_inputs(o)}


def _has_few_inputs(operation: Operation) -> bool:
    """Whether the depth is that of a square filter on one channel (of odd size) or three."""
    taps, remainder = divmod(operation.depth, 3)
    is_three = remainder == 0 and math.isqrt(taps) ** 2 == taps
    return is_three or _is_odd_square(operation.depth)


def _is_odd_square(number: int) -> bool:
    return number % 2 == 1 and math.isqrt(number) ** 2 == number


def sizes(operation: Operation) -> tuple[int, int, int]:
    """Rows, columns and depth of a convolution as a product."""
    return operation.rows, operation.columns, operation.depth


def has_both_gradients(operation: Operation) -> bool:
    """Whether a backward pass computes the gradient of the input, too, beside that of weights."""
    rows, columns, depth = sizes(operation)
    return operation.flops > 1.5 * (2.0 * rows * columns * depth * operation.groups)


def is_pointwise(operation: Operation, workload: Workload) -> bool:
    """Whether a convolution uses each number that it reads once, as a product of matrices does.

    A filter of 1 x 1 does, and one of 3 x 3 uses it nine times.
    """
    rows, columns, depth = sizes(operation)
    tensors = 2 if operation.phase == "backward" else 1
    numbers = operation.bytes / number_bytes(workload) / max(operation.groups, 1)
    read = (numbers - rows * columns) / tensors - columns * depth
    return read > 0 and rows * depth / read < _POINTWISE


def has_three_by_three(operation: Operation, workload: Workload) -> bool:
    """Whether the filter has nine taps, so that Winograd's algorithm is of use."""
    return operation.depth % 9 == 0 and not is_pointwise(operation, workload)


def kernels_of_groups(operation: Operation, workload: Workload) -> int:
    """Number of kernels that a convolution starts for its groups, where cuDNN has none for all.

    `benchmarks.collect.kernel_counts` counted them on an H200 with torch 2.11. Three cases are
    known here: filters of 1 x 1 with many channels; and in half precision and NHWC, in the forward
    pass, several outputs of each single input, and filters of 5 x 5 on images of up to 2 x 2. Other
    combinations of few channels, sizes and filters also have kernels for each group.
    """
    o, kind, half = operation, kind_of(operation), is_half(workload)
    last, is_forward = is_channels_last(workload), operation.phase == "forward"
    if kind == DEPTHWISE:
        is_tiny = o.rows <= _TINY * max(workload.batch_size, 1)
        return o.groups if half and last and is_forward and is_tiny and o.depth == 25 else 0
    if kind != GROUPED:
        return 0
    if is_pointwise(o, workload) and o.depth > 1:
        if is_forward:
            a_group = (3 if last else 1) if half and o.depth >= _MANY_INPUTS else 0
        else:
            a_group = _GRADIENTS_A_GROUP if o.depth >= _SOME_INPUTS else 0
        return a_group * o.groups
    has_one_input = o.depth > 1 and _is_odd_square(o.depth)
    return o.groups if half and last and is_forward and has_one_input else 0


def is_channels_last(workload: Workload) -> bool:
    """Whether convolutions run in NHWC."""
    # The compiler uses channels-last for convolutions, whatever the model does.
    return workload.layout == "channels_last" or workload.compiled
