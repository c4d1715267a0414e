"""Duration of a training step on a GPU from its operations: a roofline model with a CPU.

Each operation takes the longer of its arithmetic time and its memory time, at shares of the peaks
that depend on the kind of operation, plus a start-up time (Williams, Waterman, Patterson,
"Roofline", Communications of the ACM 52(4), 2009). The CPU has to launch all operations: if that
takes longer, the GPU waits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from energyest.estimators.pre.physics.arithmetic import MOST_SHARE, at_most, products_s
from energyest.estimators.pre.physics.kinds import (
    ATTENTION,
    BATCH_NORM,
    CONV,
    DEPTHWISE,
    KINDS,
    LAYER_NORM,
    MATMUL,
    RECURRENT,
    REORDERING,
    SUM,
)
from energyest.estimators.pre.physics.operation_table import CALLED, Array, OperationTable
from energyest.estimators.pre.physics.parameters import FORMATS, Parameters

# Bytes of memory traffic per clock of a multiprocessor (H100), to which the parameters refer.
_BYTES_PER_CLOCK = 12.8
# Share of the link rate that all-reduce reaches (NVIDIA's nccl-tests on eight H100: 360 of
# 450 GB/s), and share of the traffic that overlaps with the backward pass. Both are approximate and
# not fitted. On two H200, the ratio of a step to that on one GPU is 3 % off in the median
# (`benchmarks/evidence/pre_scaling.py`).
_LINK_SHARE, _HIDDEN = 0.8, 0.9
# torch sums the gradients of more rows in parallel (aten/src/ATen/native/cuda/
# layer_norm_kernel.cu).
_MOST_ROWS = 65536
# Entries of `CALLED` that a compiler reduces to little.
_FUSED = ("norm", "other", "view", "module")


@dataclass(frozen=True)
class StepTimes:
    """Times of a training step in seconds; each field is an array with one number per workload.

    Attributes:
        step_s: duration of the whole step.
        gpu_s: time in which the GPU works.
        cpu_s: time that the CPU needs to launch operations.
        math_s: GPU time of operations limited by arithmetic.
        memory_s: GPU time of operations limited by memory traffic, including the optimizer.
        start_s: GPU time to start operations.
        transfer_s: time to transfer the batch to the GPU.
    """

    step_s: Array
    gpu_s: Array
    cpu_s: Array
    math_s: Array
    memory_s: Array
    start_s: Array
    transfer_s: Array


def step_times(table: OperationTable, p: Parameters, host: Array | float = 1.0) -> StepTimes:
    """Times of a step, for parameters as in `parameters.STEP`.

    Args:
        table: the workloads on their GPUs.
        p: parameters.
        host: time that the machine's CPU takes ÷ time on the typical machine, for each workload.
    """
    math_s = _math_s(table, p)
    memory_s = _memory_s(table, p)
    by_math = math_s >= memory_s
    updates_s = table.optimizer_s * p["optimizer"] + table.gradients_s
    total_math_s = table.sums(np.where(by_math, math_s, 0.0))
    bias_s = _bias_s(table, p)
    total_memory_s = table.sums(np.where(by_math, 0.0, memory_s) + bias_s)
    total_memory_s = total_memory_s + updates_s / p["bandwidth_other"]
    start_s = table.sums(_start_s(table, p) + p["gap_s"])
    gpu_s = total_math_s + total_memory_s + start_s
    per_call_s = np.array([p[f"call_{name}_s"] for name in CALLED])
    # A compiler fuses element-wise operations; its code calls the others.
    fused = [name in _FUSED for name in CALLED]
    compiled_s = per_call_s * np.where(fused, p["compiled_calls"], p["compiled_products"])
    calls_s = np.where(table.is_compiled, compiled_s @ table.calls, per_call_s @ table.calls)
    fixed_s = p["call_step_s"] + table.is_compiled * p["compiled_step_s"]
    cpu_s = host * (fixed_s + calls_s)
    transfer_s = table.input_bytes / p["host_bytes_per_s"]
    # A CPU that waits for the GPU again and again works partly in turn with it.
    overlap = np.where(table.waits_for_gpu, p["overlap_if_waiting"], p["overlap"])
    joined_s = (gpu_s**overlap + cpu_s**overlap) ** (1 / overlap)
    backward_s = table.sums(np.where(table.is_backward, np.maximum(math_s, memory_s), 0.0))
    waits_s = _waits_for_gradients_s(table.all_reduce_s, backward_s)
    return StepTimes(
        joined_s + transfer_s + waits_s,
        gpu_s,
        cpu_s,
        total_math_s,
        total_memory_s,
        start_s,
        transfer_s,
    )


def operation_times(table: OperationTable, p: Parameters) -> Array:
    """The GPU's time for each operation of each workload in seconds, in their order."""
    longer_s = np.maximum(_math_s(table, p), _memory_s(table, p))
    return table.of_operations(longer_s + _bias_s(table, p) + _start_s(table, p))


def _waits_for_gradients_s(all_reduce_s: Array, backward_s: Array) -> Array:
    """Time that a GPU waits, after its backward pass, for the gradients of the others.

    Gradients are sent during the backward pass, bucket by bucket (Li et al., "PyTorch Distributed:
    Experiences on accelerating data parallel training", VLDB 2020), except for the last ones.
    """
    sent_s = all_reduce_s / _LINK_SHARE
    hidden_s: Array = np.minimum(_HIDDEN * sent_s, backward_s)
    return sent_s - hidden_s


def _math_s(table: OperationTable, p: Parameters) -> Array:
    """Time of arithmetic, and of the rows of layer normalisations."""
    rows_s = table.groups / table.clocks_per_s * p["row_clocks"]
    seconds: Array = np.where(table.kind == LAYER_NORM, rows_s, 0.0)
    seconds[table.has_flops] = products_s(table.products, p)
    return seconds


def _memory_s(table: OperationTable, p: Parameters) -> Array:
    def of_kinds(name: str) -> Array:
        values: Array = np.array([p[name.format(kind)] for kind in KINDS])[table.kind]
        return values

    is_half = table.format_of_operation == FORMATS.index("half")
    is_depthwise = table.kind == DEPTHWISE
    share = of_kinds("bandwidth_{}") * np.where(is_half, of_kinds("half_{}_bytes"), 1.0)
    share = share * np.where(table.is_backward, of_kinds("gradient_{}_bytes"), 1.0)
    share = share * np.where(table.is_channels_last, of_kinds("channels_last_{}_bytes"), 1.0)
    # Convolutions with few channels use small parts of what they fetch.
    wide = table.columns / (table.columns + p["few_outputs"])
    wide = wide * table.depth / (table.depth + p["few_inputs"])
    is_filter = (table.kind == CONV) & ~table.is_pointwise
    share = share * np.where(is_filter, wide, 1.0)
    share = share * np.where((table.kind == CONV) & table.is_first, p["first_conv_bytes"], 1.0)
    share = share * np.where(table.is_padded, p["unaligned_conv_bytes"], 1.0)
    # cuDNN normalises batches in fp16, but not in bf16.
    is_batch_norm = table.kind == BATCH_NORM
    bf16 = np.where(table.is_backward, p["gradient_batch_norm_bf16"], p["batch_norm_bf16"])
    share = share * np.where(is_batch_norm & table.is_bf16, bf16, 1.0)
    # In NCHW, a multiprocessor normalises a channel; with few channels, others are idle.
    filled = table.groups / table.multiprocessors / p["channels_batch_norm"]
    filled = at_most(filled, 1.0)
    is_known = is_batch_norm & (table.groups > 1)
    share = share * np.where(is_known & ~table.is_channels_last, filled, 1.0)
    # In NHWC, few channels leave lanes idle.
    filled = table.groups / (table.groups + p["thin_batch_norm"])
    share = share * np.where(is_known & table.is_channels_last, filled, 1.0)
    last = is_batch_norm & table.is_channels_last & table.is_backward
    share = share * np.where(last, p["channels_last_gradient_batch_norm"], 1.0)
    # The more a multiprocessor can fetch per clock, the smaller the share it uses; what does more
    # than pass over its data is limited by its instructions.
    is_slow = (table.kind >= BATCH_NORM) & (table.kind <= REORDERING)
    kinds = (is_depthwise, table.is_conv, is_slow)
    exponents = (p["slow_memory_depthwise"], p["slow_memory_conv"], p["slow_memory_others"])
    exponent = np.select(kinds, exponents, p["slow_memory"])
    share = share * (_BYTES_PER_CLOCK / table.bytes_per_clock) ** exponent
    share = at_most(share, MOST_SHARE) * _faster_by_cache(table.bytes, table, p)
    # A compiler fuses element-wise operations.
    is_fused = table.is_compiled_operation & table.is_fusible
    moved = table.bytes * np.where(is_fused, p["compiled_bytes"], 1.0)
    seconds: Array = moved / (table.bandwidth * share)
    return seconds


