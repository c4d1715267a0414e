"""Random decisions in a step: walked through both ways, and the same in each call."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from energyest.profiling.describe import describe_workload
from energyest.records.workload import Workload

X = torch.randn(4, 8)
LAYERS, LAYER = 6, 4 * 2 * 8 * 8
OWN = np.random.default_rng()
GENERATORS = np.random.RandomState(np.random.Philox(1)), random.SystemRandom()


class Dropping(nn.Module):
    """Leaves out layers at random.

    Args:
        decide: whether a layer is kept.
    """

    def __init__(self, decide: Callable[[int], bool]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(LAYERS))
        self.head, self.decide = nn.Linear(8, 8), decide

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            if self.decide(place):
                x = layer(x)
        return self.head(x)


def forward_layers(workload: Workload) -> float:
    return workload.forward_flops_per_sample * 4 / LAYER


def described(decide: Callable[[int], bool]) -> Workload:
    found, model = [], Dropping(decide)
    for seed in range(3):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        OWN.random(seed)
        state = torch.get_rng_state()
        found.append(describe_workload(model, X))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1] == found[2]
    return found[0]


DECISIONS: dict[str, Callable[[int], bool]] = {
    "compared": lambda _: bool(torch.rand([]) < 0.3),
    "kept": lambda _: bool(torch.rand(1) > 0.3),
    "number": lambda _: torch.rand(1).item() < 0.3,
    "normal": lambda _: bool(torch.randn(()) < 0),
    "bernoulli": lambda _: bool(torch.bernoulli(torch.tensor(0.3))),
    "uniform": lambda _: bool(torch.empty(()).uniform_() < 0.3),
    "many at once": lambda place: bool((torch.rand(LAYERS) < 0.3)[place]),
    "integer": lambda place: place < int(torch.randint(0, LAYERS + 1, ())),
    "bernoulli of a tensor": lambda _: bool(torch.empty(()).bernoulli_(torch.tensor(0.3))),
    "bernoulli of a number": lambda _: bool(torch.empty(()).bernoulli_(0.3)),
}
# What no draw can be, or hardly ever is.
IMPOSSIBLE: dict[str, Callable[[int], bool]] = {
    "uniform": lambda _: bool(torch.empty(()).uniform_(0.5, 1.0) < 0.3),
    "uniform from": lambda _: bool(torch.empty(()).uniform_(0.5) < 0.3),
    "normal": lambda _: bool(torch.empty(()).normal_(50.0) < 10),
    "normal of a tensor": lambda _: bool(torch.normal(torch.tensor(50.0), 1.0) < 10),
    "integer": lambda _: bool(torch.randint(5, 10, ()) < 4),
    "random": lambda _: bool(torch.empty((), dtype=torch.long).random_(3, 6) < 3),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_one_way_and_the_other(name: str) -> None:
    workload = described(DECISIONS[name])
    assert forward_layers(workload) == LAYERS + 1
    (note,) = workload.notes
    assert "test_random_decisions.py" in note
    assert f"{2 * LAYER:.3g} to " in note


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be(name: str) -> None:
    assert forward_layers(described(IMPOSSIBLE[name])) == 1


def test_generators_of_other_kinds() -> None:
    """Some cannot be seeded as usual, or have no state."""
    philox, system = GENERATORS
    before = str(philox.get_state(legacy=False))
    workload = describe_workload(Dropping(lambda _: philox.random() + system.random() < 2), X)
    assert forward_layers(workload) == LAYERS + 1
    assert str(philox.get_state(legacy=False)) == before


def test_what_is_certain() -> None:
    workload = described(lambda _: bool(torch.bernoulli(torch.tensor(1.0))))
    assert forward_layers(workload) == LAYERS + 1


def test_several_random_numbers_are_as_many_as_they_are() -> None:
    """A mask of 15 % of the positions selects about as many."""

    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[torch.rand(len(x)) < 0.15])

    found = [describe_workload(Masked(8, 8), torch.randn(1000, 8)) for _ in range(2)]
    assert found[0] == found[1]
    assert 0.1 < found[0].forward_flops_per_sample / (2 * 8 * 8) < 0.2


def own() -> float:
    return float(OWN.random())


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.rand, own],
    ids=["python", "numpy", "own"],
)
def test_other_generators_are_seeded_and_noted(draw: Callable[[], float]) -> None:
    (note,) = described(lambda _: draw() < 0.5).notes
    assert "random generators of Python or numpy" in note
