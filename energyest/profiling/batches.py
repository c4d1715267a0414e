"""Batches as data loaders yield them: their tensors, and the parts that forward takes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Number
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# The most items of a batch that are inspected, because this happens at every step.
_MOST_ITEMS = 1024
# Keys of targets, in lower case, and parts of such keys.
_LABELS = ("label", "target", "y")
_LABEL_PARTS = ("label", "target")


class Candidate(NamedTuple):
    """A possible split of a batch into forward's inputs and the loss's target.

    Attributes:
        inputs: positional inputs as a tuple, or keyword inputs as a mapping.
        target: the target; None if nothing is left for it.
        includes_target: whether forward takes a target among its inputs.
    """

    inputs: tuple[Any, ...] | Mapping[str, Any]
    target: Any = None
    includes_target: bool = False


def _items(value: Any) -> list[Any]:
    """The items of a container in a batch; none for text and bytes, and few of a long list."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value[:_MOST_ITEMS])
    if is_graph(value):
        return list(value.to_dict().values())
    return list(attributes_of(value).values())


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of a dataclass, or those of any other object that holds tensors.

    Of the latter, only tensors, plain values and containers of these, which cannot lead back to the
    object; none of anything else, such as a module or a class.
    """
    found = all_attributes(value)
    if is_dataclass(value):
        return found
    if not any(isinstance(item, Tensor) for item in found.values()):
        return {}
    return {
        name: item
        for name, item in found.items()
        if _is_plain(item)
        or (isinstance(item, Mapping | list | tuple) and all(map(_is_plain, _items(item))))
    }


def all_attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, with those in slots; none of a class, module or tensor."""
    if isinstance(value, type | Tensor | nn.Module) or callable(value):
        return {}
    slots = (vars(kind).get("__slots__", ()) for kind in type(value).__mro__)
    names = [name for own in slots for name in ((own,) if isinstance(own, str) else own)]
    names = [name for name in names if not name.startswith("__") and hasattr(value, name)]
    return {name: getattr(value, name) for name in names} | getattr(value, "__dict__", {})


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Tensor | str | bytes | Number)


def is_graph(value: Any) -> bool:
    """Whether a value is a graph, or a batch of graphs, of PyTorch Geometric."""
    return all(callable(getattr(value, name, None)) for name in ("to_dict", "apply", "size"))


def input_candidates(model: nn.Module, batch: Any) -> Iterator[Candidate]:
    """Possible inputs of forward from a batch, most likely first.

    Args:
        model: the model; its forward's signature gives the number and names of inputs.
        batch: as the data loader yields it.
    """
    signature = _Signature(model)
    if isinstance(batch, Tensor):
        yield Candidate((batch,))
    elif is_graph(batch):
        named = _inputs_among(batch.to_dict(), signature)
        yield Candidate((batch,), named.get("y"))
        yield from _of_mapping(signature, named)
    elif isinstance(batch, Mapping):
        whole = Candidate((batch,), _label_of(batch))
        yield from _of_mapping(signature, _inputs_among(batch, signature), whole)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        yield from _of_sequence(signature, batch)
    elif attributes := attributes_of(batch):
        named = _inputs_among(attributes, signature)
        yield Candidate((batch,), _label_of(named))
        yield from _of_mapping(signature, named)


def _inputs_among(named: Mapping[Any, Any], signature: _Signature) -> dict[Any, Any]:
    """What forward may take: tensors, and whatever else has the name of one of its parameters."""
    known = signature.names
    return {name: item for name, item in named.items() if name in known or tensors_within(item)}


