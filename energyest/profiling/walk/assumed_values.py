"""Assumed values in place of unknown ones: indices, truth values, and results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# The largest number of values that are assumed for a result.
LARGEST_ASSUMED = 2**22
_ATEN = torch.ops.aten
# Rarely true: two numbers are hardly ever equal, and hardly any is NaN or infinite.
_SELDOM = {_ATEN.eq, _ATEN.isnan, _ATEN.isinf, _ATEN.isneginf, _ATEN.isposinf}
# Operations whose indices or masks affect no shape.
_NOT_ASSUMED = ("native_dropout", "max_pool", "adaptive_max_pool", "fractional_max_pool")
# Operations that select along a dimension, and the position of their argument for it.
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
    """Integers or truth values that an operation may give; None for other results.

    Args:
        func: the operation.
        args: its arguments.
        out: its result, without values.
        answer: the result of a comparison if nothing else is more likely.
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
    """Integers that an operation may give: each index equally often, else ones."""
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


def extreme_number(func: Any, args: Any, is_low: bool) -> float | None:
    """The least or greatest number that a random operation gives; None if there is no such number.

    So a comparison of one random number comes out one way and the other.

    Args:
        func: the operation.
        args: its arguments, of which tensors have values.
        is_low: the least one; of yes and no, however, yes.
    """
    name = func.overloadpacket.__name__.rstrip("_").removesuffix("_like")
    # torch leaves out arguments that have their default.
    given: dict[str, Any] = {
        argument.name: args[place] if place < len(args) else argument.default_value
        for place, argument in enumerate(func._schema.arguments)
    }
    if name in ("rand", "uniform"):
        low, high = float(given.get("from", 0)), float(given.get("to", 1))
        return low if is_low else high - (high - low) * 2.0**-20
    if name in ("randn", "normal"):
        mean, deviation = (_one(given.get(n), usual) for n, usual in (("mean", 0.0), ("std", 1.0)))
        return mean + deviation * (-3 if is_low else 3)
    if name in ("randint", "random"):
        low = float(given.get("low", given.get("from")) or 0)
        high = float(given.get("high", given.get("to")) or 2**24)
        return low if is_low else high - 1
    if name == "bernoulli":
        probability = given["p"] if "p" in given else given["self"]
        probability = _one(probability, 0.5)
        return float(is_low) if 0 < probability < 1 else probability
    return None


def _one(value: Any, usual: float) -> float:
    """A number, or the usual one instead of none or of many."""
    if isinstance(value, Tensor):
        is_known = value.numel() == 1 and not isinstance(value, FakeTensor)
        return float(value) if is_known else usual
    return usual if value is None else float(value)


def stand_ins(value: Any) -> Any:
    """Arguments with ones in place of tensors without values."""
    if isinstance(value, FakeTensor):
        return torch.ones(value.shape, dtype=value.dtype)
    if isinstance(value, dict):
        return {name: stand_ins(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(stand_ins(item) for item in value)
    return value
