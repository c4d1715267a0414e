"""Batches as data loaders yield them: their tensors, and what a forward takes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Number
from typing import Any

from torch import Tensor

# A batch is looked through no further: this happens at every step.
_MOST_ITEMS = 1024


def _items(value: Any) -> list[Any]:
    """What a container of a batch holds; nothing for text and bytes, and little of a long list."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value[:_MOST_ITEMS])
    if is_dataclass(value) and not isinstance(value, type):
        return list(vars(value).values()) if hasattr(value, "__dict__") else []
    return []


def input_candidates(batch: Any) -> Iterator[Any]:
    """What forward may take of a batch, the likeliest first: positional inputs or a mapping."""
    if isinstance(batch, Tensor):
        yield (batch,)
    elif isinstance(batch, Mapping):
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        yield tensors
        yield {n: v for n, v in tensors.items() if n not in ("labels", "label", "target", "y")}
        yield (batch,)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        first = batch[0]
        yield first if isinstance(first, tuple | Mapping) else (first,)
        if isinstance(first, list):  # several inputs, as torch's own collation puts them
            yield tuple(first)
        yield tuple(batch)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch or in what a model puts out."""
    if isinstance(value, Tensor):
        yield value
    for item in _items(value):
        yield from tensors_in(item)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch of the same build with each tensor changed; what is none is shared."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        items = {name: map_tensors(item, change) for name, item in value.items()}
        return items if type(value) is dict else _as(type(value), items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def unshared(value: Any) -> Any:
    """A batch of the same build without what a step may write to and the original would share.

    In place of such an object stands one that can do nothing.
    """
    if isinstance(value, Mapping):
        items = {name: unshared(item) for name, item in value.items()}
        return items if type(value) is dict else _as(type(value), items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(unshared(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(unshared(item) for item in value)
    plain = value is None or isinstance(value, Tensor | str | bytes | Number)
    return value if plain else object()


def _as(kind: type, items: dict[Any, Any]) -> Any:
    try:
        return kind(items)
    except Exception:
        return items
