"""Operations as a GPU runs them, each with what its time depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.alignment import alignment, tokens_of
from energyest.estimators.pre.physics.convolutions import (
    bytes_of_bias,
    first_ones,
    has_both_gradients,
    has_equal_groups,
    has_three_by_three,
    inputs_per_output,
    is_channels_last,
    is_like_channels_last,
    is_native,
    is_pointwise,
    is_strided,
    kernels_of_groups,
    sizes,
)
from energyest.estimators.pre.physics.grouped_products import (
    groups_one_by_one,
    is_grouped,
    one_group,
)
from energyest.estimators.pre.physics.kinds import (
    CONV,
    DEPTHWISE,
    GROUPED,
    MATMUL,
    RECURRENT,
    kind_of,
    passes_of,
    sorts_indices,
)
from energyest.estimators.pre.physics.norms import with_channels
from energyest.estimators.pre.physics.parameters import FORMATS
from energyest.estimators.pre.physics.recurrent import kernels_of_steps, layers
from energyest.gpus import Gpu, check_precision, peak_flops_per_s
from energyest.records.workload import Operation, Workload

# Rows, columns and depth of the tile of a product that one multiprocessor computes at a time.
_TILE = (128, 64, 512)
# fp32 lanes per multiprocessor, by compute capability: CUDA C++ Programming Guide, "Arithmetic
# Instructions". All others have 128.
_LANES = {
    **{(3, 0): 192, (3, 2): 192, (3, 5): 192, (3, 7): 192},
    **{(6, 0): 64, (7, 0): 64, (7, 5): 64, (8, 0): 64},
}
# The median boost clock of the boards from Turing on in `energyest/data/gpus.csv`.
_USUAL_CLOCK_Hz = 1.77e9
# From compute capability 8.6 on, a multiprocessor has as many fp32 lanes as it can issue
# instructions per clock, so each load or index addition displaces an fp32 operation. The share of
# the peak that large products sustain is about 0.78 there (cuBLAS on GA102, AD102 and GH100) and
# 0.92 to 0.97 before, including GA100 (public measurements of SGEMM). The parameters apply to the
# former. Kepler cannot issue instructions for all of its 192 lanes (Maxwell whitepaper).
_ROOMY_SINCE, _CROWDED_SINCE, _UNCROWDED = (5, 0), (8, 6), 1.2


class Row(NamedTuple):
    """An operation on a GPU, or one of the two gradients of a convolution.

    Attributes:
        place: position of the operation in its workload.
        kind: index into `KINDS`.
        repeats: how often it runs in a step.
        parts: how often it runs in one occurrence of the operation: once, or once for each group.
        flops: its FLOPs.
        bytes: its memory traffic.
        bias_bytes: the traffic of the kernel that adds its bias or computes the gradient of it.
        is_backward: whether it belongs to the backward pass.
        is_weight_gradient: whether it is the gradient of a convolution's weights.
        steps: time steps of all layers, for recurrent layers.
        tiles: tiles of a product per multiprocessor.
        slices: parts of the depth that can be summed at the same time.
        columns: columns of a product.
        depth: depth of a product.
        groups: groups of a convolution, channels or rows of a normalisation.
        multiprocessors: number of multiprocessors of the GPU.
        format: the format in which it multiplies, as an index into `FORMATS`.
        peak: peak FLOP/s in that format.
        peak_fp32: peak FLOP/s in fp32.
        bandwidth: peak bytes per second.
        is_channels_last: whether it runs in NHWC, or as fast.
        is_sorting: whether it sorts indices first.
        visits: how often torch's own depthwise kernel visits a number, relative to its FLOPs.
        kernels: kernels of single groups or time steps, one after another.
        is_native: whether torch's own depthwise kernel runs it.
        is_three_by_three: whether a convolution has nine taps.
        is_pointwise: whether a convolution is a product of matrices.
        is_strided: whether a convolution moves by two positions at a time.
        is_first: whether a convolution reads the batch.
        is_unaligned: whether sizes do not fill groups of numbers.
        is_odd: whether a size is odd.
        is_grouped_product: whether it is several products in one kernel.
        waits_for_gpu: whether the CPU waits for the GPU before it.
        has_equal_groups: whether a grouped convolution has a kernel for all groups.
    """

    place: float
    kind: float
    repeats: float
    parts: float
    flops: float
    bytes: float
    bias_bytes: float
    is_backward: bool
    is_weight_gradient: bool
    steps: float
    tiles: float
    slices: float
    columns: float
    depth: float
    groups: float
    multiprocessors: float
    format: float
    peak: float
    peak_fp32: float
    bandwidth: float
    is_channels_last: bool
    is_sorting: bool
    visits: float
    kernels: float
    is_native: bool
    is_three_by_three: bool
    is_pointwise: bool
    is_strided: bool
    is_first: bool
    is_unaligned: bool
    is_odd: bool
    is_grouped_product: bool
    waits_for_gpu: bool
    has_equal_groups: bool


def rows_of(workload: Workload, gpu: Gpu) -> Iterator[Row]:
    """The operations of a workload on a GPU.

    Raises:
        EstimateError: the workload has no operations; the GPU lacks its precision; or the GPU's
            peak or bandwidth is unknown.
    """
    if not workload.operations:
        raise EstimateError(f"the workload of {workload.model} has no operations")
    formats = _in_formats(workload, gpu)
    first, tokens = first_ones(workload.operations), tokens_of(workload.operations)
    number = _multiprocessors(gpu)
    for place, operation in enumerate(with_channels(formats[""].workload)):
        step, format_, peaks = formats[operation.precision]
        groups = groups_one_by_one(operation, step, gpu)
        o = operation if groups == 1 else one_group(operation)
        kind = kind_of(o)
        is_conv = CONV <= kind <= DEPTHWISE
        native = is_native(o, step)
        unaligned, odd = alignment(o, tokens if kind == MATMUL else set(), step)
        peak = peaks[1] if kind == DEPTHWISE else peaks[0]
        last = (is_like_channels_last if is_conv else is_channels_last)(o, step)
        kernels = kernels_of_groups(o, step) if is_conv else 0
        if kind == RECURRENT:
            kernels = kernels_of_steps(o, step, gpu, number)
        products = _products(o, is_conv=is_conv)
        # The gradient of a bias belongs to that of the weights.
        by_weight, bias_bytes = products[-1][1], bytes_of_bias(o, step)
        for part, is_weight_gradient, (rows, columns, depth) in products:
            tiles = -(-rows // _TILE[0]) * -(-columns // _TILE[1]) * o.groups / number
            # The gradient of the input visits each input, whatever the stride.
            visits_inputs = native and o.phase == "backward" and not is_weight_gradient
            yield Row(
                place=place,
                kind=kind,
                repeats=o.count * groups,
                parts=groups,
                flops=part * o.flops,
                bytes=part * passes_of(o) * o.bytes,
                bias_bytes=0.0 if is_weight_gradient != by_weight else bias_bytes,
                is_backward=o.phase == "backward",
                is_weight_gradient=is_weight_gradient,
                steps=o.steps * layers(o),
                tiles=tiles,
                slices=-(-depth // _TILE[2]),
                columns=columns,
                depth=depth,
                groups=o.groups,
                multiprocessors=number,
                format=format_,
                peak=peak,
                peak_fp32=peaks[1],
                bandwidth=gpu.bandwidth_bytes_per_s,
                is_channels_last=last,
                is_sorting=sorts_indices(o),
                visits=inputs_per_output(o, step) if visits_inputs else 1.0,
                kernels=kernels / len(products),
                is_native=native,
                is_three_by_three=is_conv and has_three_by_three(o, step),
                is_pointwise=is_conv and is_pointwise(o, step),
                is_strided=is_conv and is_strided(o, step),
                is_first=is_conv and sizes(o) in first,
                is_unaligned=unaligned,
                is_odd=odd,
                is_grouped_product=is_grouped(o) and groups == 1,
                waits_for_gpu=groups > 1,
                has_equal_groups=kind == GROUPED and has_equal_groups(o, step),
            )


class _InFormat(NamedTuple):
    """A workload whose operations all multiply in one format; the format; peaks as `_peaks`."""

    workload: Workload
    format: int
    peaks: tuple[float, float]


def _in_formats(workload: Workload, gpu: Gpu) -> dict[str, _InFormat]:
    """The workload in its own precision, by an empty name, and in those of its operations.

    A format that the GPU lacks, or whose peak is unknown, counts as fp32.

    Raises:
        EstimateError: as for `rows_of`.
    """
    found = {"": _in_format(workload, gpu, workload.precision)}
    for name in {o.precision for o in workload.operations if o.precision}:
        try:
            found[name] = _in_format(workload, gpu, name)
        except EstimateError:
            found[name] = _in_format(workload, gpu, "fp32")
    return found


def _in_format(workload: Workload, gpu: Gpu, precision: str) -> _InFormat:
    """The workload in a precision, as the GPU computes it: tf32 is fp32 before Ampere."""
    used = check_precision(gpu, precision)
    if used != workload.precision:
        workload = replace(workload, precision=used)
    return _InFormat(workload, format_number(used), _peaks(workload, gpu))


def format_number(precision: str) -> int:
    """The place of a precision in `FORMATS`."""
    return FORMATS.index("half" if precision in ("bf16", "fp16") else precision)


def lanes_of(gpu: Gpu) -> int:
    """fp32 lanes of a multiprocessor."""
    return _LANES.get(gpu.compute_capability or (0, 0), 128)


def _multiprocessors(gpu: Gpu) -> float:
    """Number of multiprocessors; if the cores are unknown, by the fp32 rate at a usual clock."""
    if gpu.cuda_cores > 0:
        return gpu.cuda_cores / lanes_of(gpu)
    a_clock = gpu.peak_flops_per_s.get("fp32", math.nan) / (2 * lanes_of(gpu))
    return max(a_clock / _USUAL_CLOCK_Hz, 1.0)


def _products(o: Operation, *, is_conv: bool) -> list[tuple[float, bool, tuple[int, int, int]]]:
    """The products of an operation: the backward pass of a convolution is two of them."""
    forward = (max(o.rows, 1), max(o.columns, 1), max(o.depth, 1))
    if not is_conv or o.phase != "backward":
        return [(1.0, False, forward)]
    rows, columns, depth = forward
    # The tiles of a grouped one are as narrow as its groups.
    weight = (depth, columns, rows) if o.groups > 1 else (columns, depth, rows)
    # If no gradient of the input is needed, as in the first layer, there is only one.
    both = has_both_gradients(o)
    return [(0.5, False, forward), (0.5, True, weight)] if both else [(1.0, True, weight)]


def _peaks(workload: Workload, gpu: Gpu) -> tuple[float, float]:
    """Peak FLOP/s in the workload's precision, which the GPU has, and in fp32."""
    peak = peak_flops_per_s(gpu, workload.precision)
    if not gpu.bandwidth_bytes_per_s > 0:
        raise EstimateError(f"no memory bandwidth known for {gpu.name}: pass a Gpu(...) with it")
    capability = gpu.compute_capability
    is_roomy = capability is not None and _ROOMY_SINCE <= capability < _CROWDED_SINCE
    sustained = _UNCROWDED if is_roomy else 1.0
    peak_fp32 = sustained * gpu.peak_flops_per_s.get("fp32", peak)
    return (peak_fp32 if workload.precision == "fp32" else peak), peak_fp32
