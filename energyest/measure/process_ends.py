"""End a run with its process, and protect it in forked processes."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

from energyest.measure.signals import SharedLock

# How long a process that exits waits for each part of a run that nobody ended.
_EXIT_S = 1.0


class _Running(Protocol):
    _lock: Any

    def stop(self, status: str, *, timeout_s: float) -> None: ...


_runs: weakref.WeakSet[_Running] = weakref.WeakSet()


def watch(run: _Running) -> weakref.finalize[..., Any]:
    """End the run when its process exits, until `detach` of the returned object is called."""
    _runs.add(run)
    # Its threads keep a running recorder alive; the exit handler must not, so it gets a weakref.
    return weakref.finalize(run, _stop, weakref.ref(run))


def _stop(run: weakref.ref[_Running]) -> None:
    """End a run that nobody ended, as after an exit deep within, or an error in another's code."""
    running = run()
    if running is not None:
        running.stop("interrupted by the end of the process", timeout_s=_EXIT_S)


def _leave_to_the_parent() -> None:
    """Replace the locks in a forked process: threads that it lacks may hold them."""
    for run in list(_runs):
        run._lock = SharedLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
