"""Which kernels run a convolution: torch's own ones, or cuDNN's, and with how much arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from energyest.estimators.pre.physics.alignment import fills_groups, is_half, number_bytes
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
# Channels of a grouped convolution from which on cuDNN has kernels for all groups.
_FEWEST_CHANNELS = 64
# A filter that uses what it reads less often than this is a product of matrices.
_POINTWISE = 1.5
# Number of positions of images that are smaller than a filter of 5 x 5, but more than one.
_TINY = 4
# From these numbers of inputs of a group on, the forward pass and the backward pass have kernels
# for single groups; the backward pass has the third number for each.
_MANY_INPUTS, _SOME_INPUTS, _GRADIENTS_A_GROUP = 8, 4, 5


def is_native(operation: Operation, workload: Workload) -> bool:
    """Whether torch's own kernel runs a depthwise convolution, and not cuDNN.

    The rule is torch's (`use_cudnn_depthwise` in aten/src/ATen/native/Convolution.cpp), without its
    special cases for one dimension, a batch of one, and filters of one tap with stride 2. cuDNN has
    no kernel for several outputs of one input.
    """
    if kind_of(operation) != DEPTHWISE or is_channels_last(operation, workload):
        return False
    if workload.precision != "fp16" or operation.columns > 1:
        return True
    if operation.depth not in _CUDNN_TAPS or operation.groups < _LEAST_CHANNELS:
        return True
    positions = operation.rows / workload.batch_size
    if inputs_per_output(operation, workload) < _STRIDED:
        return positions < _FEWEST_POSITIONS
    is_large = positions >= _POSITIONS
    return operation.groups < (_SOME_CHANNELS if is_large else _MANY_CHANNELS)


def inputs_per_output(operation: Operation, workload: Workload) -> float:
    """Numbers that a convolution reads per number that it computes, from its bytes; at least 1."""
    outputs = operation.rows * operation.columns * operation.groups
    return max(_inputs(operation, workload) / outputs, 1.0) if outputs else 1.0


def _inputs(operation: Operation, workload: Workload) -> float:
    """Numbers in the input of a convolution, from its bytes.

    The forward pass reads the input and the weights, and writes the output. The backward pass reads
    the input, the weights and the gradient of the output, and writes the gradient of the weights
    and, if it is needed, that of the input.
    """
    rows, columns, depth = sizes(operation)
    outputs, weights = rows * columns * operation.groups, columns * depth * operation.groups
    numbers = operation.bytes / number_bytes(workload) - outputs
    if operation.phase == "forward":
        return numbers - weights
    return (numbers - 2 * weights) / (2 if has_both_gradients(operation) else 1)


def bytes_of_bias(operation: Operation, workload: Workload) -> float:
    """Traffic of the kernel that adds a bias, or that computes the gradient of one.

    cuDNN adds none, so that torch reads and writes the output once more (`_convolution` in
    aten/src/ATen/native/Convolution.cpp). torch's own depthwise kernel adds it, and a compiler
    fuses it with what follows. The gradient is a sum over the gradient of the output. Of a
    transposed convolution, whose product has the size of its input, this is too little.
    """
    if not operation.bias or workload.compiled:
        return 0.0
    output = operation.rows * operation.columns * operation.groups * number_bytes(workload)
    if operation.phase == "backward":
        return float(output)
    return 0.0 if is_native(operation, workload) else 2.0 * output


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
    """Whether it is the number of taps of a square filter around a centre."""
    return number % 2 == 1 and math.isqrt(number) ** 2 == number


def sizes(operation: Operation) -> tuple[int, int, int]:
    """Rows, columns and depth of a convolution as a product."""
    return operation.rows, operation.columns, operation.depth


def has_both_gradients(operation: Operation) -> bool:
    """Whether a backward pass computes the gradient of the input, too, beside that of weights."""
    rows, columns, depth = sizes(operation)
    return operation.flops > 1.5 * (2.0 * rows * columns * depth * operation.groups)


def uses_per_number(operation: Operation, workload: Workload) -> float:
    """How often each channel of a convolution uses a number that it reads, from its bytes.

    A filter of 1 x 1 does once, one of 3 x 3 nine times, or 9 / 4 times if it moves by two
    positions at a time. NaN if it cannot be told.
    """
    read = _inputs(operation, workload)
    return operation.rows * operation.depth * operation.groups / read if read > 0 else math.nan


def is_pointwise(operation: Operation, workload: Workload) -> bool:
    """Whether a convolution uses each number that it reads once, as a product of matrices does."""
    return uses_per_number(operation, workload) < _POINTWISE


def is_like_channels_last(operation: Operation, workload: Workload) -> bool:
    """Whether a convolution runs in NHWC, or as fast.

    In NCHW, cuDNN rearranges tensors for tensor units. It need not for filters of 1 x 1 without a
    stride, if the positions of an image fill groups of 16 bytes, as they are the columns of its
    product then, or if there is only one.
    """
    if is_channels_last(operation, workload):
        return True
    if workload.precision == "fp32" or kind_of(operation) != CONV:
        return False
    if not is_pointwise(operation, workload) or is_strided(operation, workload):
        return False
    positions = operation.rows / workload.batch_size
    return positions == 1 or fills_groups((positions, operation.depth), workload)


def is_strided(operation: Operation, workload: Workload) -> bool:
    """Whether a filter of 1 x 1, 3 x 3, 5 x 5 or 7 x 7 moves by two positions at a time."""
    uses = uses_per_number(operation, workload)
    return any(
        operation.depth % taps == 0 and 0.9 < 4 * uses / taps < 1.2 for taps in (1, 9, 25, 49)
    )


def has_three_by_three(operation: Operation, workload: Workload) -> bool:
    """Whether the filter has nine taps, so that Winograd's algorithm is of use."""
    return operation.depth % 9 == 0 and not is_pointwise(operation, workload)


