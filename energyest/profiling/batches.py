"""Batches as data loaders yield them: their tensors, and what a forward takes of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Number
from typing import Any, NamedTuple

from torch import Tensor, nn

# A batch is looked through no further: this happens at every step.
_MOST_ITEMS = 1024
# Keys of what is to be learnt, in lower case, and parts of such keys.
_LABELS = ("label", "target", "y")
_LABEL_PARTS = ("label", "target")


class Candidate(NamedTuple):
    """What forward may take of a batch, and what is left for a loss.

    Attributes:
        inputs: positional inputs as a tuple, or a mapping of those by name.
        target: what is to be learnt; None where nothing is left for it.
    """

    inputs: tuple[Any, ...] | Mapping[str, Any]
    target: Any = None


def _items(value: Any) -> list[Any]:
    """What a container of a batch holds; nothing for text and bytes, and little of a long list."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value[:_MOST_ITEMS])
    if is_dataclass(value) and not isinstance(value, type):
        return list(vars(value).values()) if hasattr(value, "__dict__") else []
    if is_graph(value):
        return list(value.to_dict().values())
    return []


def is_graph(value: Any) -> bool:
    """Whether it is a graph, or a batch of them, as PyTorch Geometric makes them."""
    return all(callable(getattr(value, name, None)) for name in ("to_dict", "apply", "size"))


def input_candidates(model: nn.Module, batch: Any) -> Iterator[Candidate]:
    """What forward may take of a batch, the likeliest first.

    Args:
        model: its forward's signature says how many inputs it takes, and their names.
        batch: as the data loader yields it.
    """
    if isinstance(batch, Tensor):
        yield Candidate((batch,))
    elif is_graph(batch):
        named = {name: v for name, v in batch.to_dict().items() if tensors_within(v)}
        yield Candidate((batch,), named.get("y"))
        yield from _of_mapping(_Signature(model), named)
    elif isinstance(batch, Mapping):
        whole = Candidate((batch,), _label_of(batch))
        named = {name: value for name, value in batch.items() if tensors_within(value)}
        yield from _of_mapping(_Signature(model), named, whole)
    elif is_dataclass(batch) and not isinstance(batch, type):
        named = {name: value for name, value in vars(batch).items() if tensors_within(value)}
        yield Candidate((batch,), _label_of(named))
        yield from _of_mapping(_Signature(model), named)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        yield from _of_sequence(_Signature(model), list(batch))


class _Signature:
    """What a forward takes.

    Attributes:
        names: of its parameters, in order.
        fewest: how many it must be given.
        most: how many it can be given without names.
        takes_any_name: whether it takes names beyond these.
    """

    def __init__(self, model: nn.Module) -> None:
        try:
            parameters = list(inspect.signature(model.forward).parameters.values())
        except (TypeError, ValueError):  # as of a scripted module
            parameters = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
        kinds = inspect.Parameter
        several = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
        own = [p for p in parameters if p.kind not in several]
        self.names = [p.name for p in own]
        self.required = {p.name for p in own if p.default is kinds.empty}
        by_place = [p for p in own if p.kind is not kinds.KEYWORD_ONLY]
        self.fewest = len([p for p in by_place if p.default is kinds.empty])
        takes_any_number = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
        self.most = _MOST_ITEMS if takes_any_number else len(by_place)
        self.takes_any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters)


def _of_mapping(
    signature: _Signature, named: dict[Any, Any], whole: Candidate | None = None
) -> Iterator[Candidate]:
    """By name as far as forward knows the names, as a whole, or in order."""
    known = {name: value for name, value in named.items() if name in signature.names}
    target = _label_of({name: v for name, v in named.items() if name not in known}, sure=not known)
    if known and signature.required <= known.keys():
        others = {n: v for n, v in named.items() if n in known or not is_label(n)}
        if signature.takes_any_name and len(others) > len(known):
            yield Candidate(others, target)
        yield Candidate(known, target)
    elif signature.takes_any_name or not named:
        yield Candidate(named)
        yield Candidate({name: v for name, v in named.items() if not is_label(name)}, target)
    if whole is not None:
        yield whole
    inputs = [value for name, value in named.items() if not is_label(name)]
    if inputs and not (known and signature.required <= known.keys()):
        yield from _in_order(signature, inputs, _label_of(named, sure=True))


def _of_sequence(signature: _Signature, items: list[Any]) -> Iterator[Candidate]:
    """The first item may hold all inputs; else there are as many as forward takes."""
    first, target = items[0], items[1] if len(items) > 1 else None
    if isinstance(first, Mapping):
        for candidate in _of_mapping(signature, dict(first), Candidate((first,))):
            yield candidate if target is None else candidate._replace(target=target)
    if is_graph(first):
        yield Candidate((first,), target)
    if isinstance(first, list | tuple):
        yield Candidate(tuple(first), target)  # several inputs, as torch's own collation puts them
        yield Candidate((first,), target)
    yield from _in_order(signature, items, None)


def _in_order(signature: _Signature, items: list[Any], target: Any) -> Iterator[Candidate]:
    """As many of the items as forward takes, and the one after them as the target.

    Args:
        signature: forward's.
        items: inputs, and perhaps what is to be learnt.
        target: what is to be learnt, where that is known.
    """
    count = len(items)
    fewest, most = max(signature.fewest, 1), min(signature.most, count)
    counts = [min(fewest, count)]
    # Of three and more, the last is what is to be learnt, if forward takes all others.
    if count > 2 and target is None and most >= count - 1 and fewest < count:
        counts.insert(0, count - 1)
    counts += [most, 1, count]
    for used in dict.fromkeys(n for n in counts if n):
        left = items[used:]
        yield Candidate(tuple(items[:used]), left[0] if target is None and left else target)


def is_label(name: Any) -> bool:
    """Whether a key of a batch is one of what is to be learnt."""
    text = str(name).lower()
    return text in _LABELS or any(part in text for part in _LABEL_PARTS)


def _label_of(named: Mapping[Any, Any], *, sure: bool = False) -> Any:
    """What is to be learnt, of what is left of a batch: by its key, else the last of it.

    Args:
        named: by keys.
        sure: there must be a key of that kind.
    """
    for name, value in named.items():
        if is_label(name):
            return value
    values = list(named.values())
    return None if sure or not values else values[-1]


def tensors_within(value: Any) -> bool:
    """Whether there is a tensor in it."""
    return next(tensors_in(value), None) is not None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch or in what a model puts out."""
    if isinstance(value, Tensor):
        yield value
    for item in _items(value):
        yield from tensors_in(item)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch of the same build with each tensor changed; what is none is shared."""
    return _rebuilt(value, lambda item: change(item) if isinstance(item, Tensor) else item)


def unshared(value: Any) -> Any:
    """A batch of the same build without what a step may write to and the original would share.

    In place of such an object stands one that can do nothing.
    """

    def kept(item: Any) -> Any:
        plain = item is None or isinstance(item, Tensor | str | bytes | Number)
        return item if plain else object()

    return _rebuilt(value, kept)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same build, with what is no container changed."""
    if isinstance(value, Mapping):
        items = {name: _rebuilt(item, change) for name, item in value.items()}
        return items if type(value) is dict else _as(type(value), items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rebuilt(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(item, change) for item in value)
    if is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        duplicate = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(duplicate, name, _rebuilt(item, change))
        return duplicate
    if is_graph(value):
        return copy.copy(value).apply(change)
    return change(value)


def _as(kind: type, items: dict[Any, Any]) -> Any:
    try:
        return kind(items)
    except Exception:
        return items
