"""Sparse matrices: the entries that they store, their bytes, and the FLOPs of products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
_BY_ROW = (torch.sparse_csr, torch.sparse_bsr)
# Products that compute with the stored entries alone.
_PRODUCTS = {
    *("mm", "addmm", "addmm_", "_sparse_addmm", "sspaddmm", "hspmm", "mv", "addmv", "addmv_"),
    *("bmm", "baddbmm", "_sparse_mm_reduce_impl"),
}
# The name of an attribute of tensors without values: how many entries they store.
_ENTRIES = "_energyest_entries"


class Stored(NamedTuple):
    """What a sparse tensor stores.

    Attributes:
        numbers: how many numbers.
        index_bytes: bytes of their indices.
    """

    numbers: int
    index_bytes: int


def is_sparse(tensor: Tensor) -> bool:
    """Whether a tensor stores only some of its entries."""
    return tensor.layout == torch.sparse_coo or tensor.layout in _COMPRESSED


def stored_in(tensor: Tensor) -> Stored:
    """What a sparse tensor stores; no number if it has no values and the count is unknown."""
    known = getattr(tensor, _ENTRIES, None)
    if known is not None:
        found: Stored = known
        return found
    guard: Any = torch._C
    with guard._DisableTorchDispatch() if not isinstance(tensor, FakeTensor) else torch.no_grad():
        if tensor.layout == torch.sparse_coo:
            entries, indices = tensor._nnz(), tensor.sparse_dim()
            each = math.prod(tensor.shape[indices:])
            return Stored(entries * each, entries * indices * torch.int64.itemsize)
        by_row = tensor.layout in _BY_ROW
        ends = tensor.crow_indices() if by_row else tensor.ccol_indices()
        places = tensor.col_indices() if by_row else tensor.row_indices()
        size = ends.numel() * ends.element_size() + places.numel() * places.element_size()
        return Stored(tensor.values().numel(), size)


def bytes_of_sparse(tensor: Tensor) -> int:
    """Bytes of the stored numbers and their indices."""
    stored = stored_in(tensor)
    return stored.numbers * tensor.element_size() + stored.index_bytes


def hand_on_entries(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Note the entries of sparse results without values, for which torch says none.

    They are as many as the inputs have, as after a transposition or an activation.
    """
    lost = [tensor for tensor in outputs if is_sparse(tensor) and not stored_in(tensor).numbers]
    if lost:
        found = [stored_in(tensor) for tensor in inputs if is_sparse(tensor)]
        most = max(found, default=Stored(0, 0))
        for tensor in lost:
            setattr(tensor, _ENTRIES, most)


class SparseProduct(NamedTuple):
    """A product of a sparse and a dense matrix.

    Attributes:
        sparse, dense: the factors.
        columns: with how many numbers of the dense matrix each stored number is multiplied.
        is_first: whether the sparse matrix is the first factor.
    """

    sparse: Tensor
    dense: Tensor
    columns: int
    is_first: bool

    @property
    def flops(self) -> float:
        """Two for each stored number and column."""
        return 2.0 * stored_in(self.sparse).numbers * self.columns

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """Rows, columns, depth, groups and steps; the depth is that of a row in the mean."""
        rows = self.sparse.shape[-2 if self.is_first else -1]
        depth = max(stored_in(self.sparse).numbers // max(rows, 1), 1)
        return (
            (rows, self.columns, depth, 1, 1)
            if self.is_first
            else (self.columns, rows, depth, 1, 1)
        )

    @property
    def read_bytes(self) -> int:
        """Bytes of the dense matrix, of which each stored number looks up a row."""
        looked_up = stored_in(self.sparse).numbers * self.columns
        return min(looked_up, self.dense.numel()) * self.dense.element_size()


def sparse_product(name: str, inputs: Sequence[Tensor]) -> SparseProduct | None:
    """The product that an operation computes; None if it is another, or its cost is unknown.

    Args:
        name: name of the operation.
        inputs: its tensors; the factors come last.
    """
    if name not in _PRODUCTS or len(inputs) < 2:
        return None
    first, second = inputs[-2:]
    is_first = is_sparse(first)
    sparse, dense = (first, second) if is_first else (second, first)
    if not is_sparse(sparse) or is_sparse(dense) or not stored_in(sparse).numbers:
        return None
    columns = 1 if dense.ndim == 1 else dense.shape[-1 if is_first else -2]
    return SparseProduct(sparse, dense, columns, is_first)


def is_uncounted_product(name: str, inputs: Sequence[Tensor]) -> bool:
    """Whether an operation multiplies sparse matrices in a way for which there is no rule."""
    is_product = name in _PRODUCTS or "addmm" in name or "matmul" in name or name == "_sparse_mm"
    return is_product and any(map(is_sparse, inputs)) and sparse_product(name, inputs) is None


def sparse_parameters(module: nn.Module) -> int:
    """Number of parameters whose present gradients are sparse, as tables can have them."""
    grads = ((parameter, parameter.grad) for parameter in module.parameters())
    return sum(
        parameter.numel()
        for parameter, grad in grads
        if grad is not None and grad.layout == torch.sparse_coo
    )