def _bias_s(table: OperationTable, p: Parameters) -> Array:
    """Time of the kernels that add a bias, or compute the gradient of one."""

    def of_kind(name: str) -> Array:
        values: Array = np.where(table.is_backward, p[name.format("sum")], p[name.format("other")])
        return values

    is_half = table.format_of_operation == FORMATS.index("half")
    share = of_kind("bandwidth_{}") * np.where(is_half, of_kind("half_{}_bytes"), 1.0)
    share = at_most(share, MOST_SHARE) * _faster_by_cache(table.bias_bytes, table, p)
    start_s = np.where(table.is_backward, p["start_sum_s"], p["start_s"])
    seconds = table.bias_bytes / (table.bandwidth * share) + start_s
    found: Array = np.where(table.bias_bytes > 0, seconds, 0.0)
    return found


def _faster_by_cache(moved: Array, table: OperationTable, p: Parameters) -> Array:
    """How much faster than memory the cache is for data that fit into it."""
    faster: Array = 1 + p["cache"] / (1 + (2 * moved / table.cache_bytes) ** 2)
    return faster


def _start_s(table: OperationTable, p: Parameters) -> Array:
    kinds = {
        "conv": table.is_conv,
        "norm": table.is_norm,
        "matmul": table.kind == MATMUL,
        "attention": table.kind == ATTENTION,
        "sort": table.is_sorting,
        "sum": table.kind == SUM,
    }
    start_s = np.select(
        list(kinds.values()), [p[f"start_{name}_s"] for name in kinds], p["start_s"]
    )
    # In NCHW, tensors are rearranged before and after a convolution.
    one = table.is_conv & table.is_channels_last
    start_s = start_s * np.where(one, p["channels_last_conv_start"], 1.0)
    start_s = start_s * np.where(table.is_conv & table.is_pointwise, p["start_pointwise"], 1.0)
    start_s = start_s * np.where(table.kind == DEPTHWISE, p["start_depthwise"], 1.0)
    start_s = start_s * np.where(table.is_padded, p["start_unaligned_conv"], 1.0)
    is_gradient = table.is_conv & table.is_backward
    start_s = start_s * np.where(is_gradient, p["gradient_conv_start"], 1.0)
    # Up to a number of rows, the weights' gradients of a layer normalisation are summed one after
    # another, in parallel only over their columns.
    one_by_one = (table.kind == LAYER_NORM) & table.is_backward & (table.groups <= _MOST_ROWS)
    row_s = p["gradient_row_clocks"] * table.multiprocessors / table.clocks_per_s
    start_s = start_s + np.where(one_by_one, table.groups * row_s, 0.0)
    # The backward pass of attention takes two kernels.
    twice = table.is_backward & (table.kind == ATTENTION)
    start_s = start_s * np.where(twice, 2.0, 1.0)
    is_fused = table.is_compiled_operation & table.is_fusible
    start_s = start_s * np.where(is_fused, p["compiled_bytes"], 1.0)
    # A recurrent layer either has kernels for single steps, or one for all of them.
    has_one = (table.kind == RECURRENT) & (table.kernels == 0)
    start_s = start_s + np.where(has_one, table.steps * p["step_recurrent_s"], 0.0)
    seconds: Array = start_s + table.kernels * p["start_kernel_s"]
    return seconds
