"""Keeps the monitor's own errors, and no others, away from the training it watches."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from energyest.errors import MissingDependencyError
from energyest.measure.signals import let_handlers_raise

log = logging.getLogger("energyest")
P = ParamSpec("P")
R = TypeVar("R")


def never_raises(method: Callable[P, R]) -> Callable[P, R | None]:
    """Decorate a method to log its errors, once per object and method, instead of raising them.

    Only errors of the monitor are held back. Ctrl-C, exits, and exceptions that a signal handler
    raises while the method runs, all pass.
    """

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            let_handlers_raise(error)
            _report(args[0], method.__qualname__, error)
            return None

    return guarded


def _report(owner: Any, name: str, error: Exception) -> None:
    reported = vars(owner).setdefault("_reported_errors", set())
    if name in reported:
        return
    reported.add(name)
    if isinstance(error, MissingDependencyError):  # it says what to install; nothing failed
        log.warning("energyest: %s", error)
        return
    log.warning(
        "energyest: %s failed; training continues, but its energy record may be incomplete",
        name,
        exc_info=True,
    )
