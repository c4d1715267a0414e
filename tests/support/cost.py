"""The cost of an action, independent of other load on the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def costs_at_most(cpu_s: float) -> Iterator[None]:
    """The processor's time of this process, in seconds, all of its threads included."""
    began_s = time.process_time()
    yield
    took_s = time.process_time() - began_s
    assert took_s < cpu_s, f"{took_s:.3g} s of the processor's time"


def cost_in_calls(action: Callable[[], object], *, repetitions: int = 1) -> float:
    """How many calls of a plain method cost this thread as much as `action`.

    A slow or busy machine takes longer for both, so the ratio says what the code costs. Each time
    is the least of several, measured in turns.
    """
    counter = _Counter()
    actions_s, calls_s = [], []
    for _ in range(10):
        calls_s.append(_thread_s(counter.count, 1000))
        actions_s.append(_thread_s(action, repetitions))
    return min(actions_s) / min(calls_s)


class _Counter:
    def __init__(self) -> None:
        self.number = 0

    def count(self) -> int:
        self.number += 1
        return self.number


def _thread_s(action: Callable[[], object], repetitions: int) -> float:
    """Seconds of this thread for one call of `action`."""
    began_s = time.thread_time()
    for _ in range(repetitions):
        action()
    return (time.thread_time() - began_s) / repetitions
