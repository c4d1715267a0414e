"""Work that may take for ever, in a thread of its own, so that nobody waits for it for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

# How long the beginning of a run waits for a driver, or for a disk, that does not answer. Together
# with what else is done then, a training begins less than 2 s later.
PATIENCE_S = 1.5

T = TypeVar("T")


class Errand(Generic[T]):
    """Work that has begun, in a daemon thread: one that never ends holds up no end of a process.

    Where the process can have no further thread, it is done at once by whoever asks for it.

    Args:
        work: what to do.
        name: of the thread.
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
        """Whether it has come to its end."""
        return self._is_done  # without the lock: a signal handler may ask where it is held

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done, or for so long; returns whether it is."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self.is_done

    def result(self) -> T:
        """What it came to; waits for it. Raises what it has raised."""
        if not self.is_done:
            self.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def when_done(self, then: Callable[[], object]) -> None:
        """Call this as soon as it is done: at its end in its thread, or now if that has come."""
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
