"""The GPU's time for arithmetic: which shares of the peaks products and convolutions reach.

The shares depend on the kind of operation, its precision and layout, and on how well its sizes
suit the GPU's units.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from energyest.estimators.pre.physics.kinds import (
    ATTENTION,
    CONV,
    DEPTHWISE,
    GROUPED,
    KINDS,
    MATMUL,
    RECURRENT,
)
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.physics.parameters import FORMATS, Parameters

# FLOPs per clock of a Hopper multiprocessor in each of `FORMATS`, to which the parameters refer.
_WIDTHS = (256.0, 2048.0, 4096.0)
_FP32, _TF32, _HALF = range(len(FORMATS))
#: Upper bound of a sustained share of a peak.
MOST_SHARE = 0.92
# The same for convolutions in fp32: of the multiplications of a 3 x 3 one, 1 in 2.25 is left
# (Lavin, Gray, "Fast algorithms for convolutional neural networks", arXiv 1509.09308).
_MOST_WINOGRAD = 2.25 * MOST_SHARE


def products_s(rows: SimpleNamespace, p: Parameters) -> Array:
    """Seconds of arithmetic of operations with FLOPs.

    Args:
        rows: `OperationTable.products`.
        p: parameters as in `parameters.OPERATION`.
    """
    peaks = _shares_of_peaks(p)
    is_conv = (rows.kind == CONV) | (rows.kind == GROUPED)
    is_tensor = rows.format_of_operation != _FP32
    share = peaks[rows.kind, rows.format_of_operation] * _by_width(rows, p)
    share = np.where(rows.kind == DEPTHWISE, _of_depthwise(rows, p, share), share)
    for kind in (GROUPED, DEPTHWISE, ATTENTION):
        is_it = (rows.kind == kind) & rows.is_backward & ~rows.is_native
        share = share * np.where(is_it, p[f"gradient_{KINDS[kind]}"], 1.0)
    share = share * np.where(is_conv & is_tensor, _of_tensor_convolutions(rows, p), 1.0)
    share = share * np.where(rows.kind == MATMUL, _of_products(rows, p), 1.0)
    # Winograd's algorithm does less arithmetic than is counted.
    is_winograd = is_conv & ~is_tensor & rows.is_three_by_three
    share = share * np.where(rows.is_older, _of_older_gpus(rows, p, is_winograd), 1.0)
    share = share * np.where(is_conv & ~is_tensor & ~is_winograd, p["plain_conv"], 1.0)
    share = at_most(share, np.where(is_winograd, _MOST_WINOGRAD, MOST_SHARE))
    # No format is slower than fp32, because libraries choose. If the peak of a format is hardly
    # higher, as that of tf32 on GeForce GPUs, its share differs from Hopper's.
    plain = rows.peak_fp32 * peaks[rows.kind, _FP32]
    may_choose = is_tensor & (rows.kind != DEPTHWISE)
    rate = np.where(may_choose, np.maximum(rows.peak * share, plain), rows.peak * share)
    clock = rows.watts ** p["clock"]
    seconds: Array = rows.visits * rows.flops / (rate * _filled(rows, p) * clock)
    return seconds


def at_most(values: Array, most: Array | float) -> Array:
    """Values that approach a bound gradually."""
    squares = (values / most) ** 2
    bounded: Array = values / np.sqrt(np.sqrt(1 + squares * squares))
    return bounded


def _shares_of_peaks(p: Parameters) -> Array:
    """Shares that large operations reach, of shape (kinds, formats)."""
    shares = np.ones((len(KINDS), len(FORMATS)))
    for kind in (MATMUL, CONV, GROUPED, ATTENTION):
        shares[kind] = [p[f"peak_{KINDS[kind]}_{name}"] for name in FORMATS]
    shares[RECURRENT], shares[DEPTHWISE] = p["peak_recurrent"], p["peak_depthwise"]
    return shares


def _by_width(rows: SimpleNamespace, p: Parameters) -> Array:
    """The wider the tensor units of a multiprocessor, the harder it is to keep them busy."""
    is_tensor = rows.format_of_operation != _FP32
    of_conv = np.array([p[f"narrow_conv_{name}"] for name in FORMATS])[rows.format_of_operation]
    others = np.where(is_tensor, p["narrow_matmul"], 0.0)
    # Depthwise convolutions do not run on tensor units.
    kinds = [rows.kind == CONV, rows.kind == GROUPED, rows.kind == DEPTHWISE]
    narrower = np.array(_WIDTHS)[rows.format_of_operation] / rows.width
    factor: Array = narrower ** np.select(kinds, [of_conv, p["narrow_grouped"], 0.0], others)
    return factor


def _of_depthwise(rows: SimpleNamespace, p: Parameters, share: Array) -> Array:
    """Shares of depthwise convolutions, by cuDNN or by torch's own kernel."""
    last, is_half = rows.is_channels_last, rows.format_of_operation == _HALF
    by_cudnn = share * np.where(last, p["channels_last_depthwise"], 1.0)
    by_cudnn = by_cudnn * np.where(last & ~is_half, p["channels_last_depthwise_fp32"], 1.0)
    gradient = np.where(rows.is_backward, p["gradient_native_depthwise"], 1.0)
    found: Array = np.where(rows.is_native, p["peak_native_depthwise"] * gradient, by_cudnn)
    return found


