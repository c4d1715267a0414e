"""Part H: how much a training is held up while sensors are read and rows are written.

Alternating blocks (part C) compare a quarter of a second with another, in which the rate of steps
differs by several per cent for other reasons. A run that goes on can only hold up a training while
its threads work: in a round of readings, and while the disk is brought up to date. So the progress
of the training around each round is compared with its progress right before and after. What such
a window holds is decided by the clock alone, and progress within a step is taken as even, so
windows do not prefer long steps. An effect that lasts longer than the window is not seen: that is
what part C is for. Epochs' edges are in part B.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.overhead.tools import TOOLS
from benchmarks.overhead.work import TRAININGS, wait_for_gpu

WARM_S = 8.0
# Work this close together is one round.
_TOGETHER_S = 0.01
# A window ends this long after its round, or this many steps after it.
_AFTER_S = 0.01
_AFTER_STEPS = 1.0
RESAMPLES = 4000


def steps_and_rounds(name: str, seconds: float) -> dict[str, list[float]]:
    """A training under `track()`: when its steps ended, and when energyest's threads worked.

    Args:
        name: name of a training.
        seconds: how long it is watched, after some seconds in which energyest and it warm up.

    Returns:
        On one clock: `steps_s`, when steps ended; `began_s` and `ended_s`, of rounds and writing.
    """
    from energyest.measure.sampling.sampler import Sampler
    from energyest.measure.writer import TraceWriter

    work: list[tuple[float, float]] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began_s = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                work.append((began_s, time.perf_counter()))

        return call

    Sampler.read_round = timed(Sampler.read_round)  # type: ignore[method-assign]
    TraceWriter.write_waiting = timed(TraceWriter.write_waiting)  # type: ignore[method-assign]
    training = TRAININGS[name]()
    training.step()
    tool = TOOLS["energyest"]()
    tool.start(Path.cwd())
    tool.begin()
    steps_s: list[float] = []
    ends_s = time.perf_counter() + WARM_S + seconds
    while (now_s := time.perf_counter()) < ends_s:
        steps_s.append(now_s)
        training.step()
        wait_for_gpu()
    tool.end()
    tool.stop()
    training.close()
    first_s = ends_s - seconds
    began_s, ended_s = zip(*sorted(work), strict=True)
    return {
        "steps_s": [at_s for at_s in steps_s if at_s >= first_s],
        "began_s": list(began_s),
        "ended_s": list(ended_s),
    }


def joined(
    began_s: NDArray[np.float64], ended_s: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rounds from pieces of work, in order of their beginnings: when each began and ended."""
    new = np.append(True, began_s[1:] > np.maximum.accumulate(ended_s)[:-1] + _TOGETHER_S)
    return began_s[new], np.maximum.reduceat(ended_s, np.flatnonzero(new))


def delays(
    steps_s: NDArray[np.float64], began_s: NDArray[np.float64], ended_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Seconds by which each round has held up the training.

    Args:
        steps_s: shape (n,), when steps ended.
        began_s: shape (m,), when rounds began, in order.
        ended_s: shape (m,), when they ended.

    Returns:
        Shape (k,): of each round whose window, with as much before and after it, has no other
        round in it. Rounds that are too close to others are left out.
    """
    count = np.arange(len(steps_s), dtype=np.float64)
    step_s = float(np.median(np.diff(steps_s)))
    first_s = began_s - step_s
    last_s = ended_s + max(_AFTER_S, _AFTER_STEPS * step_s)
    # Beside it: as long again, half before and half after.
    half_s = (last_s - first_s) / 2
    is_alone = np.append(-np.inf, last_s[:-1]) <= first_s - half_s
    is_alone &= np.append(first_s[1:], np.inf) >= last_s + half_s
    is_alone &= (first_s - half_s >= steps_s[0]) & (last_s + half_s <= steps_s[-1])

    def done(at_s: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.interp(at_s, steps_s, count)

    within = done(last_s) - done(first_s)
    beside = done(first_s) - done(first_s - half_s) + done(last_s + half_s) - done(last_s)
    # A round that holds nothing up has as many steps within as beside it.
    held_s: NDArray[np.float64] = ((beside - within) * step_s)[is_alone]
    return held_s


def slowdown(got: dict[str, list[float]], seed: int = 0) -> dict[str, float]:
    """The share of time for which rounds hold up a training, in per cent, with a 90 % interval."""
    steps_s, began_s, ended_s = (np.array(got[key]) for key in ("steps_s", "began_s", "ended_s"))
    began_s, ended_s = joined(began_s, ended_s)
    held_s = delays(steps_s, began_s, ended_s)
    rounds = np.count_nonzero((began_s >= steps_s[0]) & (began_s <= steps_s[-1]))
    per_s = rounds / (steps_s[-1] - steps_s[0])
    draws = np.random.default_rng(seed).integers(len(held_s), size=(RESAMPLES, len(held_s)))
    lower_s, upper_s = np.quantile(held_s[draws].mean(axis=1), (0.05, 0.95))
    return {
        "percent": 100 * per_s * float(held_s.mean()),
        "lower": 100 * per_s * float(lower_s),
        "upper": 100 * per_s * float(upper_s),
        "delay_ms": 1e3 * float(held_s.mean()),
        "rounds_per_s": per_s,
        "compared": len(held_s),
        "step_ms": 1e3 * float(np.median(np.diff(steps_s))),
    }
