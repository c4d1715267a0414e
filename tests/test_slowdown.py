"""The benchmark of slowdown finds the delays that rounds of readings cause, on simulated steps."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.overhead.rounds import slowdown
from tests.support.each import for_each

SECONDS = 120.0


def steps_delayed_by_rounds(
    step_s: float, spread: float, rounds_s: np.ndarray, delay_s: float, seed: int
) -> np.ndarray:
    """When steps end whose durations vary, each delayed by the rounds that begin within it."""
    chance = np.random.default_rng(seed)
    ends_s, next_round = [0.0], 0
    while ends_s[-1] < SECONDS:
        end_s = ends_s[-1] + step_s * chance.lognormal(0, spread)
        while next_round < len(rounds_s) and rounds_s[next_round] < end_s:
            end_s += delay_s
            next_round += 1
        ends_s.append(end_s)
    return np.array(ends_s)


@for_each([(0.0046, 0.07, 2.0), (0.0046, 0.07, 10.0), (0.018, 0.07, 2.0), (0.029, 0.05, 2.0)])
def test_delays_are_found(case: tuple[float, float, float]) -> None:
    step_s, spread, per_s = case
    rounds_s = np.arange(0.3, SECONDS, 1 / per_s)
    for delay_s in (0.0, 0.002):
        found = []
        for seed in range(5):
            steps_s = steps_delayed_by_rounds(step_s, spread, rounds_s, delay_s, seed)
            ended_s = rounds_s + delay_s + 1e-4
            found.append(slowdown({"steps_s": steps_s, "began_s": rounds_s, "ended_s": ended_s}))
        mean = np.mean([one["percent"] for one in found])
        width = np.mean([one["upper"] - one["lower"] for one in found])
        # Of five, the mean is known to less than half the width of an interval.
        assert mean == pytest.approx(100 * per_s * delay_s, abs=0.5 * width + 0.01)
        assert width < 0.25


def test_rounds_that_are_too_close_to_compare_are_left_out() -> None:
    rounds_s = np.sort(np.concatenate([np.arange(0.3, SECONDS, 1.0), np.arange(0.32, 60.0, 1.0)]))
    steps_s = steps_delayed_by_rounds(0.0046, 0.05, rounds_s, 0.0, 0)
    found = slowdown({"steps_s": steps_s, "began_s": rounds_s, "ended_s": rounds_s + 1e-4})
    assert found["compared"] == pytest.approx(60, abs=3)
    assert found["rounds_per_s"] == pytest.approx(1.5, rel=0.02)
