"""Protection from a user's signal handlers, which may call the monitor or raise at any time.

Python runs them in the main thread, between any two of its steps; other threads go on. So the main
thread changes shared state only in single steps, and leaves changes of several steps to another
thread.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

R = TypeVar("R")

# How often a waiting thread checks whether the other thread can still answer.
_LOOK_S = 1.0


class SharedLock(_thread.RLock):  # type: ignore[misc]
    """A reentrant lock: a signal handler may take it again in the thread that it interrupts.

    Acquiring and releasing it are single steps, unlike those of a lock written in Python.
    """

    @property
    def is_held(self) -> bool:
        """Whether this thread holds it."""
        return bool(super()._is_owned())  # type: ignore[misc]  # as `threading.Condition` does

    def locked(self) -> bool:
        """Whether any thread holds it."""
        if self.is_held:
            return True
        if is_free := self.acquire(blocking=False):
            self.release()
        return not is_free


class Alarm:
    """A `threading.Event` without a lock that waiting or setting threads would hold."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wake the waiting thread, or the one that waits next."""
        self._calls.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is set, or until the timeout; return whether it was set."""
        try:
            self._calls.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return False
        return True

    def clear(self) -> None:
        """Forget that it was set."""
        while not self._calls.empty():
            with contextlib.suppress(queue.Empty):
                self._calls.get_nowait()


def uninterrupted(
    action: Callable[[], R], *, lock: SharedLock | None = None, to_the_end: bool = False
) -> R:
    """Run an action that no signal handler may interrupt, and wait for it.

    An exception that a handler raises meanwhile is raised here; the action is completed anyway.

    Args:
        action: the action; it runs in another thread if handlers may interrupt this one.
        lock: the lock that the action takes. If this thread already holds it, because a handler
            interrupted the holder, the action runs here.
        to_the_end: raise a handler's exception only when the action is done; a second one, as after
            an impatient Ctrl-C, is raised at once.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or (lock is not None and lock.is_held):
        return action()
    results: queue.SimpleQueue[tuple[R | None, BaseException | None]] = queue.SimpleQueue()

    def act() -> None:
        try:
            results.put((action(), None))
        except BaseException as error:
            results.put((None, error))

    try:
        threading.Thread(target=act, name="energyest-aside", daemon=True).start()
    except RuntimeError:  # no thread can be started: the process is exiting, or at its limit
        return action()
    interruption: BaseException | None = None
    try:
        result, error = _wait(results)
    except BaseException as raised:
        if not to_the_end:
            raise
        interruption = raised
        result, error = _wait(results)
    if interruption is not None:
        raise interruption
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where the action gives it


def _wait(results: queue.SimpleQueue[R]) -> R:
    pid = os.getpid()
    while True:
        try:
            return results.get(timeout=_LOOK_S)
        except queue.Empty:
            if os.getpid() != pid:  # a handler forked, and this is the child
                raise ChildProcessError("the thread that was waited for is the parent's") from None


def raised_by_handler(error: BaseException) -> bool:
    """Whether an exception was raised by a signal handler, not by the monitor itself.

    Python calls a handler with the frame that it interrupts, and the traceback shows both frames. A
    handler that has deleted that argument is recognised while it is registered.
    """
    if not isinstance(error, Exception):
        return True  # Ctrl-C, exits: our own code never raises these
    handlers = set(_codes_of_handlers())
    interrupted: FrameType | None = None
    for frame in _frames(error.__traceback__):
        if frame.f_code in handlers or (interrupted is not None and _is_given(frame, interrupted)):
            return True
        interrupted = frame
    return False


def let_handlers_raise(error: BaseException) -> None:
    """In an `except Exception` block: re-raise the error if it comes from a signal handler."""
    if raised_by_handler(error):
        raise error


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _is_given(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether a function was called with the interrupted frame, as signal handlers are."""
    code = frame.f_code
    arguments = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 0x04)
    for name in code.co_varnames[:arguments]:
        value = frame.f_locals.get(name)
        if value is interrupted or (isinstance(value, tuple) and _holds(value, interrupted)):
            return True
    return False


def _holds(values: tuple[Any, ...], interrupted: FrameType) -> bool:
    return any(value is interrupted for value in values)


def _codes_of_handlers() -> Iterator[object]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        for _ in range(10):  # partial objects, bound methods, callable objects, decorators
            if handler is None or hasattr(handler, "__code__"):
                break
            inner = getattr(handler, "func", None) or getattr(handler, "__func__", None)
            handler = inner or getattr(type(handler), "__call__", None)  # noqa: B004
        while handler is not None:
            yield getattr(handler, "__code__", None)
            handler = getattr(handler, "__wrapped__", None)
