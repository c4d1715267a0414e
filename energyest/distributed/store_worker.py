"""Asks a store that processes share in a thread of its own: one that hangs holds up nobody.

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

from energyest.distributed.store_connection import Store, StoreConnection

log = logging.getLogger("energyest")

# How long the end of the process waits for an answer, and then for the thread to come back.
_EXIT_S = 2.0
_CUT_S = 5.0

Question = Callable[[Store], None]


class Request:
    """A question that was sent off."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.has_begun = self.succeeded = False
        self._done = threading.Event()
        _requests.add(self)

    def run(self, store: Store) -> None:
        """Ask the store; what it raises, as it does when its process has ended, is held back."""
        self.has_begun = True
        try:
            self.question(store)
            self.succeeded = True
        except Exception as error:
            log.debug("energyest: the ranks cannot reach each other: %s", error)
        finally:
            self._done.set()

    def fail(self) -> None:
        """There is nobody to ask."""
        self._done.set()

    def wait(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, well or not."""
        return self._done.wait(max(timeout_s, 0.0))


_requests: weakref.WeakSet[Request] = weakref.WeakSet()
_connections: weakref.WeakSet[StoreConnection] = weakref.WeakSet()


@atexit.register
def _let_finish() -> None:
    """Wait for answers for a while; what is still asked then comes back with an error."""
    _wait_for_all(_EXIT_S)
    for connection in list(_connections):
        connection.cut()
    _wait_for_all(_CUT_S)


def _wait_for_all(timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    for request in list(_requests):
        request.wait(give_up_s - time.monotonic())


def _leave_to_the_parent() -> None:
    """In a forked process: the thread is the parent's, and so are its connections."""
    _requests.clear()
    _connections.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


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
        """Ask a question, once those before are answered; returns at once.

        The same question is not asked twice if it waits for its turn already.

        Returns:
            What comes of it; None after the end.
        """
        if self._store is None:
            return None
        if self._last is not None and self._last.question == question and not self._last.has_begun:
            return self._last
        if self._last is None:
            thread = threading.Thread(
                target=_serve, args=(self._store, self._queue), name="energyest-store", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the process can have no more of them
                log.debug("energyest: the ranks' store is not asked: %s", error)
                return None
        self._last = Request(question)
        self._queue.put(self._last)
        return self._last

    def close(self) -> None:
        """Nothing is asked any more."""
        self._store = None
        self._queue.put(None)


def _serve(store: Store, requests: queue.SimpleQueue[Request | None]) -> None:
    connection = None
    try:
        connection = StoreConnection(store)
        _connections.add(connection)
    except Exception as error:
        log.debug("energyest: the ranks' store cannot be reached: %s", error)
    del store  # what holds it would hold its port
    while (request := requests.get()) is not None:
        if connection is None:
            request.fail()
        else:
            request.run(connection)