def _of_tensor_convolutions(rows: SimpleNamespace, p: Parameters) -> Array:
    """Factors of the shares of convolutions, plain or grouped, on tensor units."""
    is_one = rows.kind == CONV
    faster = np.where(is_one, p["channels_last_conv"], p["channels_last_grouped"])
    factor = np.where(rows.is_channels_last, faster, 1.0)
    is_tf32 = is_one & (rows.format_of_operation == _TF32)
    factor = factor * np.where(is_tf32 & rows.is_channels_last, p["channels_last_tf32"], 1.0)
    factor = factor * np.where(rows.is_unaligned, p["unaligned_conv"], 1.0)
    factor = factor * np.where(rows.is_first, p["first_conv"], 1.0)
    factor = factor * np.where(~is_one & ~rows.has_equal_groups, p["other_groups"], 1.0)
    is_pointwise = is_one & rows.is_pointwise
    factor = factor * np.where(is_pointwise, p["pointwise_conv"], 1.0)
    factor = factor * np.where(is_pointwise & rows.is_first, p["patches"], 1.0)
    is_strided = is_one & rows.is_strided & rows.is_backward
    found: Array = factor * np.where(is_strided, p["gradient_strided"], 1.0)
    return found


def _of_products(rows: SimpleNamespace, p: Parameters) -> Array:
    """Factors of the shares of products of matrices."""
    is_tensor = rows.format_of_operation != _FP32
    unaligned = is_tensor & rows.is_unaligned
    factor = np.where(unaligned, p["unaligned_matmul"], 1.0)
    is_odd = unaligned & (rows.format_of_operation == _HALF) & rows.is_odd
    factor = factor * np.where(is_odd, p["odd_matmul"], 1.0)
    found: Array = factor * np.where(rows.is_grouped_product, p["grouped_matmul"], 1.0)
    return found


def _of_older_gpus(rows: SimpleNamespace, p: Parameters, is_winograd: Array) -> Array:
    """Factors of the shares on GPUs before Ampere."""
    is_tensor = rows.format_of_operation != _FP32
    is_conv = (rows.kind == CONV) | (rows.kind == GROUPED)
    is_product = is_conv | (rows.kind == MATMUL) | (rows.kind == ATTENTION)
    cases = [is_tensor & is_product, is_winograd, ~is_tensor & (rows.kind == MATMUL)]
    factors = [p["older_tensor"], p["older_winograd"], p["older_matmul"]]
    found: Array = np.select(cases, factors, 1.0)
    return found


def _filled(rows: SimpleNamespace, p: Parameters) -> Array:
    """How well the sizes of a product fill the GPU.

    Few tiles leave multiprocessors idle, and thin ones leave lanes idle.
    """
    is_gradient = rows.is_weight_gradient & (rows.kind == CONV)
    share = np.where(is_gradient, p["weight_gradient"], 1.0)
    tiles = rows.tiles * rows.slices ** p["split"]
    filled = at_most(tiles ** np.where(rows.kind == MATMUL, p["fill_matmul"], p["fill_conv"]), 1.0)
    thin = np.where(rows.kind == GROUPED, p["thin_columns_grouped"], p["thin_columns"])
    thick = rows.columns / (rows.columns + thin) * rows.depth / (rows.depth + p["thin_depth"])
    is_product = (rows.kind == MATMUL) | (rows.kind == CONV) | (rows.kind == GROUPED)
    found: Array = share * np.where(is_product, filled * thick, 1.0)
    return found
