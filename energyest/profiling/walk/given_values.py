"""Values that tensors of a model and a batch keep in a walk on shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from energyest.profiling.batches import input_candidates, is_graph, tensors_in
from energyest.profiling.copies.model_copy import plain_dtype
from energyest.profiling.operations import bytes_of
from energyest.profiling.sparse_tensors import hand_on_entries, is_sparse
from energyest.profiling.walk.fake_tensors import Origin, ShapesAlone

# Tensors of a batch, and whole numbers of a model, keep their values up to this size.
_LARGEST_GIVEN_bytes = 2**22
_LARGEST_SPARSE_bytes = 2**30


def given_values(model: nn.Module, held: list[Tensor], batch: Any) -> dict[int, Tensor]:
    """Copies of the tensors that keep their values in a walk on shapes, by `id` of each tensor.

    Shapes and branches may depend on integers and truth values, such as lengths and masks. These
    keep their values in the model, and all small tensors do in the batch. So do sparse tensors,
    whose values include how many entries they store.
    """
    of_model = (
        tensor
        for tensor in held
        if not tensor.is_meta
        and (is_sparse(tensor) or (_is_whole(tensor) and not isinstance(tensor, nn.Parameter)))
    )
    of_batch = (t for t in tensors_in(batch) if _is_whole(t) or not t.is_meta)
    lengths = _full_lengths(model, batch)
    return {
        id(tensor): (
            torch.full(tensor.shape, lengths.get(id(tensor), 1), dtype=tensor.dtype)
            if tensor.is_meta
            else tensor.detach().to("cpu", plain_dtype(tensor), copy=True)
        )
        for tensor in (*of_model, *of_batch)
        if _may_be_given(tensor)
    }


def _full_lengths(model: nn.Module, batch: Any) -> dict[int, int]:
    """By `id` of a tensor that may hold lengths: the length of a sequence without padding.

    These are whole numbers, one for each sample, that are no target. The sequences are before them
    in the batch, or else behind them.
    """
    target = next((c.target for c in input_candidates(model, batch)), None)
    targets = {id(tensor) for tensor in tensors_in(target)}
    found: dict[int, int] = {}
    tensors = list(tensors_in(batch)) if not is_graph(batch) else []
    for place, tensor in enumerate(tensors):
        may_be = tensor.ndim == 1 and _is_whole(tensor) and tensor.element_size() > 1
        if not (may_be and tensor.is_meta) or id(tensor) in targets:
            continue
        samples = len(tensor)
        for other in (*reversed(tensors[:place]), *tensors[place:]):
            if other.ndim in (2, 3) and samples in other.shape[:2]:
                found[id(tensor)] = other.shape[1 if other.shape[0] == samples else 0]
                break
    return found


def _may_be_given(tensor: Tensor) -> bool:
    if is_sparse(tensor):
        return not tensor.is_meta and bytes_of(tensor) <= _LARGEST_SPARSE_bytes
    is_dense = tensor.layout == torch.strided and not tensor.is_nested
    return is_dense and bytes_of(tensor) <= _LARGEST_GIVEN_bytes


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)


def give_values(shapes: ShapesAlone, batch: Any, given: dict[int, Tensor]) -> None:
    """Register the tensors that have values, and the origin of these."""
    of_batch = {id(tensor): tensor for tensor in tensors_in(batch)}
    for key, copy in given.items():
        if key not in of_batch:
            shapes.gives(copy, Origin.CONSTANT)
        elif of_batch[key].is_meta:
            shapes.gives(copy, Origin.BATCH_WITHOUT_VALUES)
        else:
            shapes.gives(copy, Origin.BATCH)


def with_own_values(tensor: Tensor) -> Tensor:
    """A copy on the CPU."""
    return tensor.detach().to("cpu", plain_dtype(tensor), copy=True)


def without_values(tensor: Tensor, given: dict[int, Tensor]) -> Tensor:
    """The tensor on the CPU, in its memory layout, with its given values, if any."""
    if id(tensor) in given:
        copy = given[id(tensor)]
        is_trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        return nn.Parameter(copy) if is_trained else copy
    dtype = plain_dtype(tensor)
    if is_sparse(tensor):
        empty = torch.empty(tensor.shape, dtype=dtype, layout=tensor.layout)
        hand_on_entries([tensor], [empty])
    else:
        layout = suggest_memory_format(tensor)
        empty = torch.empty(tensor.shape, dtype=dtype, memory_format=layout)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty
