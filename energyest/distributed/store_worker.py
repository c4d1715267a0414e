"""Queries a shared store in a thread of its own, so that a hanging store blocks nobody.

A store of torch.distributed answers over a network; if that is cut, it can block for half an hour.
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

# How long a process that exits waits for an answer, and after that for the thread to return.
_EXIT_S = 2.0
_CUT_S = 5.0

Question = Callable[[Store], None]


class Request:
    """A query that was sent to the worker."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.has_begun = self.succeeded = False
        self._done = threading.Event()
        _requests.add(self)

    def run(self, store: Store) -> None:
        """Run the query; errors, as when the store's process has ended, are suppressed."""
        self.has_begun = True
        try:
            self.question(store)
            self.succeeded = True
        except Exception as error:
            log.debug("energyest: the ranks cannot reach each other: %s", error)
        finally:
            self._done.set()

    def fail(self) -> None:
        """End the request without an answer: there is no store to ask."""
        self._done.set()

    def wait(self, timeout_s: float = 0.0) -> bool:
        """Wait for the request; return whether it has ended, successfully or not."""
        return self._done.wait(max(timeout_s, 0.0))


_requests: weakref.WeakSet[Request] = weakref.WeakSet()
_connections: weakref.WeakSet[StoreConnection] = weakref.WeakSet()


@atexit.register
def _let_finish() -> None:
    """Wait for answers for a while, then make the remaining queries fail."""
    _wait_for_all(_EXIT_S)
    for connection in list(_connections):
        connection.cut()
    _wait_for_all(_CUT_S)


def _wait_for_all(timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    for request in list(_requests):
        request.wait(give_up_s - time.monotonic())


def _leave_to_the_parent() -> None:
    """In a forked process, forget the parent's thread and connections."""
    _requests.clear()
    _connections.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class StoreWorker:
    """Queries a store, one request after the other.

    Args:
        store: key-value store. `close` releases it; otherwise it would hold its network port beyond
            the end of the training's process group.
    """

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._last: Request | None = None

    def send(self, question: Question) -> Request | None:
        """Queue a query and return at once.

        A query that is already waiting for its turn is not queued again.

        Returns:
            The request; None after `close`, or if no thread can be started.
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
            except RuntimeError as error:  # the process cannot start more threads
                log.debug("energyest: the ranks' store is not used: %s", error)
                return None
        self._last = Request(question)
        self._queue.put(self._last)
        return self._last

    def close(self) -> None:
        """Accept no further queries."""
        self._store = None
        self._queue.put(None)


def _serve(store: Store, requests: queue.SimpleQueue[Request | None]) -> None:
    connection = None
    try:
        connection = StoreConnection(store)
        _connections.add(connection)
    except Exception as error:
        log.debug("energyest: the ranks' store cannot be reached: %s", error)
    del store  # a reference would keep its port in use
    while (request := requests.get()) is not None:
        if connection is None:
            request.fail()
        else:
            request.run(connection)
