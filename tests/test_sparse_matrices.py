"""Sparse matrices: what a step computes and moves goes by the entries that they store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from energyest.profiling.describe import describe_workload
from energyest.records.workload import Operation, Workload

NODES, EDGES, WIDTH = 3000, 7000, 8
EDGE_INDEX = torch.stack([torch.arange(EDGES) % NODES, torch.arange(EDGES) // 3])
BY_PLACE = torch.sparse_coo_tensor(
    EDGE_INDEX, torch.ones(EDGES), (NODES, NODES), check_invariants=True
).coalesce()
BY_ROW = BY_PLACE.to_sparse_csr()
X = torch.randn(NODES, WIDTH)
PRODUCT = 2 * EDGES * WIDTH
MATRICES = pytest.mark.parametrize("matrix", [BY_PLACE, BY_ROW], ids=["by place", "by row"])


class Convolution(nn.Module):
    """A layer and a product with a graph's matrix.

    Args:
        matrix: the graph.
        multiply: multiplies the matrix and numbers.
    """

    def __init__(
        self,
        matrix: Tensor | None = None,
        multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
    ) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.layer, self.multiply = nn.Linear(WIDTH, WIDTH), multiply

    def forward(self, x: Tensor, matrix: Tensor | None = None) -> Tensor:
        return self.multiply(self.matrix if matrix is None else matrix, self.layer(x))


def products(workload: Workload, phase: str = "forward") -> list[Operation]:
    of_layer = 2 * NODES * WIDTH**2
    return [o for o in workload.operations if o.flops not in (0, of_layer) and o.phase == phase]


@MATRICES
def test_products_go_by_the_stored_entries(matrix: Tensor) -> None:
    workload = describe_workload(Convolution(matrix), X)
    is_compressed = matrix is BY_ROW
    indices = 8 * (EDGES + NODES + 1 if is_compressed else 2 * EDGES)
    for phase in ("forward", "backward"):
        (product,) = products(workload, phase)
        assert product.flops == PRODUCT
        assert product.bytes == indices + 4 * EDGES + 2 * 4 * NODES * WIDTH
        assert (product.rows, product.columns, product.depth) == (NODES, WIDTH, EDGES // NODES)
    assert workload.forward_flops_per_sample * NODES == PRODUCT + 2 * NODES * WIDTH**2
    assert not workload.notes


@MATRICES
def test_a_sparse_matrix_in_the_batch(matrix: Tensor) -> None:
    workload = describe_workload(Convolution(), {"x": X, "matrix": matrix})
    assert [o.flops for o in products(workload)] == [PRODUCT]
    assert workload.input_bytes < 4 * NODES * WIDTH + 24 * EDGES + 8 * NODES


MULTIPLIED: dict[str, tuple[Callable[[Tensor, Tensor], Any], float]] = {
    "transposed": (lambda m, x: m.t() @ x, PRODUCT),
    "scaled": (lambda m, x: (m * 2) @ x, PRODUCT),
    "sparse.mm": (torch.sparse.mm, PRODUCT),
    "vector": (lambda m, x: m @ x[:, 0], 2 * EDGES),
    "added": (lambda m, x: torch.addmm(x, m, x), PRODUCT),
    "second": (lambda m, x: x.t() @ m, PRODUCT),
    "twice": (lambda m, x: m @ (m @ x), 2 * PRODUCT),
}


@MATRICES
@pytest.mark.parametrize("name", MULTIPLIED)
def test_products_of_all_kinds(name: str, matrix: Tensor) -> None:
    multiply, flops = MULTIPLIED[name]
    workload = describe_workload(Convolution(matrix, multiply), X)
    assert sum(o.flops * o.count for o in products(workload)) == flops
    assert sum(o.flops * o.count for o in products(workload, "backward")) == flops
    assert not workload.notes


def test_weights_of_edges_that_are_computed() -> None:
    def multiply(_: Any, x: Tensor) -> Tensor:
        weights = x[EDGE_INDEX[0], 0]
        return torch.sparse.mm(torch.sparse_coo_tensor(EDGE_INDEX, weights, BY_PLACE.shape).t(), x)

    workload = describe_workload(Convolution(None, multiply), X)
    assert [o.flops for o in products(workload)] == [PRODUCT]


def test_what_has_no_rule_is_noted() -> None:
    workload = describe_workload(Convolution(BY_PLACE, lambda m, x: torch.sparse.mm(m, m) @ x), X)
    assert any("_sparse_sparse_matmul" in note for note in workload.notes)


def test_a_matrix_without_values_is_noted() -> None:
    with torch.device("meta"):
        model = Convolution(BY_PLACE.to("meta"))
    workload = describe_workload(model, X)
    assert any("mm of sparse matrices is not counted" in note for note in workload.notes)
    assert workload.flops_per_step == 2 * 2 * NODES * WIDTH**2
