"""Training steps as arrays: all operations of many workloads on GPUs, built once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from energyest.estimators.pre.physics.kinds import (
    BATCH_NORM,
    CONV,
    DEPTHWISE,
    LAYER_NORM,
    MATMUL,
)
from energyest.estimators.pre.physics.operation_rows import (
    Row,
    format_number,
    lanes_of,
    rows_of,
)
from energyest.estimators.pre.physics.parameters import FORMATS
from energyest.gpus import Gpu, check_precision, link_bytes_per_s
from energyest.records.workload import Workload

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

# Work of the CPU, in the order of `OperationTable.calls`.
CALLED = (
    *("conv", "norm", "matmul", "other", "group", "time_step"),
    *("view", "module", "tensor", "state", "lightning", "scaler"),
)
# Board power in W per TFLOP/s of fp32, by compute capability, of a board that holds its clock while
# its tensor units work: V100 SXM2, RTX 2080 Ti, A100 SXM4, RTX 3090, RTX 4090, H100 SXM5, B200, RTX
# 5090. Boards with the same chips but less power lower their clocks.
_MOST_WATTS = {
    **{(7, 0): 19.1, (7, 5): 18.7, (8, 0): 20.5, (8, 6): 9.8, (8, 9): 5.4},
    **{(9, 0): 10.4, (10, 0): 13.3, (12, 0): 5.5},
}

# Bytes per clock that a multiprocessor's shared memory delivers, which feeds the tensor units, on
# Volta and from Ampere on, and on Turing (NVIDIA GA102 whitepaper, section on shared memory).
_USUAL_BYTES = 128
_SHARED_BYTES = {(7, 5): 64}
_AMPERE = (8, 0)

# What the arithmetic of an operation depends on: attributes of `OperationTable`.
_OF_PRODUCTS = (
    *("kind", "flops", "peak", "peak_fp32", "format_of_operation", "width", "watts"),
    *("is_channels_last", "is_backward", "is_weight_gradient", "is_older"),
    *("tiles", "slices", "columns", "depth"),
    *("visits", "is_native", "is_three_by_three", "is_unaligned", "is_first"),
    *("is_odd", "is_grouped_product", "has_equal_groups", "is_strided", "is_pointwise"),
)


class OperationTable:
    """Workloads on GPUs as arrays, built once, so that times for new parameters are fast.

    Args:
        pairs: workloads, each with a GPU.

    Raises:
        EstimateError: a workload has no operations; a GPU lacks its precision; or the GPU's peak or
            bandwidth is unknown.
    """

    # Columns of `Row`, with a value for each row.
    flops: Array
    bytes: Array
    bias_bytes: Array
    peak: Array
    peak_fp32: Array
    bandwidth: Array
    multiprocessors: Array
    tiles: Array
    slices: Array
    columns: Array
    depth: Array
    groups: Array
    steps: Array
    visits: Array
    kernels: Array
    is_backward: Flags
    is_weight_gradient: Flags
    is_channels_last: Flags
    is_sorting: Flags
    is_native: Flags
    is_three_by_three: Flags
    is_pointwise: Flags
    is_strided: Flags
    is_first: Flags
    is_unaligned: Flags
    is_odd: Flags
    is_grouped_product: Flags
    has_equal_groups: Flags

    def __init__(self, pairs: Sequence[tuple[Workload, Gpu]]) -> None:
        self.size = len(pairs)
        rows = [list(rows_of(workload, gpu)) for workload, gpu in pairs]
        self._of = np.repeat(np.arange(self.size), [len(each) for each in rows])
        table = np.array([row for each in rows for row in each], float)
        columns = dict(zip(Row._fields, table.reshape(-1, len(Row._fields)).T, strict=True))
        counts = [len(workload.operations) for workload, _ in pairs]
        self._operation = np.cumsum([0, *counts])[self._of] + columns["place"].astype(int)
        self._operations, self._count = sum(counts), columns["repeats"]
        self._parts = columns["parts"]
        for name, kind in OperationTable.__annotations__.items():
            setattr(self, name, columns[name] > 0 if kind == "Flags" else columns[name])
        self.kind = columns["kind"].astype(int)
        self.waits_for_gpu = self.sums(columns["waits_for_gpu"]) > 0
        self.is_conv = (self.kind >= CONV) & (self.kind <= DEPTHWISE)
        self.is_norm = (self.kind == BATCH_NORM) | (self.kind == LAYER_NORM)
        # What a compiler fuses.
        self.is_fusible = self.kind >= BATCH_NORM
        clocks = np.array([_clocks_per_s(gpu) for _, gpu in pairs])[self._of]
        # FLOPs per clock of a multiprocessor's tensor units (or else its lanes), and bytes per
        # clock of its share of the memory bandwidth.
        self.clocks_per_s = clocks
        self.format_of_operation = columns["format"].astype(int)
        has_units = self.format_of_operation != FORMATS.index("fp32")
        as_fed = np.array([_width_as_fed(gpu) for _, gpu in pairs])[self._of]
        self.width = self.peak / clocks * np.where(has_units, as_fed, 1.0)
        self.is_older = np.array([_is_older(gpu) for _, gpu in pairs], bool)[self._of]
        self.bytes_per_clock = self.bandwidth / clocks
        self.watts = np.array([_watts_of_reference(gpu) for _, gpu in pairs])[self._of]
        self.is_bf16 = np.array([w.precision == "bf16" for w, _ in pairs], bool)[self._of]
        self.is_compiled = np.array([w.compiled for w, _ in pairs], bool)
        self.is_one_of_several = np.array([w.devices > 1 for w, _ in pairs], bool)
        self.is_compiled_operation = self.is_compiled[self._of]
        computed = [check_precision(gpu, workload.precision) for workload, gpu in pairs]
        self.format = np.array([format_number(precision) for precision in computed], int)
        # The rows with arithmetic alone, because most have none.
        self.has_flops = self.flops > 0
        self.products = SimpleNamespace(
            **{name: getattr(self, name)[self.has_flops] for name in _OF_PRODUCTS}
        )
        caches = np.array([gpu.l2_bytes for _, gpu in pairs])
        self.cache_bytes = np.where(np.isnan(caches), 4e6, caches)[self._of]
        facts = np.array([_facts(workload, gpu) for workload, gpu in pairs], float)
        facts = facts.reshape(-1, 11).T
        self.calls = np.array([*self._operations_called(), *facts[:6]])
        self.calls[CALLED.index("other")] += facts[6]
        # The last three at the peak rates: traffic of the optimizer, gradients that are added or
        # copied, and gradients that are sent.
        self.input_bytes, self.optimizer_s, self.gradients_s, self.all_reduce_s = facts[7:11]

    def _operations_called(self) -> list[Array]:
        """Numbers of operations that the CPU launches, in the order of `CALLED`."""
        # Both gradients of a convolution are one call.
        once = np.where(self.is_conv & self.is_backward & ~self.is_weight_gradient, 0.0, 1.0)
        kinds = (self.is_conv, self.is_norm, self.kind == MATMUL)
        counts = [self.sums(once * kind) for kind in kinds]
        counts.append(self.sums(once) - sum(counts))
        further = [self.sums(self.kernels * is_it) for is_it in (self.is_conv, ~self.is_conv)]
        return [*counts, *further]

    @cached_property
    def is_padded(self) -> Flags:
        """Convolutions on tensor units whose channels are padded; the first has its own share."""
        is_tensor = self.format_of_operation != FORMATS.index("fp32")
        is_later = (self.kind == CONV) & ~self.is_first
        padded: Flags = is_later & is_tensor & self.is_unaligned
        return padded

    def of_operations(self, values: Array) -> Array:
        """Values of rows, summed for one occurrence of each operation, in their order."""
        added = np.bincount(self._operation, values * self._parts, minlength=self._operations)
        return added.astype(float)

    def sums(self, values: Array) -> Array:
        """Values of single operations, summed for each workload."""
        added = np.bincount(self._of, values * self._count, minlength=self.size)
        return added.astype(float)

    def shares_of_peak(
        self, step_s: Array, weights: Sequence[float] = (1.0,) * len(FORMATS)
    ) -> tuple[Array, Array, Array]:
        """Shares of the peaks in a step of that duration: (convolutions, other FLOPs, bytes).

        Args:
            step_s: duration of the steps.
            weights: what arithmetic at the peak counts in each of the `FORMATS`.
        """
        ideal_s = self.flops / self.peak * np.array(weights)[self.format_of_operation]
        conv_s = self.sums(np.where(self.is_conv, ideal_s, 0.0))
        other_s = self.sums(np.where(self.is_conv, 0.0, ideal_s))
        bytes_s = self.sums(self.bytes / self.bandwidth) + self.optimizer_s + self.gradients_s
        return conv_s / step_s, other_s / step_s, bytes_s / step_s


def _clocks_per_s(gpu: Gpu) -> float:
    """Clocks per second of all multiprocessors: a lane multiplies and adds once per clock."""
    return gpu.peak_flops_per_s.get("fp32", np.nan) / (2 * lanes_of(gpu))


def _width_as_fed(gpu: Gpu) -> float:
    """Width of tensor units, relative to units of the same rate that shared memory feeds as usual.

    Units that are fed at half the rate are as hard to keep busy as units of twice the width.
    """
    return _USUAL_BYTES / _SHARED_BYTES.get(gpu.compute_capability or (0, 0), _USUAL_BYTES)


def _is_older(gpu: Gpu) -> bool:
    """Whether a GPU is older than Ampere, for which most kernels were written anew."""
    return gpu.compute_capability is not None and gpu.compute_capability < _AMPERE


def _watts_of_reference(gpu: Gpu) -> float:
    """Board power per fp32 rate, as a share of the highest of all boards with the same chip."""
    most_W = _MOST_WATTS.get(gpu.compute_capability or (0, 0), np.nan)
    share = gpu.tdp_W / (gpu.peak_flops_per_s.get("fp32", np.nan) / 1e12) / most_W
    return min(share, 1.0) if share > 0 else 1.0


def _facts(workload: Workload, gpu: Gpu) -> tuple[float, ...]:
    views = workload.forward_calls + workload.backward_calls - workload.kernels
    # The optimizer runs once per `accumulate` batches. In the others, gradients are added to those
    # before: two are read and one is written, by a call for each tensor.
    once = 1 / workload.accumulate
    copies = _copies_of_gradients(workload) * once
    moved = (3 * (1 - once) + 2 * copies) * workload.gradient_bytes
    calls = (1 - once + copies) * workload.parameter_tensors
    return (
        max(views, 0),
        workload.module_calls,
        workload.parameter_tensors * once,
        workload.parameter_tensors * workload.optimizer_states * once,
        workload.loop == "lightning",
        (workload.precision == "fp16") * once,  # loss scaler
        calls + _copied_buffers(workload) * once,
        workload.input_bytes,
        workload.optimizer_bytes * once / gpu.bandwidth_bytes_per_s,
        moved / gpu.bandwidth_bytes_per_s,
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
