"""Threads of the package: which a test has left, and how to end them."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

from energyest.distributed.store_worker import StoreWorker
from energyest.measure.recorder import Recorder

# How long a thread may take to end when asked to: a call that hangs in a test ends with it.
ENDS_WITHIN_S = 30.0


def is_within(condition: Callable[[], object], timeout_s: float = 60.0) -> bool:
    """Wait until something holds; on any machine that should be long before the time is up."""
    give_up_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    return bool(condition())


def own_threads() -> set[threading.Thread]:
    """The threads of the package that are alive."""
    return {t for t in threading.enumerate() if t.name.startswith("energyest")}


def end_those_since(before: set[threading.Thread]) -> list[str]:
    """End the threads that did not exist before; return a description of what was left running.

    A stopped recorder may still have a thread that hangs in a call: that thread will return.
    """

    def left() -> set[threading.Thread]:
        return own_threads() - before

    if not left():
        return []
    faults = []
    # Nobody but the garbage collector knows them all.
    for found in gc.get_objects():
        if type(found) is Recorder and found._sampler._thread in left() and not found._stopped:
            faults.append("a recorder that was not stopped")
            found.stop("left by a test")
        elif type(found) is StoreWorker and found._store is not None:
            faults.append("a store worker that was not closed")
            found.close()
    if not is_within(lambda: not left(), ENDS_WITHIN_S):
        faults += sorted(f"{thread.name}, which does not end" for thread in left())
    return faults
