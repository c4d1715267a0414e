"""The precisions in which a GPU can train, and their peaks."""

from __future__ import annotations

import math

from energyest.errors import EstimateError
from energyest.gpus.gpu import Gpu

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

# The oldest compute capability with instructions for a precision: CUDA C++ Programming Guide,
# appendix on compute capabilities (half precision from 5.3 on, bfloat16 and TF32 from 8.0 on).
_SINCE = {"tf32": (8, 0), "bf16": (8, 0), "fp16": (5, 3)}


def supports(gpu: Gpu, precision: str) -> bool:
    """Whether the GPU has instructions for "fp32", "tf32", "bf16" or "fp16".

    If the compute capability is unknown, the precisions in `peak_flops_per_s` are supported.

    Raises:
        EstimateError: there is no such precision.

    Examples:
        >>> from energyest.gpus import find_gpu, supports
        >>> supports(find_gpu('H100'), 'bf16'), supports(find_gpu('V100'), 'bf16')
        (True, False)
    """
    if precision not in PRECISIONS:
        raise EstimateError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return True
    if gpu.compute_capability is None:
        return precision in gpu.peak_flops_per_s
    return gpu.compute_capability >= _SINCE[precision]


def check_precision(gpu: Gpu, precision: str) -> str:
    """The precision in which the GPU computes if `precision` is requested.

    It is the requested one, except that a GPU without tf32 computes in fp32, because torch ignores
    the setting there.

    Raises:
        EstimateError: the GPU lacks bf16 or fp16, or there is no such precision.

    Examples:
        >>> from energyest.gpus import check_precision, find_gpu
        >>> check_precision(find_gpu('H100'), 'bf16')
        'bf16'
    """
    if supports(gpu, precision):
        return precision
    if precision == "tf32":
        return "fp32"
    has = ", ".join(name for name in PRECISIONS if supports(gpu, name))
    raise EstimateError(f"{gpu.name} lacks {precision}; it has {has}")


def peak_flops_per_s(gpu: Gpu, precision: str) -> float:
    """Dense peak in FLOP/s of a training in `precision`, after `check_precision`.

    A GPU whose own fp16 arithmetic is slower than fp32 (Pascal except the P100: 1/64 of it) trains
    at the fp32 rate. Libraries then store in fp16 and compute in fp32 (cuDNN's
    `PSEUDO_HALF_CONFIG`, and cuBLAS with a 32-bit compute type, which torch requests).

    Raises:
        EstimateError: as for `check_precision`, or the peak is unknown.

    Examples:
        >>> from energyest.gpus import find_gpu, peak_flops_per_s
        >>> f"{peak_flops_per_s(find_gpu('A100'), 'bf16'):.0f}"
        '312000000000000'
    """
    used = check_precision(gpu, precision)
    peak = gpu.peak_flops_per_s.get(used, math.nan)
    if math.isnan(peak):
        raise EstimateError(
            f"no {used} peak known for {gpu.name}: pass a Gpu(...) with it in peak_flops_per_s"
        )
    if used == "fp16":
        return max(peak, gpu.peak_flops_per_s.get("fp32", peak))
    return peak
