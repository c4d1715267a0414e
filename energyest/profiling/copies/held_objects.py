"""What a deep copy of a model would reach: its tensors, and objects that cannot be copied."""

from __future__ import annotations

import copyreg
import logging
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

# Large objects that a model may hold and that take no part in forward.
SHARED = (torch.utils.data.Dataset, torch.utils.data.DataLoader)
# Smaller arrays are copied, because a step may write to them.
_LARGEST_COPIED_ARRAY_bytes = 2**20
# Objects that cannot be copied, and that a copy may use as the original does: they keep no tensors.
_USED_BY_BOTH: tuple[type, ...] = (
    *(types.ModuleType, type(threading.Lock()), type(threading.RLock()), logging.Handler),
)
# What `copy.deepcopy` does not copy, except for classes.
_ATOMS = {
    *(type(None), int, float, bool, complex, bytes, str, range, type(...), type(NotImplemented)),
    *(types.CodeType, types.FunctionType, types.BuiltinFunctionType, property),
}


class Held(NamedTuple):
    """The contents of a model.

    Attributes:
        tensors: all tensors, each once.
        instead: `id` of an object that is not copied -> what a copy gets in its place: the object
            itself, or something that ends the step as soon as it is used.
    """

    tensors: list[Tensor]
    instead: dict[int, Any]


class LeftOut:
    """Takes the place of an object that cannot be copied; whatever is done with it is refused.

    Args:
        name: the attribute that holds the object.
        value: the object.
    """

    def __init__(self, name: str, value: Any) -> None:
        vars(self).update(_name=name, _kind=type(value).__name__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # as `copy` and `inspect` ask for
            raise AttributeError(name)
        self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"the step uses {self._name}, a {self._kind}, which cannot be copied: describe the"
            " model without it"
        )

    __call__ = __iter__ = __next__ = __len__ = __getitem__ = __contains__ = _refuse
    __enter__ = __setitem__ = __setattr__ = _refuse


def held_by(model: nn.Module) -> Held:
    """The contents of a model, found as `copy.deepcopy` finds them."""
    held = Held([], {})
    seen: dict[int, Any] = {}  # a reference keeps the `id` from being reused
    root = type(model).__name__
    pending: list[tuple[str, Any]] = [
        (f"{root}.{name}" if name else root, part) for name, part in model.named_modules()
    ]
    while pending:
        name, value = pending.pop()
        kind = type(value)
        if kind in _ATOMS or issubclass(kind, type) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, Tensor):
            held.tensors.append(value)
        elif isinstance(value, (*SHARED, *_USED_BY_BOTH)) or _is_standard_stream(value):
            held.instead[id(value)] = value
        elif isinstance(value, np.ndarray) and value.nbytes > _LARGEST_COPIED_ARRAY_bytes:
            held.instead[id(value)] = view = value.view()
            view.flags.writeable = False
        else:
            try:
                pending.extend(part for part in _parts(name, value) if type(part[1]) not in _ATOMS)
            except Exception:  # what cannot be taken apart cannot be copied
                held.instead[id(value)] = LeftOut(name, value)
    return held


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The objects that are copied with an object, with names for them.

    Raises:
        Exception: the object cannot be copied.
    """
    if isinstance(value, nn.Module):
        yield from ((f"{name}.{key}", item) for key, item in _state_of(value).items())
    elif type(value) in (list, tuple, set, frozenset):
        yield from ((name, item) for item in value)
    elif type(value) is dict:
        yield from ((name, item) for pair in value.items() for item in pair)
    elif isinstance(value, types.MethodType):
        yield name, value.__self__
    elif hasattr(type(value), "__del__"):
        # Deleting the copy could release what the original still needs.
        raise TypeError(f"a {type(value).__name__} cannot be copied safely")
    elif hasattr(type(value), "__deepcopy__"):
        yield from ((name, item) for item in getattr(value, "__dict__", {}).values())
    else:
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        if not isinstance(reduced, str):
            _, arguments, *others = reduced
            yield name, arguments
            for part in others:  # the state, and iterators over items, made for the copy
                items = part if isinstance(part, Iterator) else (part,)
                yield from ((name, item) for item in items)


def _state_of(module: nn.Module) -> dict[str, Any]:
    """The attributes that are copied with a module: of a LightningModule, not its Trainer."""
    if type(module).__reduce_ex__ is object.__reduce_ex__ and hasattr(module, "__getstate__"):
        with suppress(Exception):  # as of a scripted module
            state = module.__getstate__()
            if isinstance(state, dict):
                return state
    return vars(module)


def _is_standard_stream(value: Any) -> bool:
    return any(value is stream for stream in (sys.stdin, sys.stdout, sys.stderr))
