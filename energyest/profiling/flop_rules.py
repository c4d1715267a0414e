"""FLOPs of an operation: by fvcore's handlers, or by torch's rules where those are missing.

fvcore's handlers take values of a traced graph. Here they get a small stand-in that knows the shape
of a real tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from fvcore.nn.jit_handles import (
    addmm_flop_jit,
    batchnorm_flop_jit,
    bmm_flop_jit,
    conv_flop_jit,
    elementwise_flop_counter,
    matmul_flop_jit,
    norm_flop_counter,
)
from torch import Tensor
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten
# Products with a vector, which torch's counter omits, and the position of the matrix argument.
_VECTOR_PRODUCTS = {_ATEN.mv: 0, _ATEN.addmv: 1, _ATEN.dot: 0, _ATEN.vdot: 0}
# Arithmetic for which neither fvcore nor torch nor this module has a rule.
_WITHOUT_RULE = ("_fft_", "fft_", "linalg_", "_linalg_", "_cdist_", "_trilinear", "cholesky", "lu_")
# As little arithmetic as sums and activations have, or none.
_ON_SINGLE_NUMBERS = {"linalg_vector_norm", "linalg_cross", "_linalg_check_errors"}
# Namespaces of torch's own operations.
_OF_TORCH = {"aten", "prim", "prims"}
# Fused attention, by torch's names for it on CPU and GPU.
_FUSED_ATTENTION = {
    f"_scaled_dot_product_{kind}{direction}": f"attention{direction}"
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "fused_attention")
    for direction in ("", "_backward")
} | {
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "attention_backward",
}
# Side-by-side products of unequal sizes, as for mixtures of experts.
_GROUPED_PRODUCTS = {
    getattr(_ATEN, name) for name in ("_grouped_mm", "_scaled_grouped_mm") if hasattr(_ATEN, name)
}
_RECURRENT = {"_cudnn_rnn", "mkldnn_rnn_layer"}
_RECURRENT_LAYERS = {
    getattr(_ATEN, f"{kind}{direction}")
    for kind in _RECURRENT
    for direction in ("", "_backward")
    if hasattr(_ATEN, kind)
}
# Kinds of recurrent layers, in the order of torch's mode numbers.
_MODES = ("rnn_relu", "rnn_tanh", "lstm", "gru")


class _Seen:
    """An operation's input or output, in the form of a graph value that fvcore's handlers take."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def isCompleteTensor(self) -> bool:  # fvcore's names
        return isinstance(self._value, Tensor)

    def type(self) -> _Seen:
        return self

    def sizes(self) -> list[int]:
        return list(self._value.shape)

    def toIValue(self) -> Any:
        return self._value


def _of_convolution(args: Sequence[Any]) -> Sequence[Any]:
    """The arguments as in a traced graph, where cuDNN's settings come last."""
    return [*args[:9], False, False, False]


def _of_batch_norm(args: Sequence[Any]) -> Sequence[Any]:
    """The arguments as in inference, two FLOPs per element, as FLOPs are usually reported."""
    return [*args[:3], None, None, False]


# fvcore's handler, the arguments that it takes, and the FLOPs per counted unit: two per
# multiply-add; norms, pooling and interpolation are already in floating-point operations.
_Choose = Callable[[Sequence[Any]], Sequence[Any]]
_HANDLERS: dict[Any, tuple[Callable[..., Any], _Choose, int]] = {
    _ATEN.convolution: (conv_flop_jit, _of_convolution, 2),
    _ATEN.addmm: (addmm_flop_jit, list, 2),
    _ATEN.mm: (matmul_flop_jit, list, 2),
    _ATEN.bmm: (bmm_flop_jit, list, 2),
    _ATEN.native_layer_norm: (norm_flop_counter(2), list, 1),
    _ATEN.native_group_norm: (norm_flop_counter(1), list, 1),
    _ATEN.native_batch_norm: (batchnorm_flop_jit, _of_batch_norm, 1),
    _ATEN.cudnn_batch_norm: (batchnorm_flop_jit, _of_batch_norm, 1),
    _ATEN._native_batch_norm_legit: (batchnorm_flop_jit, _of_batch_norm, 1),
    _ATEN._batch_norm_with_update: (batchnorm_flop_jit, _of_batch_norm, 1),
    _ATEN._adaptive_avg_pool2d: (elementwise_flop_counter(1, 0), list, 1),
    _ATEN.upsample_nearest2d: (elementwise_flop_counter(0, 1), list, 1),
    _ATEN.upsample_bilinear2d: (elementwise_flop_counter(0, 4), list, 1),
    _ATEN.grid_sampler_2d: (elementwise_flop_counter(0, 4), list, 1),
}