class _Signature:
    """The arguments that a forward takes.

    Attributes:
        names: names of its parameters, in order.
        by_place: names of those that are accepted by position.
        fewest: number of required positional arguments.
        most: the most positional arguments it accepts.
        takes_any_name: whether it accepts further keyword arguments.
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
        self.by_place = [p.name for p in own if p.kind is not kinds.KEYWORD_ONLY]
        self.fewest = len(self.required & {*self.by_place})
        takes_any_number = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
        self.most = _MOST_ITEMS if takes_any_number else len(self.by_place)
        self.takes_any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters)


def _of_mapping(
    signature: _Signature, named: dict[Any, Any], whole: Candidate | None = None
) -> Iterator[Candidate]:
    """Candidates by name if forward knows the names, as a whole, or in order."""
    known = {name: value for name, value in named.items() if name in signature.names}
    target = _label_of({name: v for name, v in named.items() if name not in known}, sure=not known)
    if known and signature.required <= known.keys():
        others = {n: v for n, v in named.items() if n in known or not is_label(n)}
        includes_target = any(map(is_label, known))
        if signature.takes_any_name and len(others) > len(known):
            yield Candidate(others, target, includes_target)
        yield Candidate(known, target, includes_target)
    elif signature.takes_any_name or not named:
        yield Candidate(named, includes_target=any(map(is_label, named)))
        yield Candidate({name: v for name, v in named.items() if not is_label(name)}, target)
    if whole is not None:
        yield whole
    inputs = [value for name, value in named.items() if not is_label(name)]
    if inputs and not (known and signature.required <= known.keys()):
        yield from _in_order(signature, inputs, _label_of(named, sure=True))


def _of_sequence(signature: _Signature, batch: Sequence[Any]) -> Iterator[Candidate]:
    """Candidates from a sequence: the first item with all inputs, or the first items in order.

    A forward that takes the batch as a whole is likely if it calls it so.
    """
    items = list(batch)
    whole = Candidate((batch,), items[-1] if len(items) > 1 else None)
    if any("batch" in name and "size" not in name for name in signature.names[:1]):
        yield whole
    first, target = items[0], items[1] if len(items) > 1 else None
    if isinstance(first, Mapping):
        for candidate in _of_mapping(signature, dict(first), Candidate((first,))):
            yield candidate if target is None else candidate._replace(target=target)
    if is_graph(first):
        yield Candidate((first,), target)
    if isinstance(first, list | tuple):
        yield Candidate(tuple(first), target)  # several inputs, as torch collates them
        yield Candidate((first,), target)
    yield from _in_order(signature, items, None)
    yield whole


def _in_order(signature: _Signature, items: list[Any], target: Any) -> Iterator[Candidate]:
    """As many items as forward takes, with the next item as the target.

    Args:
        signature: the signature of forward.
        items: inputs, and perhaps a target.
        target: the target, if known.
    """
    count = len(items)
    fewest, most = max(signature.fewest, 1), min(signature.most, count)
    counts = [min(fewest, count)]
    labels = [place for place, name in enumerate(signature.by_place[:count]) if is_label(name)]
    # With three or more items, the last is the target if forward takes all others.
    if count > 2 and target is None and most >= count - 1 and fewest < count:
        counts.insert(0, count - 1)
    if labels and target is None:  # forward takes the target, too, and returns a loss
        counts.insert(0, max(labels[-1] + 1, fewest))
    counts += [most, 1, count]
    for used in dict.fromkeys(n for n in counts if n):
        left = items[used:]
        next_target = left[0] if target is None and left else target
        includes_target = any(place < used for place in labels)
        yield Candidate(tuple(items[:used]), next_target, includes_target)


def is_label(name: Any) -> bool:
    """Whether a key of a batch names a target."""
    text = str(name).lower()
    return text in _LABELS or any(part in text for part in _LABEL_PARTS)


def _label_of(named: Mapping[Any, Any], *, sure: bool = False) -> Any:
    """The target in the rest of a batch: by its key, else the last value.

    Args:
        named: the values by key.
        sure: accept only a value whose key names a target.
    """
    for name, value in named.items():
        if is_label(name):
            return value
    values = list(named.values())
    return None if sure or not values else values[-1]


def tensors_within(value: Any) -> bool:
    """Whether a value contains a tensor."""
    return next(tensors_in(value), None) is not None


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a batch or in a model's output."""
    if isinstance(value, Tensor):
        yield value
    for item in _items(value):
        yield from tensors_in(item)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A batch of the same structure with each tensor changed; other objects are shared."""
    return _rebuilt(value, lambda item: change(item) if isinstance(item, Tensor) else item)


def converted(value: Any, dtype: torch.dtype) -> Any:
    """A batch of the same structure with its floating-point tensors in another format."""
    return map_tensors(value, lambda t: t.to(dtype) if t.is_floating_point() else t)


def unshared(value: Any) -> Any:
    """A batch of the same structure, without shared objects that a step could modify.

    Each such object is replaced by one that does nothing.
    """

    def kept(item: Any) -> Any:
        return item if _is_plain(item) else object()

    return _rebuilt(value, kept)


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same structure with everything changed that is not a container."""
    if isinstance(value, Mapping):
        items = {name: _rebuilt(item, change) for name, item in value.items()}
        return items if type(value) is dict else _as(type(value), items)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_rebuilt(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_rebuilt(item, change) for item in value)
    if is_graph(value):
        return copy.copy(value).apply(change)
    if attributes := attributes_of(value):
        duplicate = copy.copy(value)
        for name, item in attributes.items():
            object.__setattr__(duplicate, name, _rebuilt(item, change))
        return duplicate
    return change(value)


def _as(kind: type, items: dict[Any, Any]) -> Any:
    try:
        return kind(items)
    except Exception:
        return items
