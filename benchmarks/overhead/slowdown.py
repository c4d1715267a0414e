"""The slowdown of a training, from short blocks with and without a tool in turn.

For parts C and G, and for trainings on several GPUs (`benchmarks.ranks`).

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
from benchmarks.overhead.tools import TOOLS, Gate, Tool
from benchmarks.overhead.work import TRAININGS, Training, launch_bound, wait_for_gpu

WARM_S = 3.0
# Makes a number the same in all processes of a training: that of the first of them.
Agree = Callable[[int], int]


def alone(number: int) -> int:
    """The number itself, in a training of one process."""
    return number


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
    training: Training,
    states: list[State],
    rounds: int,
    block_s: float,
    agree: Agree = alone,
) -> dict[str, list[float]]:
    """Seconds of a step in each state, once per round, in an order drawn for each round.

    In a training of several processes, each has to call this with the same arguments.
    """
    warm_up(training, agree)
    steps = steps_of(training, block_s, agree)
    chance = random.Random(0)
    step_s: dict[str, list[float]] = {state.name: [] for state in states}
    for _ in range(rounds):
        for state in chance.sample(states, len(states)):
            state.enter()
            took_s = run_steps(training, steps)
            state.leave()
            step_s[state.name].append(took_s / steps)
    return step_s


def warm_up(training: Training, agree: Agree = alone) -> None:
    """Run steps for `WARM_S`, and at least ten units."""
    ends_s = time.perf_counter() + WARM_S
    warm = 0
    while agree(time.perf_counter() < ends_s or warm < 10 * training.unit):
        for _ in range(training.unit):
            training.step()
            warm += 1


def steps_of(training: Training, block_s: float, agree: Agree = alone) -> int:
    """The number of steps in a block."""
    took_s = []
    for _ in range(3):
        wait_for_gpu()
        took_s.append(run_steps(training, 5 * training.unit) / 5)
    return agree(training.unit * max(1, round(block_s / sorted(took_s)[1])))


def run_steps(training: Training, steps: int) -> float:
    """Run steps and wait for the GPU; return the seconds that took."""
    began_s = time.perf_counter()
    for _ in range(steps):
        training.step()
    wait_for_gpu()
    return time.perf_counter() - began_s


def tool_in_turn(name: str, tool_name: str, pairs: int, block_s: float) -> dict[str, Any]:
    """One of `TRAININGS` with and without one of `TOOLS`; see `with_tool`."""
    return with_tool(TRAININGS[name](), TOOLS[tool_name](), Path.cwd(), pairs, block_s)


def with_tool(
    training: Training,
    tool: Tool,
    folder: Path,
    pairs: int,
    block_s: float,
    agree: Agree = alone,
) -> dict[str, Any]:
    """A training with and without a tool.

    Args:
        training: the training; it is closed at the end.
        tool: the tool; it is started and stopped here.
        folder: folder for the tool's files.
        pairs: number of blocks of each kind.
        block_s: seconds of a block.
        agree: makes numbers the same in all processes of the training.

    Returns:
        Seconds of a step in pairs, `with` and `without`, and the CPU time of the tool's Python
        threads per second of each kind, which shows whether it really rested.
    """
    gate = Gate(tool.interval_s)
    before = set(threading.enumerate())
    training.step()  # torch starts its threads and CUDA
    tool.start(folder, gate)
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
    step_s = in_turn(training, states, pairs, block_s, agree)
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