# How many means and variances a normalisation computes, from its arguments.
_NORMS: dict[Any, Callable[[Sequence[Any]], int]] = {
    **dict.fromkeys(
        (
            _ATEN.native_batch_norm,
            _ATEN.cudnn_batch_norm,
            _ATEN._native_batch_norm_legit,
            _ATEN._batch_norm_with_update,
        ),
        lambda args: int(args[0].shape[1]),
    ),
    **dict.fromkeys(
        (
            _ATEN.native_batch_norm_backward,
            _ATEN.cudnn_batch_norm_backward,
            _ATEN.batch_norm_backward,
        ),
        lambda args: int(args[1].shape[1]),
    ),
    _ATEN.native_layer_norm: lambda args: args[0].numel() // max(math.prod(args[1]), 1),
    _ATEN.native_layer_norm_backward: lambda args: args[1].numel() // max(math.prod(args[2]), 1),
    _ATEN.native_group_norm: lambda args: int(args[3] * args[6]),
    _ATEN.native_group_norm_backward: lambda args: int(args[5] * args[8]),
}


def is_norm(func: Any) -> bool:
    """Whether an operation is a normalisation or its gradient."""
    return getattr(func, "overloadpacket", func) in _NORMS


def plain_name(func: Any, args: Sequence[Any]) -> str:
    """Like `base_name`, but recurrent layers are named after their kind."""
    name = base_name(func)
    kind = name.removesuffix("_backward")
    if kind in _RECURRENT:
        return name.replace(kind, _MODES[int(_argument("mode", func, args))])
    return name


def base_name(func: Any) -> str:
    """An operation's name without namespace; fused layers have the same name on all devices."""
    has_schema = hasattr(func, "_schema")
    name = str(func._schema.name).partition("::")[2] if has_schema else str(func.name())
    return _FUSED_ATTENTION.get(name, name).replace("cudnn_batch_norm", "native_batch_norm")


def has_rule(func: Any) -> bool:
    """Whether the FLOPs of an operation can be counted; other operations count as 0."""
    packet = getattr(func, "overloadpacket", func)
    rules = (_HANDLERS, _VECTOR_PRODUCTS, _RECURRENT_LAYERS, _GROUPED_PRODUCTS, flop_registry)
    return base_name(func).startswith("attention") or any(packet in known for known in rules)


def is_unknown(func: Any, name: str) -> bool:
    """Whether an operation may do arithmetic for which there is no rule."""
    if getattr(func, "namespace", "") not in _OF_TORCH:
        return True
    return name.startswith(_WITHOUT_RULE) and name not in _ON_SINGLE_NUMBERS


def flops_by_fvcore(func: Any, args: Any, kwargs: Any, out: Any, flops: float) -> float:
    """FLOPs as fvcore counts them, with two per multiply-add.

    Attention counts in full, even if causal: fvcore has no rule for it and would count its two
    products that way.

    Args:
        func: the dispatched operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: its result.
        flops: its `arithmetic`, used if fvcore has no rule.
    """
    handler = _HANDLERS.get(getattr(func, "overloadpacket", func))
    if handler is not None:
        count, choose, each = handler
        outputs = out if isinstance(out, list | tuple) else [out]
        counted = count([_Seen(a) for a in choose(args)], [_Seen(o) for o in outputs])
        return float(each * (sum(counted.values()) if isinstance(counted, dict) else counted))
    return 2 * flops if _is_causal(func, args, kwargs) else flops


def arithmetic(
    name: str, func: Any, args: Any, kwargs: Any, out: Any, product: Sequence[int]
) -> float:
    """FLOPs computed by a GPU's matrix units: none for norms, half for causal attention.

    Args:
        name: the operation's `plain_name`.
        func: the dispatched operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        out: its result.
        product: its `product_of`.
    """
    packet = getattr(func, "overloadpacket", func)
    if name.startswith("attention"):
        query, key = _of_attention(name, args)
        # Forward has two products, backward five, because it recomputes q kᵀ (Dao et al., arXiv
        # 2205.14135, algorithm 4).
        products = 5 if name.endswith("backward") else 2
        flops = 2.0 * products * query.numel() * key.shape[-2]
        return flops / 2 if _is_causal(func, args, kwargs) else flops
    if packet is _ATEN.convolution_backward:
        # The gradients of input and weight each take as many multiply-adds as the forward pass.
        rows, columns, depth, groups, _ = product
        return float(2.0 * rows * columns * depth * groups * sum(args[10][:2]))
    if packet in _VECTOR_PRODUCTS:
        return float(2 * args[_VECTOR_PRODUCTS[packet]].numel())
    if packet in _RECURRENT_LAYERS:
        return _recurrent_flops(name, func, args)
    if packet in _GROUPED_PRODUCTS:
        (rows, depth), columns = args[0].shape[-2:], args[1].shape[-1]
        each = args[0].shape[0] if args[0].ndim == args[1].ndim == 3 else 1
        return float(2 * rows * columns * depth * each)
    rule = flop_registry.get(packet)
    return float(rule(*args, **kwargs, out_val=out)) if rule else 0.0


