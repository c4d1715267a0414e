"""`Tap`: reports calls of a method of one Trainer.

A Trainer's events show neither the batch nor the start of an evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

_NOTHING = object()


class Tap:
    """Wraps a method of an object, without changing what it does, until removed.

    Args:
        owner: the object.
        name: name of the method.
        before: called with the method's arguments before the method; None for nothing.
        after: called with None after the method has returned, or with the exception it raised.
    """

    def __init__(
        self,
        owner: Any,
        name: str,
        before: Callable[..., None] | None,
        after: Callable[[BaseException | None], None],
    ) -> None:
        self._owner, self._name = owner, name
        self._method = getattr(owner, name)
        self._before, self._after = before, after
        # A user may already have replaced the method.
        self._replaced = vars(owner).get(name, _NOTHING)
        self._is_on = True
        functools.update_wrapper(self, self._method)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method and report the call."""
        if not self._is_on:  # a reference was kept after removal
            return self._method(*args, **kwargs)
        if self._before is not None:
            self._before(*args, **kwargs)
        try:
            result = self._method(*args, **kwargs)
        except BaseException as error:
            self._after(error)
            raise
        self._after(None)
        return result

    def remove(self) -> None:
        """Restore the owner's method, unless it was replaced again since."""
        self._is_on = False
        if vars(self._owner).get(self._name) is self:
            if self._replaced is _NOTHING:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._replaced)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Give a copy of the owner its own method, without a tap."""
        copied = memo.get(id(self._owner))
        if copied is None or not isinstance(self._method, MethodType):
            return self._method
        return MethodType(self._method.__func__, copied)
