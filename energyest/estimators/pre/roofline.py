"""How long a training step takes on a GPU, from its operations: a roofline with a CPU beside it.

Each operation takes the longer of its arithmetic and its memory traffic, at shares of the peaks
that depend on what it is, and a moment to start (Williams, Waterman, Patterson, "Roofline",
Communications of the ACM 52(4), 2009). A CPU has to launch it all: where that takes longer, the GPU
waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.errors import EstimateError
from energyest.estimators.pre.parameters import FORMATS
from energyest.gpus import Gpu, check_precision, peak_flops_per_s
from energyest.records.workload import Operation, Workload

Array = NDArray[np.float64]
Parameters = dict[str, float]

_KINDS = (
    "matmul",
    "conv",
    "grouped",
    "depthwise",
    "attention",
    "recurrent",
    "norm",
    "other",
)
_MATMUL, _CONV, _GROUPED, _DEPTHWISE, _ATTENTION, _RECURRENT, _NORM, _OTHER = range(len(_KINDS))
# Rows, columns and depth of the part of a product that one multiprocessor computes at a time.
_TILE = (128, 64, 512)
# fp32 lanes of a multiprocessor by compute capability: CUDA C++ Programming Guide, "Arithmetic
# Instructions". Others have 128.
_LANES = {
    **{(3, 0): 192, (3, 2): 192, (3, 5): 192, (3, 7): 192},
    **{(6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64},
}
# From this compute capability on, a multiprocessor has as many fp32 lanes as it can issue
# instructions in a clock: each load or addition of an index takes the place of an fp32 operation.
# The share of the peak that large products sustain is about 0.78 there (cuBLAS on GA102, AD102 and
# GH100) and 0.92 to 0.97 before, GA100 included (public measurements of SGEMM). The parameters are
# of the former. Kepler's 192 lanes are more than it issues instructions for (Maxwell whitepaper).
_ROOMY_SINCE, _CROWDED_SINCE, _UNCROWDED = (5, 0), (8, 6), 1.2
# FLOPs in a clock of a multiprocessor of Hopper, in each of `FORMATS`, and bytes of memory (H100),
# of which the parameters are.
_WIDTHS, _BYTES_PER_CLOCK = (256.0, 2048.0, 4096.0), 12.8
# No share of a peak is above this for long.
_MOST_SHARE = 0.92
# What the CPU does, in the order of `Layout.calls`.
_CALLED = (
    *("conv", "norm", "matmul", "other"),
    *("view", "module", "tensor", "state", "lightning", "scaler"),
)


@dataclass(frozen=True)
class StepTimes:
    """Seconds in a training step; every field is an array with one number for each workload.

    Attributes:
        step_s: the whole step.
        gpu_s: the GPU is at work.
        cpu_s: the CPU is at work on launching.
        math_s: of the GPU's time, what arithmetic bounds.
        memory_s: of the GPU's time, what memory traffic bounds, the optimizer's included.
        start_s: of the GPU's time, starts of operations.
        transfer_s: the batch is on its way to the GPU.
    """

    step_s: Array
    gpu_s: Array
    cpu_s: Array
    math_s: Array
    memory_s: Array
    start_s: Array
    transfer_s: Array


class Layout:
    """Workloads on GPUs, laid out in arrays once, so that times for other parameters are quick.

    Args:
        pairs: workloads, each with a GPU.

    Raises:
        EstimateError: a workload has no operations; a GPU lacks its precision; the GPU's peak or
            bandwidth is not known.
    """

    def __init__(self, pairs: Sequence[tuple[Workload, Gpu]]) -> None:
        self.size = len(pairs)
        for workload, _ in pairs:
            if not workload.operations:
                raise EstimateError(f"the workload of {workload.model} has no operations to time")
        rows = [
            (index, *row)
            for index, (workload, gpu) in enumerate(pairs)
            for peaks in [_peaks(workload, gpu)]
            for operation in workload.operations
            for row in _rows(operation, gpu, *peaks)
        ]
        table = np.array(rows, float).reshape(-1, 15).T
        self._of, self.kind = table[0].astype(int), table[1].astype(int)
        self._count, self.flops, self.bytes = table[2:5]
        self.is_backward, self.is_weight_gradient = table[5] > 0, table[6] > 0
        self.steps, self.tiles, self.slices, self.columns, self.depth = table[7:12]
        self.peak, self.peak_fp32, self.bandwidth = table[12:15]
        self.is_conv = (self.kind >= _CONV) & (self.kind <= _DEPTHWISE)
        clocks = np.array([_clocks_per_s(gpu) for _, gpu in pairs])[self._of]
        # What a multiprocessor's tensor units, or else its lanes, and its share of the memory can
        # do in a clock.
        self.width = self.peak / clocks
        self.bytes_per_clock = self.bandwidth / clocks
        # The compiler lays convolutions out so, whatever the model does.
        last = [w.layout == "channels_last" or w.compiled for w, _ in pairs]
        self.is_channels_last = np.array(last)[self._of]
        self.is_fp16 = np.array([w.precision == "fp16" for w, _ in pairs])[self._of]
        self.is_compiled = np.array([w.compiled for w, _ in pairs])
        self.is_compiled_operation = self.is_compiled[self._of]
        formats = np.array([_format(workload, gpu) for workload, gpu in pairs], int)
        self.format = formats
        self.format_of_operation = formats[self._of]
        caches = np.array([gpu.l2_bytes for _, gpu in pairs])
        self.cache_bytes = np.where(np.isnan(caches), 4e6, caches)[self._of]
        facts = np.array([_facts(workload, gpu) for workload, gpu in pairs], float).reshape(-1, 8).T
        self.calls = np.array([*self._operations_called(), *facts[:6]])
        self.input_bytes, self.optimizer_s = facts[6:8]

    def _operations_called(self) -> list[Array]:
        """Operations that the CPU starts, as in `_CALLED`."""
        # Both gradients of a convolution are one call.
        once = np.where(self.is_conv & self.is_backward & ~self.is_weight_gradient, 0.0, 1.0)
        kinds = (self.is_conv, self.kind == _NORM, self.kind == _MATMUL)
        counts = [self.sums(once * kind) for kind in kinds]
        return [*counts, self.sums(once) - sum(counts)]

    def sums(self, values: Array) -> Array:
        """Values of single operations, added up for each workload."""
        added = np.bincount(self._of, values * self._count, minlength=self.size)
        return added.astype(float)

    def shares_of_peak(self, step_s: Array) -> tuple[Array, Array, Array]:
        """What a step of that length makes of the peaks: (convolutions, other FLOPs, bytes)."""
        ideal_s = self.flops / self.peak
        conv_s = self.sums(np.where(self.is_conv, ideal_s, 0.0))
        other_s = self.sums(np.where(self.is_conv, 0.0, ideal_s))
        bytes_s = self.sums(self.bytes / self.bandwidth) + self.optimizer_s
        return conv_s / step_s, other_s / step_s, bytes_s / step_s


def step_times(layout: Layout, p: Parameters, host: Array | float = 1.0) -> StepTimes:
    """Times of a step, by parameters as in `parameters.STEP`.

    Args:
        layout: the workloads on their GPUs.
        p: parameters.
        host: how many times as long as usual the machine's CPU takes, for each workload.
    """
    math_s = _math_s(layout, p)
    memory_s = _memory_s(layout, p)
    by_math = math_s >= memory_s
    optimizer_s = layout.optimizer_s * p["optimizer"] / p["bandwidth_other"]
    total_math_s = layout.sums(np.where(by_math, math_s, 0.0))
    total_memory_s = layout.sums(np.where(by_math, 0.0, memory_s)) + optimizer_s
    start_s = layout.sums(_start_s(layout, p))
    gpu_s = total_math_s + total_memory_s + start_s
    per_call_s = np.array([p[f"call_{name}_s"] for name in _CALLED])
    calls_s = per_call_s @ layout.calls
    calls_s = calls_s * np.where(layout.is_compiled, p["compiled_calls"], 1.0)
    cpu_s = host * (p["call_step_s"] + calls_s)
    transfer_s = layout.input_bytes / p["host_bytes_per_s"]
    joined_s = (gpu_s ** p["overlap"] + cpu_s ** p["overlap"]) ** (1 / p["overlap"])
    return StepTimes(
        joined_s + transfer_s, gpu_s, cpu_s, total_math_s, total_memory_s, start_s, transfer_s
    )


def _math_s(layout: Layout, p: Parameters) -> Array:
    shares = np.ones((len(_KINDS), len(FORMATS)))
    for kind in (_MATMUL, _CONV, _GROUPED, _ATTENTION):
        shares[kind] = [p[f"peak_{_KINDS[kind]}_{name}"] for name in FORMATS]
    shares[_RECURRENT], shares[_DEPTHWISE] = p["peak_recurrent"], p["peak_depthwise"]
    is_conv = (layout.kind == _CONV) | (layout.kind == _GROUPED)
    is_tensor = layout.format_of_operation != FORMATS.index("fp32")
    # The wider the tensor units of a multiprocessor, the harder it is to keep them fed.
    exponent = np.where(is_conv, p["narrow_conv"], p["narrow_matmul"])
    narrower = np.array(_WIDTHS)[layout.format_of_operation] / layout.width
    share = shares[layout.kind, layout.format_of_operation]
    share = share * np.where(is_tensor, narrower**exponent, 1.0)
    last = is_conv & is_tensor & layout.is_channels_last
    share = share * np.where(last, p["channels_last_conv"], 1.0)
    share = share / (1 + (share / _MOST_SHARE) ** 4) ** 0.25
    # Nothing is slower in another format than in fp32: libraries choose, and where the peak of
    # another is hardly higher, as that of tf32 on GeForce GPUs, its share is not what Hopper's is.
    rate = np.maximum(
        layout.peak * share,
        layout.peak_fp32 * shares[layout.kind, FORMATS.index("fp32")],
    )
    share = np.where(layout.is_weight_gradient, p["weight_gradient"], 1.0)
    # Products of few tiles leave multiprocessors idle, thin ones leave lanes of them idle.
    tiles = layout.tiles * layout.slices ** p["split"]
    filled = tiles ** np.where(layout.kind == _MATMUL, p["fill_matmul"], p["fill_conv"])
    filled = filled / (1 + filled**4) ** 0.25
    thick = layout.columns / (layout.columns + p["thin_columns"])
    thick = thick * layout.depth / (layout.depth + p["thin_depth"])
    is_product = (layout.kind == _MATMUL) | (layout.kind == _CONV) | (layout.kind == _GROUPED)
    share = share * np.where(is_product, filled * thick, 1.0)
    seconds: Array = layout.flops / (rate * share)
    return seconds


def _memory_s(layout: Layout, p: Parameters) -> Array:
    names = ("matmul", "conv", "grouped", "depthwise", "attention", "matmul", "norm", "other")
    share = np.array([p[f"bandwidth_{name}"] for name in names])[layout.kind]
    half, last = np.ones(len(_KINDS)), np.ones(len(_KINDS))
    for kind in (_CONV, _GROUPED, _DEPTHWISE):
        half[kind] = p[f"bandwidth_{_KINDS[kind]}_half"]
        last[kind] = p[f"channels_last_{_KINDS[kind]}_bytes"]
    is_half = layout.format_of_operation == FORMATS.index("half")
    share = share * np.where(is_half, half[layout.kind] * p["bandwidth_half"], 1.0)
    share = share * np.where(is_half & layout.is_channels_last, last[layout.kind], 1.0)
    is_depthwise = layout.kind == _DEPTHWISE
    share = share * np.where(
        is_depthwise & layout.is_backward, p["bandwidth_depthwise_gradient"], 1.0
    )
    # cuDNN has depthwise kernels for fp16; torch's own, for other numbers, are slower.
    native = is_depthwise & is_half & layout.is_fp16 & ~layout.is_channels_last
    share = share * np.where(native, p["depthwise_fp16"], 1.0)
    # The more a multiprocessor could fetch in a clock, the less of it one uses; small ones, such as
    # of depthwise convolutions, are bound by its instructions.
    exponent = np.where(is_depthwise, p["slow_memory_depthwise"], p["slow_memory"])
    share = share * (_BYTES_PER_CLOCK / layout.bytes_per_clock) ** exponent
    share = share / (1 + (share / _MOST_SHARE) ** 4) ** 0.25
    share = share * (1 + p["cache"] / (1 + (2 * layout.bytes / layout.cache_bytes) ** 2))
    # A compiler fuses what works on single numbers.
    is_fused = layout.is_compiled_operation & ((layout.kind == _NORM) | (layout.kind == _OTHER))
    moved = layout.bytes * np.where(is_fused, p["compiled_bytes"], 1.0)
    seconds: Array = moved / (layout.bandwidth * share)
    return seconds


def _start_s(layout: Layout, p: Parameters) -> Array:
    start_s = np.where(layout.is_conv, p["start_conv_s"], p["start_s"])
    # The gradient of attention takes two kernels.
    twice = layout.is_backward & (layout.kind == _ATTENTION)
    start_s = start_s * np.where(twice, 2.0, 1.0)
    is_fused = layout.is_compiled_operation & ((layout.kind == _NORM) | (layout.kind == _OTHER))
    start_s = start_s * np.where(is_fused, p["compiled_bytes"], 1.0)
    recurrent_s = p["start_recurrent_s"] * layout.steps * np.where(layout.is_backward, 1.5, 1.0)
    return np.where(layout.kind == _RECURRENT, recurrent_s, start_s)


# ------------------------------------------------------------------ what is laid out


def _rows(
    operation: Operation, gpu: Gpu, peak: float, peak_fp32: float
) -> Iterator[tuple[float, ...]]:
    """An operation as the GPU runs it: the gradients of a convolution are two."""
    lanes = _LANES.get(gpu.compute_capability or (0, 0), 128)
    multiprocessors = gpu.cuda_cores / lanes if gpu.cuda_cores > 0 else 1.0
    kind, o = _kind(operation), operation
    forward = (max(o.rows, 1), max(o.columns, 1), max(o.depth, 1))
    products = [(1.0, False, forward)]
    if kind in (_CONV, _GROUPED, _DEPTHWISE) and o.phase == "backward":
        rows, columns, depth = forward
        weight = (columns, depth, rows)
        one = 2.0 * rows * columns * depth * o.groups
        # Where no gradient of the input is asked for, as in the first layer, there is only one.
        both = o.flops > 1.5 * one
        products = [(0.5, False, forward), (0.5, True, weight)] if both else [(1.0, True, weight)]
    if kind == _DEPTHWISE:
        peak = peak_fp32
    for part, is_weight_gradient, (rows, columns, depth) in products:
        tiles = -(-rows // _TILE[0]) * -(-columns // _TILE[1]) * o.groups / multiprocessors
        yield (
            kind,
            o.count,
            part * o.flops,
            part * o.bytes,
            o.phase == "backward",
            is_weight_gradient,
            o.steps,
            tiles,
            -(-depth // _TILE[2]),
            columns,
            depth,
            peak,
            peak_fp32,
            gpu.bandwidth_bytes_per_s,
        )


def _kind(operation: Operation) -> int:
    name = operation.name
    if operation.steps > 1 or name.startswith(("lstm", "gru", "rnn")):
        return _RECURRENT
    if "attention" in name:
        return _ATTENTION
    if name.startswith("convolution"):
        if operation.groups == 1:
            return _CONV
        return _DEPTHWISE if operation.columns == 1 else _GROUPED
    if operation.flops > 0:
        return _MATMUL
    return _NORM if "norm" in name else _OTHER


def _peaks(workload: Workload, gpu: Gpu) -> tuple[float, float]:
    """Arithmetic rates in the workload's precision, and in fp32."""
    peak = peak_flops_per_s(gpu, workload.precision)
    if not gpu.bandwidth_bytes_per_s > 0:
        raise EstimateError(
            f"no memory bandwidth known for {gpu.name}: pass a Gpu(...) that names it"
        )
    capability = gpu.compute_capability
    is_roomy = capability is not None and _ROOMY_SINCE <= capability < _CROWDED_SINCE
    sustained = _UNCROWDED if is_roomy else 1.0
    peak_fp32 = sustained * gpu.peak_flops_per_s.get("fp32", peak)
    is_fp32 = check_precision(gpu, workload.precision) == "fp32"
    return (peak_fp32 if is_fp32 else peak), peak_fp32


def _clocks_per_s(gpu: Gpu) -> float:
    """Clocks of all multiprocessors: in one, a lane does a multiplication and an addition."""
    lanes = _LANES.get(gpu.compute_capability or (0, 0), 128)
    return gpu.peak_flops_per_s.get("fp32", np.nan) / (2 * lanes)


def _format(workload: Workload, gpu: Gpu) -> int:
    used = check_precision(gpu, workload.precision)
    return FORMATS.index("half" if used in ("bf16", "fp16") else used)


def _facts(workload: Workload, gpu: Gpu) -> tuple[float, ...]:
    views = workload.forward_calls + workload.backward_calls - workload.kernels
    return (
        max(views, 0),
        workload.module_calls,
        workload.parameter_tensors,
        workload.parameter_tensors * workload.optimizer_states,
        workload.loop == "lightning",
        workload.precision == "fp16",  # with a scaler of the loss
        workload.input_bytes,
        workload.optimizer_bytes / gpu.bandwidth_bytes_per_s,
    )
