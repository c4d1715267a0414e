"""`describe_workload` of batches of any build: which parts of them forward takes."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from energyest.errors import WorkloadError
from energyest.profiling.describe import count_flops, describe_workload

ONE, OTHER, Y = torch.randn(4, 8), torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
FORWARD = 4 * 2 * (8 * 16 + 6 * 16 + 16 * 3)
# The first layers' inputs need no gradient.
STEP = 2 * FORWARD + 4 * 2 * 16 * 3

Pair = collections.namedtuple("Pair", "one other y")


@dataclass
class Fields:
    one: Tensor
    other: Tensor
    y: Tensor


@dataclass(slots=True, frozen=True)
class Slots:
    one: Tensor
    other: Tensor
    y: Tensor


class Own:
    """A batch of a class of one's own, which knows more than tensors."""

    def __init__(self, one: Tensor, other: Tensor, y: Tensor) -> None:
        self.one, self.other, self.y = one, other, y
        self.name, self.parent = "batch", [self]
        self.owner = self


class OwnSlots:
    __slots__ = ("__weakref__", "one", "other", "unset", "y")

    def __init__(self, one: Tensor, other: Tensor, y: Tensor) -> None:
        self.one, self.other, self.y = one, other, y


class Two(nn.Module):
    """Two inputs of different widths, so that none can be taken for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.of_one, self.of_other, self.head = nn.Linear(8, 16), nn.Linear(6, 16), nn.Linear(16, 3)

    def both(self, one: Tensor, other: Tensor) -> Tensor:
        return self.head(self.of_one(one) + self.of_other(other))


class ByName(Two):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return self.both(one, other)


class ByAttribute(Two):
    def forward(self, given: Any) -> Tensor:
        assert not isinstance(given, Tensor)
        return self.both(given.one, given.other)


class Unpacks(Two):
    def forward(self, inputs: Any) -> Tensor:
        one, other, _ = inputs
        return self.both(one, other)


class TakesFirst(Two):
    def forward(self, batch: Any) -> Tensor:
        # Of a tensor, this would be its first row.
        return self.both(batch[0], batch[1])


BATCHES: dict[str, tuple[type[nn.Module], Any]] = {
    "data class": (ByAttribute, Fields(ONE, OTHER, Y)),
    "data class by name": (ByName, Fields(ONE, OTHER, Y)),
    "data class with slots": (ByAttribute, Slots(ONE, OTHER, Y)),
    "data class with slots by name": (ByName, Slots(ONE, OTHER, Y)),
    "named tuple": (ByAttribute, Pair(ONE, OTHER, Y)),
    "named tuple by name": (ByName, Pair(ONE, OTHER, Y)),
    "named tuple unpacked": (Unpacks, Pair(ONE, OTHER, Y)),
    "tuple unpacked": (Unpacks, (ONE, OTHER, Y)),
    "list unpacked": (Unpacks, [ONE, OTHER, Y]),
    "tuple by index": (TakesFirst, (ONE, OTHER, Y)),
    "own class": (ByAttribute, OwnSlots(ONE, OTHER, Y)),
    "own class by name": (ByName, OwnSlots(ONE, OTHER, Y)),
    "namespace": (ByAttribute, SimpleNamespace(one=ONE, other=OTHER, y=Y)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_what_forward_takes(name: str) -> None:
    kind, batch = BATCHES[name]
    workload = describe_workload(kind(), batch)
    assert workload.flops_per_step == STEP
    assert (workload.batch_size, workload.notes) == (4, ())
    assert workload.input_bytes == 4 * 4 * (8 + 6) + 4 * 8
    assert any("log_softmax" in o.name for o in workload.operations)  # the target was found
    assert count_flops(kind(), batch).per_sample == FORWARD / 4


def test_a_batch_of_ones_own_class_is_left_as_it_is() -> None:
    batch = Own(ONE, OTHER, Y)
    before = dict(vars(batch))
    assert describe_workload(ByAttribute(), batch).flops_per_step == STEP
    assert vars(batch).keys() == before.keys()
    assert all(vars(batch)[name] is value for name, value in before.items())


class Repeats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, times: int = 1, mode: str = "plain") -> Tensor:
        for _ in range(times * (2 if mode == "double" else 1)):
            x = self.layer(x)
        return x


@pytest.mark.parametrize(
    ("batch", "times"),
    [
        ({"x": ONE, "label": Y}, 1),
        ({"x": ONE, "times": 5, "label": Y}, 5),
        ({"x": ONE, "times": 2, "mode": "double", "label": Y, "source": "a file"}, 4),
        ((ONE, 5, Y), 5),
        (SimpleNamespace(x=ONE, times=5, y=Y), 5),
    ],
)
def test_numbers_and_texts_that_forward_knows(batch: Any, times: int) -> None:
    workload = describe_workload(Repeats(), batch)
    assert workload.flops_per_step == (3 * times - 1) * 4 * 2 * 8 * 8


def test_texts_that_forward_needs() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(128, 8), nn.Linear(8, 3)

        def forward(self, texts: list[str], x: Tensor) -> Tensor:
            codes = torch.tensor([[ord(letter) for letter in text] for text in texts])
            return self.head(self.table(codes).mean(1) + x)

    for batch in ({"texts": ["abc"] * 4, "x": ONE, "label": Y}, (["abc"] * 4, ONE, Y)):
        assert describe_workload(Reads(), batch).flops_per_step == 3 * 4 * 2 * 8 * 3


class Language(nn.Module):
    """Computes its loss if it gets targets; otherwise only the last position's scores."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 9)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        x = self.table(x)
        if targets is None:
            return self.head(x[:, [-1]]), None
        logits = self.head(x)
        return logits, functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def test_targets_that_forward_takes() -> None:
    words = torch.zeros(4, 5, dtype=torch.long)
    for batch in ((words, words), [words, words], {"x": words, "targets": words}):
        workload = describe_workload(Language(), batch)
        assert workload.flops_per_step == 3 * 4 * 5 * 2 * 8 * 9
        # The loss it returns is the loss: nothing is added up beside it.
        assert not [o for o in workload.operations if o.name == "ones_like"][1:]
        losses = [o for o in workload.operations if o.name == "_log_softmax"]
        assert sum(o.count for o in losses) == 1


def test_targets_in_one_row() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(9, 8), nn.RNN(8, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.table(x))[0]

    words = torch.zeros(5, 4, dtype=torch.long)
    workload = describe_workload(Recurrent(), (words, words.flatten()), samples=4)
    assert any("log_softmax" in o.name for o in workload.operations)
    assert workload.batch_size == 4


@pytest.mark.filterwarnings("ignore")
def test_a_nested_tensor_has_samples_but_no_shape() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 8), torch.zeros(5, 8)])
    with pytest.raises(WorkloadError, match="could not be walked through"):
        describe_workload(nn.Linear(8, 3), nested)
