"""Carries questions to a store that processes share, in a thread: one that hangs holds up nobody.

A store of torch.distributed answers over a network, and where that is cut it can block for half an
hour.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("energyest")

# How long the end of the process waits for an answer.
_EXIT_S = 2.0


class Store(Protocol):
    """What is asked of a store of torch.distributed."""

    def set(self, key: str, value: str) -> None: ...  # noqa: D102
    def check(self, keys: list[str]) -> bool: ...  # noqa: D102
    def get(self, key: str) -> bytes: ...  # noqa: D102
    def delete_key(self, key: str) -> bool: ...  # noqa: D102


Question = Callable[[Store], None]


class Request:
    """A question that was sent off."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.succeeded = False
        self._done = threading.Event()
        _requests.add(self)

    def run(self, store: Store) -> None:
        """Ask the store; what it raises, as it does when its process has ended, is held back."""
        try:
            self.question(store)
            self.succeeded = True
        except Exception as error:
            log.debug("energyest: the ranks cannot reach each other: %s", error)
        finally:
            self._done.set()

    def wait(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, well or not."""
        return self._done.wait(max(timeout_s, 0.0))


_requests: weakref.WeakSet[Request] = weakref.WeakSet()
os.register_at_fork(after_in_child=_requests.clear)  # their thread is the parent's


@atexit.register
def _let_finish() -> None:
    """A thread that comes back from a store while Python ends would abort the whole process.

    Python ends such a thread by unwinding its stack, and the store's C++ does not allow that.
    """
    give_up_s = time.monotonic() + _EXIT_S
    for request in list(_requests):
        request.wait(give_up_s - time.monotonic())


class StoreWorker:
    """Asks a store one question after the other.

    Args:
        store: key-value store; it is let go by `close`, for it would hold its network port beyond
            the end of the training's process group.
    """

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._last: Request | None = None

    def send(self, question: Question) -> Request | None:
        """Ask a question; None while the one before has no answer, or after the end."""
        if self._store is None or (self._last is not None and not self._last.wait()):
            return None
        if self._last is None:
            threading.Thread(
                target=_serve, args=(self._store, self._queue), name="energyest-store", daemon=True
            ).start()
        self._last = Request(question)
        self._queue.put(self._last)
        return self._last

    def close(self) -> None:
        """Nothing is asked any more."""
        self._store = None
        self._queue.put(None)


def _serve(store: Store, requests: queue.SimpleQueue[Request | None]) -> None:
    while (request := requests.get()) is not None:
        request.run(store)
