"""Work that may hang, in a thread of its own, so that nobody waits for it long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

# How long the start of a run waits for a driver or a disk that does not answer. Together with the
# other work at the start, this delays a training by less than 2 s.
PATIENCE_S = 1.5

T = TypeVar("T")


class Errand(Generic[T]):
    """Work in a daemon thread: if it never ends, the process can still exit.

    If no further thread can be started, the work runs in the calling thread.

    Args:
        work: what to do.
        name: name of the thread.
    """

    def __init__(self, work: Callable[[], T], name: str) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._is_done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._then: Callable[[], object] | None = None
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name=f"energyest-{name}", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            self._run()

    @property
    def is_done(self) -> bool:
        """Whether the work has ended."""
        return self._is_done  # no lock: a signal handler may ask while it is held

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the work is done, or until the timeout; return whether it is done."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self.is_done

    def result(self) -> T:
        """Wait for the work and return its result, or raise the exception that it raised."""
        if not self.is_done:
            self.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def when_done(self, then: Callable[[], object]) -> None:
        """Call `then` once the work is done: in its thread, or now if it already is."""
        with self._lock:
            if not self._is_done:
                self._then = then
                return
        then()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # raised where the result is asked for
            self._error = error
        with self._lock:
            self._is_done = True
            then = self._then
        if then is not None:
            then()