def product_of(func: Any, args: Any, out: Any) -> tuple[int, int, int, int, int]:
    """Rows, columns, depth, groups and steps of a matrix product.

    Of a normalisation, only the groups: how many means and variances there are. Anything else has
    one group and zeros.
    """
    packet = getattr(func, "overloadpacket", func)
    if packet is _ATEN.convolution:
        transposed, groups = args[6], args[8]
        return _convolution(args[0], args[1], out, transposed, groups)
    if packet is _ATEN.convolution_backward:
        gradient, inputs, weight, transposed, groups = args[0], args[1], args[2], args[7], args[9]
        return _convolution(inputs, weight, gradient, transposed, groups)
    if packet in (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm):
        first, second = args[-2:] if len(args) > 2 else args[:2]
        if packet in (_ATEN.addmm, _ATEN.baddbmm):
            first, second = args[1], args[2]
        *groups, rows, depth = first.shape
        return rows, second.shape[-1], depth, math.prod(groups), 1
    if packet in _GROUPED_PRODUCTS:
        return _grouped_product(args[0], args[1], out)
    if packet in _RECURRENT_LAYERS:
        return _recurrent_product(func, args)
    return 0, 0, 0, _NORMS[packet](args) if packet in _NORMS else 1, 1


def gradient_parts(name: str, func: Any, args: Any, flops: float) -> Iterator[tuple[float, Any]]:
    """The costs of a product's gradients, each with the tensors of which one must require it."""
    packet = getattr(func, "overloadpacket", func)
    if name == "attention":
        yield 2.5 * flops, args[:3]
    elif name in _MODES:
        yield flops, args
        yield flops, [args[1:3]]
    elif packet in (_ATEN.addmm, _ATEN.baddbmm, _ATEN.addmv):
        yield from ((flops, [operand]) for operand in args[1:3])
    else:
        yield from ((flops, [operand]) for operand in args[:2])


def _of_attention(name: str, args: Any) -> tuple[Tensor, Tensor]:
    query, key = args[1:3] if name.endswith("backward") else args[:2]
    return query, key


def _is_causal(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation is causal attention."""
    is_attention = hasattr(func, "_schema") and "attention" in func._schema.name
    return is_attention and bool(_argument("is_causal", func, args, kwargs))


def _argument(name: str, func: Any, args: Any, kwargs: Any = None) -> Any:
    """An argument of an operation by name; None if there is none with this name."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            given = args[place] if len(args) > place else argument.default_value
            return (kwargs or {}).get(name, given)
    return None


def _recurrent_layer(args: Any) -> tuple[int, list[Tensor]]:
    """Steps × samples of a recurrent layer, and its weight matrices."""
    weights = args[1] if isinstance(args[1], list | tuple) else args[1:5]
    return math.prod(args[0].shape[:-1]), [w for w in weights if w.ndim == 2]


def _recurrent_product(func: Any, args: Any) -> tuple[int, int, int, int, int]:
    """The product of one step of a recurrent layer, for all samples."""
    tokens, matrices = _recurrent_layer(args)
    is_batch_first = bool(_argument("batch_first", func, args))
    steps = max(int(args[0].shape[1 if is_batch_first and args[0].ndim == 3 else 0]), 1)
    width = int(_argument("hidden_size", func, args) or 1)
    # cuDNN may hold the matrices as parts of one vector.
    gates = max((m.numel() // width for m in matrices), default=width)
    return max(tokens // steps, 1), gates, width, 1, steps


def _recurrent_flops(name: str, func: Any, args: Any) -> float:
    """FLOPs if each weight matrix is used once per step and sample, and once per gradient."""
    tokens, matrices = _recurrent_layer(args)
    flops = 2.0 * tokens * sum(matrix.numel() for matrix in matrices)
    if not name.endswith("backward"):
        return flops
    # cuDNN always computes the gradients of the input, and those of the weights on request.
    mask = _argument("output_mask", func, args)
    return flops * (2 if mask is None or mask[3] else 1)


def _grouped_product(first: Tensor, second: Tensor, out: Tensor) -> tuple[int, int, int, int, int]:
    """The sizes of a grouped product; groups share rows, columns or depth, equally on average."""
    rows, depth, columns = int(first.shape[-2]), int(first.shape[-1]), int(second.shape[-1])
    groups = max(tensor.shape[0] if tensor.ndim == 3 else 1 for tensor in (first, second, out))
    if first.ndim == 2 and second.ndim == 3:
        rows = max(rows // groups, 1)
    elif first.ndim == 3 and second.ndim == 2:
        columns = max(columns // groups, 1)
    elif first.ndim == 2:
        depth = max(depth // groups, 1)
    return rows, columns, depth, groups, 1


def _convolution(
    inputs: Tensor, weight: Tensor, output: Tensor, transposed: bool, groups: int
) -> tuple[int, int, int, int, int]:
    """A convolution as a product: rows are output positions (input, if transposed)."""
    positions = (inputs if transposed else output).shape
    rows = positions[0] * math.prod(positions[2:])
    return rows, weight.shape[0] // groups, math.prod(weight.shape[1:]), groups, 1
