"""What stands for values that are not known: of indices, of truth values, of what is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# Beyond so many numbers, none are assumed for what was not computed.
LARGEST_ASSUMED = 2**22
_ATEN = torch.ops.aten
# Two numbers are hardly ever equal, and none is out of bounds.
_SELDOM = {_ATEN.eq, _ATEN.isnan, _ATEN.isinf, _ATEN.isneginf, _ATEN.isposinf}
# Indices of what is kept or masked; no shape depends on them.
_NOT_ASSUMED = ("native_dropout", "max_pool", "adaptive_max_pool", "fractional_max_pool")
# What chooses among the numbers of a dimension, and which of its arguments is the dimension.
_OF_INDICES = {
    "topk": 2,
    "sort": 1,
    "argsort": 1,
    "argmax": 1,
    "argmin": 1,
    "max": 1,
    "min": 1,
    "median": 1,
    "mode": 1,
    "kthvalue": 2,
    "multinomial": 9,
}


def assumed_values(func: Any, args: Any, out: Tensor, answer: bool) -> Tensor | None:
    """Whole numbers or truth values that an operation may give; None of what is none of them.

    Args:
        func: the operation.
        args: its arguments.
        out: what it gives, without values.
        answer: what a comparison gives where nothing else is likelier.
    """
    if out.is_floating_point() or out.is_complex() or out.layout != torch.strided:
        return None
    packet = func.overloadpacket
    if out.numel() > LARGEST_ASSUMED or packet.__name__.startswith(_NOT_ASSUMED):
        return None
    if out.dtype != torch.bool:
        return _indices(func, args, out)
    if packet is _ATEN.ne:  # of a number and itself where it is asked for NaN
        return torch.full(out.shape, args[0] is not args[1])
    return torch.full(out.shape, answer and packet not in _SELDOM)


def _indices(func: Any, args: Any, out: Tensor) -> Tensor:
    """Whole numbers as an operation may give: each index equally often, else ones."""
    place = _OF_INDICES.get(func.overloadpacket.__name__)
    if place is None or not args[0].ndim or not out.numel():
        return torch.ones(out.shape, dtype=out.dtype)
    chosen = args[place] if len(args) > place else None
    dim = chosen if type(chosen) is int else -1
    counted: Tensor = torch.arange(out.numel()) % args[0].shape[dim]
    if out.ndim != args[0].ndim:  # one index for each
        return counted.view(out.shape).to(out.dtype)
    # Those of one choice lie side by side, so that no two of them are equal.
    return counted.view(out.movedim(dim, -1).shape).movedim(-1, dim).contiguous().to(out.dtype)


def grouped_product(
    first: Tensor, second: Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Tensor:
    """Of any type: torch knows the shape of bfloat16 alone."""
    shape: tuple[int, ...] = (first.shape[-2], second.shape[-1])
    if first.ndim == second.ndim:
        groups = first.shape[0] if first.ndim == 3 else offs.shape[0]
        shape = (groups, *shape)
    return first.new_empty(shape, dtype=out_dtype or first.dtype)


def stand_ins(value: Any) -> Any:
    """Arguments with ones in place of tensors without values."""
    if isinstance(value, FakeTensor):
        return torch.ones(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {name: stand_ins(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(stand_ins(item) for item in value)
    return value
