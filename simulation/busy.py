"""How long threads had to wait for a processor because others were busy.

Linux tells it of each thread. What is judged by the clock is judged without it, and so holds on any
machine; where it is not told, it is taken to be 0.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def waited_s() -> float:
    """Of the thread that asks, since it began."""
    return _of(Path("/proc/thread-self"))


def all_waited_s(pid: int | str = "self") -> float:
    """Of all threads of a process that are alive, together."""
    with contextlib.suppress(OSError):
        return sum(_of(thread) for thread in Path(f"/proc/{pid}/task").iterdir())
    return 0.0


def held_up_s(action: Callable[[], object]) -> float:
    """Seconds that a call takes, without those in which its thread only waits for a processor."""
    began_s, before_s = time.monotonic(), waited_s()
    action()
    return time.monotonic() - began_s - (waited_s() - before_s)


def _of(thread: Path) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Nanoseconds on a processor, and in wait for one.
        return int((thread / "schedstat").read_text().split()[1]) / 1e9
    return 0.0
