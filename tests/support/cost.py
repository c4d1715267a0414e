"""The cost of an action, independent of other load on the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def costs_at_most(cpu_s: float) -> Iterator[None]:
    """The processor's time of this process, in seconds, all of its threads included."""
    began_s = time.process_time()
    yield
    took_s = time.process_time() - began_s
    assert took_s < cpu_s, f"{took_s:.3g} s of the processor's time"
