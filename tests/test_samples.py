"""How many samples are in a batch."""

from __future__ import annotations

import collections
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

from energyest.profiling.samples import batch_size, batch_size_by_loader, is_contested

B = 64
x, y = torch.zeros(B, 3, 32, 32), torch.zeros(B, dtype=torch.long)
tokens, u = torch.zeros(B, 20, dtype=torch.long), torch.zeros(128, 3, 32, 32)
Pair = collections.namedtuple("Pair", "inputs targets")


def image(width: int, height: int = 200, channels: int = 3) -> torch.Tensor:
    return torch.zeros(channels, height, width)


def target(boxes: int) -> dict[str, torch.Tensor]:
    return {"boxes": torch.zeros(boxes, 4), "labels": torch.zeros(boxes, dtype=torch.long)}


@dataclass
class Fields:
    inputs: Any
    labels: Any
    name: str = "name"


@dataclass(slots=True)
class Slots:
    inputs: Any
    labels: Any


class OwnSlots:
    __slots__ = ("tensors",)

    def __init__(self, tensors: Any) -> None:
        self.tensors = tensors


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= attributes


class Encoding(collections.UserDict):
    """As those of transformers."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None


KNOWN = {
    "tensor": (x, B),
    "number": (torch.tensor(1.0), 1),
    "with names of classes": ({"x": x, "classes": ["cat", "dog"]}, B),
    "images with texts": (([image(300)] * 2, ["a", "b"]), 2),
    "inputs and labels": ([x, y], B),
    "of one sample": ([torch.zeros(1, 50, 16), torch.zeros(1, 50, 16)], 1),
    "forecasts, three left": ((torch.zeros(3, 336, 7), torch.zeros(3, 96, 7)), 3),
    "one tensor in a list": ([torch.zeros(4, 200, 300)], 4),
    "sequences both": ([torch.zeros(4, 50, 8), torch.zeros(4, 10, 8)], 4),
    "dictionary": ({"input_ids": tokens, "attention_mask": tokens, "labels": y}, B),
    "encoding": (Encoding(input_ids=tokens, attention_mask=tokens, labels=y), B),
    "with a scalar": ({"x": x, "y": y, "temperature": torch.tensor(1.0), "step": 3}, B),
    "with weights of classes": ((x, y, torch.zeros(B, 5), torch.zeros(10)), B),
    "boxes in images": ((x, torch.zeros(137, 6)), B),
    "boxes in images by name": (
        {"img": x, "batch_idx": torch.zeros(137), "cls": torch.zeros(137, 1), "file": ["a"] * B},
        B,
    ),
    "texts to choose from": ((x, torch.zeros(1000, 77)), B),
    "a mask for all": ((torch.zeros(B, 9), torch.zeros(1, 1, 9, 9), y), B),
    "bags of tokens": ((y, torch.zeros(900, dtype=torch.long), y), B),
    "bags of tokens, labels last": ((torch.zeros(900), y, y), B),
    "tables, each with its indices": (
        (torch.zeros(B, 13), torch.zeros(26, B), torch.zeros(26, B), torch.zeros(B, 1)),
        B,
    ),
    "parts of two types in a list": ([torch.zeros(B, 2), tokens[:9, :2], y.reshape(B, 1)], B),
    "two views and labels": ([[x, x], y], B),
    "two views alone": ([[x, x]], B),
    "two views of a tuple": ((x, x), B),
    "ten crops of two sizes": ([x, x, *[torch.zeros(B, 3, 16, 16)] * 8], B),
    "three views": (([x, x, x], y), B),
    "nested": ({"image": {"pixels": x, "mask": x}, "text": {"ids": tokens}, "y": [y]}, B),
    "dictionaries of samples": (
        [{"image": image(300 + i), "label": torch.tensor(1)} for i in range(16)],
        16,
    ),
    "dictionaries of images": ([{"image": image(300 + i)} for i in range(16)], 16),
    "dictionaries of tokens": ([{"ids": torch.zeros(9), "mask": torch.zeros(9)}] * 16, 16),
    "samples with a number": ([(image(32, 32), 3)] * 16, 16),
    "samples with a label": ([(image(32, 32), torch.tensor(3))] * 5, 5),
    "samples of unlike tensors": ([(torch.zeros(8), torch.zeros(2))] * 5, 5),
    "samples of texts and labels": ([("a text", 1)] * 7, 7),
    "texts and labels": ((["a text"] * B, y), B),
    "texts and numbers": ((["a text"] * B, [1] * B), B),
    "lists of tokens": ([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]], 4),
    "images of different sizes": ([image(300 + i) for i in range(16)], 16),
    "images of one size": ([image(300) for _ in range(16)], 16),
    "three images of different sizes": ([image(300 + i) for i in range(3)], 3),
    "sequences of different lengths": ([torch.zeros(5 + i, 8) for i in range(16)], 16),
    "two sequences and labels": (([torch.zeros(5, 8), torch.zeros(6, 8)], torch.zeros(2)), 2),
    "many in all": ([torch.zeros(5 + i, 8) for i in range(5000)], 5000),
    "detection": (
        (tuple(image(300 + i) for i in range(6)), tuple(target(i % 3 + 1) for i in range(6))),
        6,
    ),
    "detection, two images": (([image(300), image(310)], [target(2), target(5)]), 2),
    "detection, alike": (([image(300)] * 2, [target(2), target(2)]), 2),
    "detection, one image": (([image(300)], [target(4)]), 1),
    "arrays": ((np.zeros((B, 8)), np.zeros(B)), B),
    "array and tensor": ({"x": np.zeros((B, 8)), "y": y}, B),
    "array of images": (np.zeros((B, 32, 32, 3), dtype=np.uint8), B),
    "named tuple": (Pair(x, y), B),
    "data class": (Fields(x, y), B),
    "data class with slots": (Slots(x, [y]), B),
    "an object of slots": (OwnSlots(x), B),
    "an object of tensors": (Plain(tensors=x, mask=torch.zeros(B, 32, 32)), B),
    "packed": (pack_sequence([torch.zeros(3), torch.zeros(2), torch.zeros(1)]), 3),
    "packed and labels": (
        (pack_padded_sequence(torch.zeros(5, B, 4), torch.full((B,), 5)), y),
        B,
    ),
    "graphs": (Plain(num_graphs=12, x=torch.zeros(300, 8), edge_index=torch.zeros(2, 900)), 12),
    "graphs by their starts": (Plain(ptr=torch.arange(13), x=torch.zeros(300, 8)), 12),
    "graphs by the graph of each node": (
        Plain(batch=torch.tensor([0, 0, 1, 1, 2]), x=torch.zeros(5, 8)),
        3,
    ),
    "sampled neighbours": (Plain(batch_size=32, x=torch.zeros(300, 8)), 32),
    "several dimensions": (Plain(batch_size=torch.Size([16, 4])), 16),
    "objects": ([object() for _ in range(5)], 5),
    "two loaders": ({"labelled": [x, y], "unlabelled": [u, u]}, B + 128),
    "two loaders in a list": ([[x, y], [u, u]], B + 128),
    "two loaders of dictionaries": (
        {"a": {"x": x, "y": y}, "b": {"x": u, "y": torch.zeros(128)}},
        B + 128,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known(name: str) -> None:
    batch, samples = KNOWN[name]
    assert batch_size(batch) == samples


@pytest.mark.parametrize(
    "batch",
    [
        None,
        3,
        "text",
        [],
        {},
        [[], []],
        object(),
        {"x": x, "unlike": u},
        (x, u),
        [torch.zeros(5, 8), torch.zeros(6, 8)],
        [image(300)] * 4,
        [target(2), target(5)],
        {"anchors": {"x": x}, "negatives": {"x": torch.zeros(7 * B, 3, 32, 32)}},
        Plain(text="graph of something", x=None),
        {"crops": u, "labels": y},
        (torch.zeros(5, 3), torch.zeros(5, 1), torch.zeros(15, 3), torch.zeros(15, 1)),
    ],
)
def test_what_cannot_be_known(batch: Any) -> None:
    assert batch_size(batch) is None


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ((x, y), False),
        (x, False),
        ([target(2), target(5), target(1)], False),
        ((x, torch.zeros(137, 6)), True),
        ((x, y, torch.zeros(10)), True),
        ((y, torch.zeros(900), y), True),
    ],
)
def test_parts_that_contradict_each_other(batch: Any, expected: bool) -> None:
    assert is_contested(batch) is expected


def test_what_holds_itself() -> None:
    batch: list[Any] = [y]
    batch.append(batch)
    assert batch_size(batch) == B
    endless: list[Any] = []
    endless.append(endless)
    batch_size(endless)  # comes to an end


def test_batches_of_several_loaders() -> None:
    """Who knows the loaders need not guess."""
    assert batch_size_by_loader({"a": 0, "b": 0}, {"a": x, "b": u}) == B + 128
    assert batch_size_by_loader([0, 0], [x, x]) == 2 * B
    assert batch_size_by_loader([0, {"c": 0}], [x, {"c": [u, torch.zeros(128)]}]) == B + 128
    assert batch_size_by_loader({"a": 0, "b": 0}, {"a": x, "b": None}) == B  # at its end
    assert batch_size_by_loader({"a": 0, "b": 0}, {"a": x, "b": object()}) is None
    # One loader: what looks like batches of two is something else.
    assert batch_size_by_loader(0, {"query": [x, y], "documents": [u, u]}) is None
    assert batch_size_by_loader(0, [x, y]) == B
