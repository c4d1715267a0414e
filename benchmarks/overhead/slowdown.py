"""Parts C and G: the slowdown of a training, from short blocks with and without a tool in turn.

A run is started once and continues throughout; between its blocks its thread waits at a gate, so
that neither its start nor its end is in a block. No epoch ends in a block: part B shows the cost of
that. The GPU is synchronised at the end of a block. Work that a thread does by the clock, not by
its rounds, happens as often in half of the blocks as it would in all of them, so a slowdown is
overstated rather than understated.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead.power_readers import ProcessReader, ThreadReader
from benchmarks.overhead.tools import TOOLS, Gate
from benchmarks.overhead.work import TRAININGS, Training, launch_bound, wait_for_gpu

WARM_S = 3.0


@dataclass(frozen=True)
class State:
    """A way to run a block.

    Attributes:
        name: its name.
        enter: called before the block.
        leave: called after the block.
    """

    name: str
    enter: Callable[[], None] = lambda: None
    leave: Callable[[], None] = lambda: None


def in_turn(
    training: Training, states: list[State], rounds: int, block_s: float
) -> dict[str, list[float]]:
    """Seconds of a step in each state, once per round, in an order drawn for each round."""
    ends_s = time.perf_counter() + WARM_S
    warm = 0
    while time.perf_counter() < ends_s or warm < 10 * training.unit:
        training.step()
        warm += 1
    steps = _steps_of(training, block_s)
    chance = random.Random(0)
    step_s: dict[str, list[float]] = {state.name: [] for state in states}
    for _ in range(rounds):
        for state in chance.sample(states, len(states)):
            state.enter()
            began_s = time.perf_counter()
            for _ in range(steps):
                training.step()
            wait_for_gpu()
            took_s = time.perf_counter() - began_s
            state.leave()
            step_s[state.name].append(took_s / steps)
    return step_s


def _steps_of(training: Training, block_s: float) -> int:
    """The number of steps in a block."""
    took_s = []
    for _ in range(3):
        wait_for_gpu()
        began_s = time.perf_counter()
        for _ in range(5 * training.unit):
            training.step()
        wait_for_gpu()
        took_s.append((time.perf_counter() - began_s) / 5)
    return training.unit * max(1, round(block_s / sorted(took_s)[1]))


def tool_in_turn(name: str, tool_name: str, pairs: int, block_s: float) -> dict[str, Any]:
    """A training with and without a tool.

    Returns:
        Seconds of a step in pairs, `with` and `without`, and the CPU time of the tool's Python
        threads per second of each kind, which shows whether it really rested.
    """
    training = TRAININGS[name]()
    tool = TOOLS[tool_name]()
    gate = Gate(tool.interval_s)
    before = set(threading.enumerate())
    training.step()  # torch starts its threads and CUDA
    tool.start(Path.cwd(), gate)
    tool.begin()
    own = [thread for thread in threading.enumerate() if thread not in before]
    spent_s, blocks_s = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    mark = [time.perf_counter(), _threads_s(own)]

    def count(is_on: bool) -> None:
        now_s, used_s = time.perf_counter(), _threads_s(own)
        blocks_s[is_on] += now_s - mark[0]
        spent_s[is_on] += used_s - mark[1]
        mark[:] = now_s, used_s

    def enter() -> None:
        count(False)
        gate.open()

    def leave() -> None:
        gate.close()
        count(True)

    gate.close()
    states = [State("without"), State("with", enter, leave)]
    step_s = in_turn(training, states, pairs, block_s)
    count(False)
    gate.open()
    tool.stop()
    training.close()
    shares = {kind: spent_s[is_on] / blocks_s[is_on] for kind, is_on in _KINDS}
    return {**step_s, "threads": [thread.name for thread in own], "share": shares}


_KINDS = (("with", True), ("without", False))


def _threads_s(threads: list[threading.Thread]) -> float:
    """CPU time of these threads, in seconds."""
    total = 0
    for thread in threads:
        try:
            path = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            total += int(path.read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            continue
    return total / 1e9


def readers_in_turn(rounds: int, block_s: float) -> dict[str, Any]:
    """The launch-bound training with readers of the GPU's instantaneous power.

    A reader is a thread of this process or a separate process, at 10 or 100 Hz: the latter shows
    the cost of a reading when the effect of 10 Hz is lost in noise.

    Returns:
        Seconds of a step with each reader and without, and the number of readings of each.
    """
    training = launch_bound()
    training.step()
    readers = {
        f"{kind}, {rate_hz} Hz": make(rate_hz)
        for rate_hz in (10, 100)
        for kind, make in (("thread", ThreadReader), ("process", ProcessReader))
    }
    states = [State(name, enter=one.resume, leave=one.suspend) for name, one in readers.items()]
    step_s = in_turn(training, [State("nothing"), *states], rounds, block_s)
    readings = {name: one.count for name, one in readers.items()}
    for one in readers.values():
        one.stop()
    return {**step_s, "readings": readings}
