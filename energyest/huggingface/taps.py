"""`Tap`: tells when a method of one Trainer is called.

A Trainer's events tell neither what a batch holds nor when an evaluation begins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

_NOTHING = object()


class Tap:
    """Stands in for a method of an object until it is removed; what the method does is unchanged.

    Args:
        owner: the object.
        name: of the method.
        before: called with the method's arguments; None for nothing.
        after: called with None when the method has returned, or with what it has raised.
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
        # A user may have put a function of their own in its place.
        self._replaced = vars(owner).get(name, _NOTHING)
        self._is_on = True
        functools.update_wrapper(self, self._method)
        setattr(owner, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method, and tell of it."""
        if not self._is_on:  # somebody has kept it
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
        """Give the owner its method back, unless something else has taken its place."""
        self._is_on = False
        if vars(self._owner).get(self._name) is self:
            if self._replaced is _NOTHING:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, self._replaced)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the owner has its own method, and no tap."""
        copied = memo.get(id(self._owner))
        if copied is None or not isinstance(self._method, MethodType):
            return self._method
        return MethodType(self._method.__func__, copied)
