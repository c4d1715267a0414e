"""Shapes and layouts of results for which torch's own rules do not suffice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from energyest.profiling.execution import layout_of_images
from energyest.profiling.operations import tensors_of
from energyest.profiling.sparse_tensors import is_sparse


def grouped_product(
    first: Tensor, second: Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Tensor:
    """The result of a grouped product of any type; torch has a rule only for bfloat16."""
    shape: tuple[int, ...] = (first.shape[-2], second.shape[-1])
    if first.ndim == second.ndim:
        groups = first.shape[0] if first.ndim == 3 else offs.shape[0]
        shape = (groups, *shape)
    return first.new_empty(shape, dtype=out_dtype or first.dtype)


def without_view(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of a view of a sparse one, from which torch takes no shape."""
    is_view = not isinstance(tensor, FakeTensor) and is_sparse(tensor) and tensor._is_view()
    return tensor.clone() if is_view else tensor


def as_index(tensor: Tensor, mask: Tensor) -> tuple[Tensor, list[Tensor]]:
    """`masked_select` as an index, with tensor and mask broadcast to the same shape."""
    shape = torch.broadcast_shapes(tensor.shape, mask.shape)
    return tensor.expand(shape), [mask.expand(shape)]


def laid_out(packet: Any, args: Any, out: Any) -> Any:
    """The results of a convolution in the memory layout that they have on a GPU.

    On a CPU, the layout depends on which library computes it.
    """
    inputs = tensors_of(args[:3])
    if layout_of_images(packet.__name__, inputs) != "channels_last":
        return out
    last = torch.channels_last
    if isinstance(out, Tensor):
        return out.to(memory_format=last)
    return tuple(
        item.to(memory_format=last) if isinstance(item, Tensor) and item.ndim == 4 else item
        for item in out
    )
