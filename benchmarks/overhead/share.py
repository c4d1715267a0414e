"""Parts A and B: the CPU time used by a tool, and the time of an epoch's edge.

The measuring process only sleeps; another one keeps the GPU busy.
"""

from __future__ import annotations

import contextlib
import random
import resource
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.overhead.children import touch_device
from benchmarks.overhead.tools import TOOLS, Tool

EPOCH_S = 2.0
WARM_EDGES = 10


def own_s() -> float:
    """CPU time (user and system) of this process and of its ended children, in seconds."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def others_s() -> float:
    """The same for the child processes that are still running."""
    seconds = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


def shares_of_a_core(name: str, quiet_s: float, epochs_s: float) -> dict[str, float]:
    """CPU time divided by elapsed time, within one long epoch and with an epoch every 2 s.

    Args:
        name: name of a tool.
        quiet_s: seconds within one epoch.
        epochs_s: seconds with epochs; skipped for a tool that is not told about them.
    """
    tool = _started(name)
    tool.begin()
    time.sleep(3.0)  # what it does once
    shares = {"quiet": _share(tool, quiet_s, quiet_s)}
    if tool.has_edges:
        shares["epochs"] = _share(tool, epochs_s, EPOCH_S)
    return shares


def _share(tool: Tool, seconds: float, every_s: float) -> float:
    # In this order, because looking for children takes time itself.
    before_s = others_s() + own_s()
    began_s = time.perf_counter()
    for number in range(1, max(1, round(seconds / every_s)) + 1):
        time.sleep(max(0.0, began_s + number * every_s - time.perf_counter()))
        if every_s < seconds:
            tool.edge()
    took_s = time.perf_counter() - began_s
    return (own_s() + others_s() - before_s) / took_s


def edge_times(name: str, edges: int) -> list[float]:
    """Milliseconds for which the end of an epoch and the start of the next block the caller.

    Args:
        name: name of a tool.
        edges: number of edges, which are 0.08 to 0.16 s apart.
    """
    tool = _started(name)
    chance = random.Random(0)
    tool.begin()
    took_ms = []
    for _ in range(edges + WARM_EDGES):
        time.sleep(chance.uniform(0.08, 0.16))
        began_s = time.perf_counter()
        tool.edge()
        took_ms.append(1e3 * (time.perf_counter() - began_s))
    return took_ms[WARM_EDGES:]


def _started(name: str) -> Tool:
    """Start a tool as in a training: torch is loaded and uses the GPU."""
    touch_device()
    tool = TOOLS[name]()
    tool.start(Path.cwd())
    return tool


def loaded(*arguments: Any) -> None:
    """Keep the GPU busy with `work.load`, imported here so that no measuring process loads it."""
    from benchmarks.overhead.work import load

    load(*arguments)
