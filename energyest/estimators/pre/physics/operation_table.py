"""Training steps as arrays: all operations of many workloads on GPUs, built once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.kinds import (
    BATCH_NORM,
    CONV,
    DEPTHWISE,
    GROUPED,
    LAYER_NORM,
    MATMUL,
    kind_of,
)
from energyest.estimators.pre.physics.norms import with_channels
from energyest.estimators.pre.physics.parameters import FORMATS
from energyest.gpus import Gpu, check_precision, link_bytes_per_s, peak_flops_per_s
from energyest.records.workload import Operation, Workload

Array = NDArray[np.float64]

# Work of the CPU, in the order of `OperationTable.calls`.
CALLED = (
    *("conv", "norm", "matmul", "other"),
    *("view", "module", "tensor", "state", "lightning", "scaler"),
)
# Rows, columns and depth of the tile of a product that one multiprocessor computes at a time.
_TILE = (128, 64, 512)
# fp32 lanes per multiprocessor, by compute capability: CUDA C++ Programming Guide, "Arithmetic
# Instructions". All others have 128.
_LANES = {
    **{(3, 0): 192, (3, 2): 192, (3, 5): 192, (3, 7): 192},
    **{(6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64},
}
# From compute capability 8.6 on, a multiprocessor has as many fp32 lanes as it can issue
# instructions per clock, so each load or index addition displaces an fp32 operation. The share of
# the peak that large products sustain is about 0.78 there (cuBLAS on GA102, AD102 and GH100) and
# 0.92 to 0.97 before, including GA100 (public measurements of SGEMM). The parameters apply to the
# former. Kepler cannot issue instructions for all of its 192 lanes (Maxwell whitepaper).
_ROOMY_SINCE, _CROWDED_SINCE, _UNCROWDED = (5, 0), (8, 6), 1.2
# Board power in W per TFLOP/s of fp32, by compute capability, of a board that holds its clock while
# its tensor units work: V100 SXM2, Quadro RTX 8000, A100 SXM4, RTX 3090, RTX 4090, H100 SXM5, B200,
# RTX 5090. Boards with the same chips but less power lower their clocks.
_MOST_WATTS = {
    **{(7, 0): 19.1, (7, 5): 16.0, (8, 0): 20.5, (8, 6): 9.8, (8, 9): 5.4},
    **{(9, 0): 10.4, (10, 0): 13.3, (12, 0): 5.5},
}


# What the arithmetic of an operation depends on: attributes of `OperationTable`.
_OF_PRODUCTS = (
    *("kind", "flops", "peak", "peak_fp32", "format_of_operation", "width", "watts"),
    *("is_channels_last", "is_backward", "is_weight_gradient"),
    *("tiles", "slices", "columns", "depth"),
)


class OperationTable:
    """Workloads on GPUs as arrays, built once, so that times for new parameters are fast.

    Args:
        pairs: workloads, each with a GPU.

    Raises:
        EstimateError: a workload has no operations; a GPU lacks its precision; or the GPU's peak or
            bandwidth is unknown.
    """

    def __init__(self, pairs: Sequence[tuple[Workload, Gpu]]) -> None:
        self.size = len(pairs)
        for workload, _ in pairs:
            if not workload.operations:
                raise EstimateError(f"the workload of {workload.model} has no operations")
        rows = [
            (index, place, *row)
            for index, (workload, gpu) in enumerate(pairs)
            for peaks in [_peaks(workload, gpu)]
            for place, operation in enumerate(with_channels(workload))
            for row in _rows(operation, gpu, *peaks)
        ]
        table = np.array(rows, float).reshape(-1, 19).T
        self._of, place, self.kind = (column.astype(int) for column in table[:3])
        counts = [len(workload.operations) for workload, _ in pairs]
        self._operation = np.cumsum([0, *counts])[self._of] + place
        self._operations = sum(counts)
        self._count, self.flops, self.bytes = table[3:6]
        self.is_backward, self.is_weight_gradient = table[6] > 0, table[7] > 0
        self.steps, self.tiles, self.slices, self.columns, self.depth = table[8:13]
        self.groups, self.multiprocessors = table[13:15]
        self.peak, self.peak_fp32, self.bandwidth = table[15:18]
        self.is_average = table[18] > 0
        self.is_conv = (self.kind >= CONV) & (self.kind <= DEPTHWISE)
        self.is_norm = (self.kind == BATCH_NORM) | (self.kind == LAYER_NORM)
        # What a compiler fuses.
        self.is_fusible = self.kind >= BATCH_NORM
        clocks = np.array([_clocks_per_s(gpu) for _, gpu in pairs])[self._of]
        # FLOPs per clock of a multiprocessor's tensor units (or else its lanes), and bytes per
        # clock of its share of the memory bandwidth.
        self.clocks_per_s = clocks
        self.width = self.peak / clocks
        self.bytes_per_clock = self.bandwidth / clocks
        self.watts = np.array([_watts_of_reference(gpu) for _, gpu in pairs])[self._of]
        # The compiler uses channels-last for convolutions, whatever the model does.
        last = [w.layout == "channels_last" or w.compiled for w, _ in pairs]
        self.is_channels_last = np.array(last)[self._of]
        self.is_fp16 = np.array([w.precision == "fp16" for w, _ in pairs])[self._of]
        self.is_bf16 = np.array([w.precision == "bf16" for w, _ in pairs])[self._of]
        self.is_compiled = np.array([w.compiled for w, _ in pairs])
        self.is_one_of_several = np.array([w.devices > 1 for w, _ in pairs])
        self.is_compiled_operation = self.is_compiled[self._of]
        formats = np.array([_format(workload, gpu) for workload, gpu in pairs], int)
        self.format = formats
        self.format_of_operation = formats[self._of]
        # The rows with arithmetic alone, because most have none.
        self.has_flops = self.flops > 0
        self.products = SimpleNamespace(
            **{name: getattr(self, name)[self.has_flops] for name in _OF_PRODUCTS}
        )
        caches = np.array([gpu.l2_bytes for _, gpu in pairs])
        self.cache_bytes = np.where(np.isnan(caches), 4e6, caches)[self._of]
        facts = np.array([_facts(workload, gpu) for workload, gpu in pairs], float)
        facts = facts.reshape(-1, 10).T
        self.calls = np.array([*self._operations_called(), *facts[:6]])
        self.calls[CALLED.index("other")] += facts[6]
        self.input_bytes, self.optimizer_s, self.all_reduce_s = facts[7:10]

    def _operations_called(self) -> list[Array]:
        """Numbers of operations that the CPU launches, in the order of `CALLED`."""
        # Both gradients of a convolution are one call.
        once = np.where(self.is_conv & self.is_backward & ~self.is_weight_gradient, 0.0, 1.0)
        kinds = (self.is_conv, self.is_norm, self.kind == MATMUL)
        counts = [self.sums(once * kind) for kind in kinds]
        return [*counts, self.sums(once) - sum(counts)]

    def of_operations(self, values: Array) -> Array:
        """Values of rows, summed for each operation of each workload, in their order."""
        added = np.bincount(self._operation, values, minlength=self._operations)
        return added.astype(float)

    def sums(self, values: Array) -> Array:
        """Values of single operations, summed for each workload."""
        added = np.bincount(self._of, values * self._count, minlength=self.size)
        return added.astype(float)

    def shares_of_peak(self, step_s: Array) -> tuple[Array, Array, Array]:
        """Shares of the peaks in a step of that duration: (convolutions, other FLOPs, bytes)."""
        ideal_s = self.flops / self.peak
        conv_s = self.sums(np.where(self.is_conv, ideal_s, 0.0))
        other_s = self.sums(np.where(self.is_conv, 0.0, ideal_s))
        bytes_s = self.sums(self.bytes / self.bandwidth) + self.optimizer_s
        return conv_s / step_s, other_s / step_s, bytes_s / step_s


def _rows(
    operation: Operation, gpu: Gpu, peak: float, peak_fp32: float
) -> Iterator[tuple[float, ...]]:
    """An operation as the GPU runs it: the backward pass of a convolution is two operations."""
    lanes = _LANES.get(gpu.compute_capability or (0, 0), 128)
    multiprocessors = gpu.cuda_cores / lanes if gpu.cuda_cores > 0 else 1.0
    kind, o = kind_of(operation), operation
    forward = (max(o.rows, 1), max(o.columns, 1), max(o.depth, 1))
    products = [(1.0, False, forward)]
    if kind in (CONV, GROUPED, DEPTHWISE) and o.phase == "backward":
        rows, columns, depth = forward
        weight = (columns, depth, rows)
        one = 2.0 * rows * columns * depth * o.groups
        # If no gradient of the input is needed, as in the first layer, there is only one.
        both = o.flops > 1.5 * one
        products = [(0.5, False, forward), (0.5, True, weight)] if both else [(1.0, True, weight)]
    if kind == DEPTHWISE:
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
            o.steps * _layers(o),
            tiles,
            -(-depth // _TILE[2]),
            columns,
            depth,
            o.groups,
            multiprocessors,
            peak,
            peak_fp32,
            gpu.bandwidth_bytes_per_s,
            "avg" in o.name,
        )


def _layers(o: Operation) -> float:
    """Number of recurrent layers: each has a matrix for its input and one for its state."""
    flops_of_layer = 4.0 * o.rows * o.steps * o.columns * o.depth
    if o.steps == 1 or not flops_of_layer:
        return 1.0
    # The backward pass has twice the arithmetic.
    return max(round(o.flops / flops_of_layer / (1 + (o.phase == "backward"))), 1)


def _peaks(workload: Workload, gpu: Gpu) -> tuple[float, float]:
    """Peak FLOP/s in the workload's precision and in fp32."""
    peak = peak_flops_per_s(gpu, workload.precision)
    if not gpu.bandwidth_bytes_per_s > 0:
        raise EstimateError(f"no memory bandwidth known for {gpu.name}: pass a Gpu(...) with it")
    capability = gpu.compute_capability
    is_roomy = capability is not None and _ROOMY_SINCE <= capability < _CROWDED_SINCE
    sustained = _UNCROWDED if is_roomy else 1.0
    peak_fp32 = sustained * gpu.peak_flops_per_s.get("fp32", peak)
    is_fp32 = check_precision(gpu, workload.precision) == "fp32"
    return (peak_fp32 if is_fp32 else peak), peak_fp32


def _clocks_per_s(gpu: Gpu) -> float:
    """Clocks per second of all multiprocessors: a lane multiplies and adds once per clock."""
    lanes = _LANES.get(gpu.compute_capability or (0, 0), 128)
    return gpu.peak_flops_per_s.get("fp32", np.nan) / (2 * lanes)


def _watts_of_reference(gpu: Gpu) -> float:
    """Board power per fp32 rate, as a share of the highest of all boards with the same chip."""
    most_W = _MOST_WATTS.get(gpu.compute_capability or (0, 0), np.nan)
    share = gpu.tdp_W / (gpu.peak_flops_per_s.get("fp32", np.nan) / 1e12) / most_W
    return min(share, 1.0) if share > 0 else 1.0


def _format(workload: Workload, gpu: Gpu) -> int:
    used = check_precision(gpu, workload.precision)
    return FORMATS.index("half" if used in ("bf16", "fp16") else used)


def _facts(workload: Workload, gpu: Gpu) -> tuple[float, ...]:
    views = workload.forward_calls + workload.backward_calls - workload.kernels
    # The optimizer runs once per `accumulate` batches; otherwise, gradients are accumulated: two
    # are read, and one is written.
    once = 1 / workload.accumulate
    added = 3 * workload.gradient_bytes * (1 - once)
    copies = _copies_of_gradients(workload) * once
    added += 2 * workload.gradient_bytes * copies
    return (
        max(views, 0),
        workload.module_calls,
        workload.parameter_tensors * once,
        workload.parameter_tensors * workload.optimizer_states * once,
        workload.loop == "lightning",
        (workload.precision == "fp16") * once,  # loss scaler
        copies * workload.parameter_tensors + _copied_buffers(workload) * once,
        workload.input_bytes,
        (workload.optimizer_bytes * once + added) / gpu.bandwidth_bytes_per_s,
        _all_reduce_bytes(workload) * once / link_bytes_per_s(gpu),
    )


def _copies_of_gradients(workload: Workload) -> int:
    """How often each gradient is copied: into a bucket to be sent, and back.

    That is what torch's `DistributedDataParallel` does by default (`gradient_as_bucket_view`).
    """
    return 2 if workload.devices > 1 else 0


def _copied_buffers(workload: Workload) -> float:
    """The buffers that each GPU copies from the first one after gradients were exchanged.

    `DistributedDataParallel` does so by default (`broadcast_buffers`), in the next forward pass. A
    batch normalisation has three: mean, variance and the number of batches.
    """
    norms = [o for o in workload.operations if "batch_norm" in o.name and o.phase == "forward"]
    return 3.0 * sum(o.count for o in norms) if workload.devices > 1 else 0.0


def _all_reduce_bytes(workload: Workload) -> float:
    """Bytes that each GPU sends in a ring all-reduce of the gradients.

    Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations",
    Journal of Parallel and Distributed Computing 69(2), 2009.
    """
    n = workload.devices
    return 2 * (n - 1) / n * workload.gradient_bytes
