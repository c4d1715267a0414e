"""What becomes of a run whose process ends, or forks, beside it."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

from energyest.measure.signals import SharedLock

# How long the end of a process waits for each part of a run that nobody ended.
_EXIT_S = 1.0


class _Running(Protocol):
    _lock: Any

    def stop(self, status: str, *, timeout_s: float) -> None: ...


_runs: weakref.WeakSet[_Running] = weakref.WeakSet()


def watch(run: _Running) -> weakref.finalize[..., Any]:
    """From now on, the run ends with its process; `detach` of what is returned ends that."""
    _runs.add(run)
    # Its threads hold a recorder that runs, but nothing that is called at the exit does.
    return weakref.finalize(run, _stop, weakref.ref(run))


def _stop(run: weakref.ref[_Running]) -> None:
    """Nobody ended this run: an exit from deep within, or an error in another's end of it."""
    running = run()
    if running is not None:
        running.stop("interrupted by the end of the process", timeout_s=_EXIT_S)


def _leave_to_the_parent() -> None:
    """In a forked process: its copies of locks may be held by threads that it has not."""
    for run in list(_runs):
        run._lock = SharedLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
