"""Part D: a tool's GPU energy of each epoch, compared with the GPU's energy counter.

A separate process reads the counter all the time. The counter is updated every 0.1 s: its value at
the edge of an epoch is interpolated linearly between the instants at which it changed. An epoch
lasts from the return of the call that begins it to the call that ends it, so GPU energy during the
tool's own work belongs to no epoch. Every tool measures the same epochs in a separate pass.
"""

from __future__ import annotations

import multiprocessing as mp
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.overhead.tools import TOOLS

# Length of an epoch in seconds, and how many of them.
PLAN = ((0.5, 40), (2.0, 20), (8.0, 8))
# How long the counter is read before the first and after the last epoch.
_MARGIN_S = 0.5


def epoch_energies(name: str, plan: list[tuple[float, int]]) -> dict[str, Any]:
    """Train epochs of mixed work under a tool.

    Args:
        name: name of the tool.
        plan: lengths of epochs in seconds, and the number of each.

    Returns:
        For each epoch its planned length, its edges in seconds, the counter's joules and the
        tool's joules, which are NaN if it gave none; and how often per second the counter was read.
    """
    from benchmarks.overhead.work import MixedWork

    work = MixedWork()
    tool = TOOLS[name]()
    tool.start(Path.cwd())
    work.epoch("warm", 3.0)
    context = mp.get_context("spawn")
    is_ready, stop = context.Event(), context.Event()
    file = Path.cwd() / "counter.npy"
    reader = context.Process(target=read_counter, args=(file, is_ready, stop), daemon=True)
    reader.start()
    if not is_ready.wait(120):
        raise RuntimeError("the process that reads the counter has not begun")
    time.sleep(_MARGIN_S)
    epochs: list[tuple[float, float, float]] = []
    lengths = [(length_s, number) for length_s, count in plan for number in range(count)]
    for length_s, number in lengths:
        tool.begin()
        start_s = time.monotonic()
        work.epoch(f"{length_s} {number}", length_s)
        epochs.append((length_s, start_s, time.monotonic()))
        tool.end()
    time.sleep(_MARGIN_S)
    stop.set()
    reader.join(30)
    tool.stop()
    counter = np.load(file)
    planned_s, starts_s, ends_s = (np.array(column) for column in zip(*epochs, strict=True))
    instants_s, counted_J = changes(counter)
    true_J = np.interp(ends_s, instants_s, counted_J) - np.interp(starts_s, instants_s, counted_J)
    said_J = np.full(len(epochs), np.nan)
    said_J[: len(tool.energies_J)] = tool.energies_J[: len(epochs)]
    return {
        "planned_s": planned_s.tolist(),
        "duration_s": (ends_s - starts_s).tolist(),
        "true_J": true_J.tolist(),
        "said_J": said_J.tolist(),
        "reads_per_s": float(len(counter) / (counter[-1, 0] - counter[0, 0])),
        "changes_per_s": float((len(instants_s) - 1) / (instants_s[-1] - instants_s[0])),
    }


def changes(counter: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The times at which the counter changed, halfway between two reads, and its new values.

    Args:
        counter: the midpoint of each read in seconds, and joules, of shape (reads, 2).
    """
    time_s, joules = counter.T
    after = np.flatnonzero(np.diff(joules)) + 1
    return (time_s[after - 1] + time_s[after]) / 2, joules[after]


def read_counter(file: Path, is_ready: Any, stop: Any) -> None:
    """Read the counter as fast as it answers, but at most 500 times a second."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    rows: list[tuple[float, float]] = []
    is_ready.set()
    parent = mp.parent_process()
    while not stop.is_set() and (parent is None or parent.is_alive()):
        before_s = time.monotonic()
        joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        after_s = time.monotonic()
        rows.append(((before_s + after_s) / 2, joules))
        time.sleep(max(0.0, before_s + 0.002 - after_s))
    np.save(file, np.array(rows))
