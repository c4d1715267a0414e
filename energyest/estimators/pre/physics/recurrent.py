"""Kernels of recurrent layers: one for all time steps, or two for each of them.

The rules are torch's (`get_algo` in aten/src/ATen/native/cudnn/RNN.cpp, 2.11); on an H200,
`benchmarks.collect.kernel_counts` counted the same, except that layers in bf16 themselves always
have kernels for single steps. Mixed precision runs layers in fp16, also if it is bf16 elsewhere
(aten/src/ATen/cudnn/AutocastRNN.cpp). Packed sequences and projections, which have kernels for
single steps, cannot be seen in an `Operation`.
"""

from __future__ import annotations

from energyest.estimators.pre.physics.alignment import is_half
from energyest.gpus import Gpu
from energyest.records.workload import Operation, Workload

# From Pascal on and up to these widths, a kernel keeps the weights and runs all steps: of layers
# with gates, and of others.
_SMALL = {"forward": 192, "backward": 128}
_SMALL_WITHOUT_GATES = {"forward": 384, "backward": 256}
# The same for a single layer in one direction, in half precision, up to a width that is a multiple
# of the second number, as the width of its inputs must be.
_LARGE, _MULTIPLE = 1024, 128
# That needs, from Ampere on, batches that are a multiple of the first number, up to the second, and
# as many multiprocessors as the third; large layers without gates have smaller batches.
_SAMPLES, _MOST_SAMPLES, _MULTIPROCESSORS = 8, 128, 98
_WIDE, _MOST_IF_WIDE = 896, 95
# On Volta: batches, and the largest ones for at least so many time steps.
_SAMPLES_ON_VOLTA = (8, 16, 32, 48, 64, 96, 128)
_STEPS_ON_VOLTA = ((40, 128), (20, 96), (10, 32))
_PASCAL, _VOLTA, _AMPERE, _GA102 = (6, 0), (7, 0), (8, 0), (8, 6)
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


def kernels_of_steps(
    operation: Operation, workload: Workload, gpu: Gpu, multiprocessors: float
) -> int:
    """Number of kernels that are started for single time steps; 0 if one kernel runs them all.

    Args:
        operation: a recurrent layer, or several.
        workload: its workload.
        gpu: the GPU.
        multiprocessors: its number of multiprocessors.
    """
    o, number = operation, layers(operation)
    all_kernels = _KERNELS_A_STEP * o.steps * number
    if workload.precision == "bf16" and workload.parameter_bytes == 2:
        return all_kernels  # weights in bf16 themselves
    small = (_SMALL_WITHOUT_GATES if _has_no_gates(o) else _SMALL)[o.phase]
    if _capability(gpu) >= _PASCAL and o.depth <= small:
        return 0
    is_large = o.depth <= _LARGE and not (o.depth % _MULTIPLE or _inputs(o) % _MULTIPLE)
    if number == 1 and is_large and is_half(workload) and _suits(o, gpu, multiprocessors):
        return 0
    return all_kernels


def _inputs(operation: Operation) -> int:
    """Width of the inputs of a single layer, from its arithmetic."""
    o = operation
    of_width_one = 2.0 * o.rows * o.steps * o.columns * (1 + (o.phase == "backward"))
    return max(round(o.flops / of_width_one) - o.depth, 0) if of_width_one else 0


def _suits(operation: Operation, gpu: Gpu, multiprocessors: float) -> bool:
    """Whether one kernel runs all steps of a large layer on a GPU."""
    samples, capability = operation.rows, _capability(gpu)
    if capability < _AMPERE:
        most = max((most for least, most in _STEPS_ON_VOLTA if operation.steps >= least), default=0)
        return capability == _VOLTA and samples in _SAMPLES_ON_VOLTA and samples <= most
    if operation.name.startswith("gru") or capability == _GA102:
        return False
    is_wide = _has_no_gates(operation) and operation.depth >= _WIDE
    fits = samples % _SAMPLES == 0 and samples <= (_MOST_IF_WIDE if is_wide else _MOST_SAMPLES)
    return fits and multiprocessors >= _MULTIPROCESSORS


def _has_no_gates(operation: Operation) -> bool:
    return operation.name.startswith("rnn")


def _capability(gpu: Gpu) -> tuple[int, int]:
    """Compute capability; one that is unknown counts as Hopper's."""
    return gpu.compute_capability or (9, 0)