def has_equal_groups(operation: Operation, workload: Workload) -> bool:
    """Whether a grouped convolution has one of cuDNN's kernels for all groups at once.

    On an H200 (`benchmarks/data/convolutions.jsonl.gz`), those are fast whose groups have as many
    inputs as outputs, a power of two, with 64 channels or more in all; in NHWC, from four on.
    """
    width = operation.columns
    taps, remainder = divmod(operation.depth, max(width, 1))
    least = 4 if is_channels_last(operation, workload) else 2
    is_power = width >= least and width & (width - 1) == 0
    is_wide = width * operation.groups >= _FEWEST_CHANNELS
    return is_power and is_wide and remainder == 0 and taps > 1 and _is_odd_square(taps)


def kernels_of_groups(operation: Operation, workload: Workload) -> int:
    """Number of kernels that a convolution starts for its groups, where cuDNN has none for all.

    `benchmarks.collect.kernel_counts` counted them on an H200 with torch 2.11. Filters of 1 x 1
    with many channels have them. So do, in half precision and NHWC, in the forward pass, larger
    filters with several outputs of each single input or with two inputs, and filters of 5 x 5 on
    images of 2 x 2. Other combinations of few channels, sizes and filters, which are not known
    here, also have kernels for each group.
    """
    o, kind = operation, kind_of(operation)
    half, last = is_half(workload), is_channels_last(o, workload)
    is_forward = o.phase == "forward"
    if kind == GROUPED and is_pointwise(o, workload) and o.depth > 1:
        if not is_forward:
            return _GRADIENTS_A_GROUP * o.groups if o.depth >= _SOME_INPUTS else 0
        return (3 if last else 1) * o.groups if half and o.depth >= _MANY_INPUTS else 0
    if not (half and last and is_forward):
        return 0
    if kind == GROUPED:
        inputs, remainder = divmod(o.depth, 2)
        return o.groups if remainder == 0 and inputs > 1 and _is_odd_square(inputs) else 0
    if kind != DEPTHWISE:
        return 0
    positions = inputs_per_output(o, workload) * o.rows / workload.batch_size
    is_tiny = 1.5 < positions < _TINY + 0.5
    return o.groups if o.depth > 1 and (o.columns > 1 or (is_tiny and o.depth == 25)) else 0


def is_channels_last(operation: Operation, workload: Workload) -> bool:
    """Whether an operation runs in NHWC."""
    # The compiler uses channels-last for convolutions, whatever the model does.
    return workload.compiled or (operation.layout or workload.layout) == "channels_last"
