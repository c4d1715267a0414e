"""Does part h of `overhead` find delays that are known?

Steps of varying durations are simulated, and each round of readings delays the step in which it
begins by a fixed time. Printed for each kind of training and delay: the true slowdown, the one that
is found in the mean of 20 trainings of a minute, and how often its 90 % interval holds. A slowdown
must be found to 0.05 points in the mean, and the intervals must hold in 80 to 98 %.

    python -m benchmarks.evidence.known_delays
"""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.common.goal import Goal
from benchmarks.common.head import print_head
from benchmarks.overhead.rounds import slowdown

SECONDS, TRAININGS = 60.0, 20
# Seconds of a step, their standard deviation on a logarithmic scale, and rounds per second.
KINDS = ((0.0046, 0.07, 2.0), (0.0046, 0.07, 10.0), (0.018, 0.07, 2.0), (0.029, 0.05, 2.0))
DELAYS_S = (0.0, 0.0005, 0.002)


def steps(
    step_s: float, spread: float, rounds_s: np.ndarray, delay_s: float, seed: int
) -> np.ndarray:
    """When steps end, each delayed by the rounds that begin within it."""
    chance = np.random.default_rng(seed)
    ends_s, next_round = [0.0], 0
    while ends_s[-1] < SECONDS:
        end_s = ends_s[-1] + step_s * chance.lognormal(0, spread)
        while next_round < len(rounds_s) and rounds_s[next_round] < end_s:
            end_s += delay_s
            next_round += 1
        ends_s.append(end_s)
    return np.array(ends_s)


def main() -> int:
    print_head(__file__, "numpy")
    print("step, ms   rounds a second   delay, ms      true     found   interval's width   holds")
    off, held = [], []
    for step_s, spread, per_s in KINDS:
        rounds_s = np.arange(0.3, SECONDS, 1 / per_s)
        for delay_s in DELAYS_S:
            true = 100 * per_s * delay_s
            found = [
                slowdown(
                    {
                        "steps_s": steps(step_s, spread, rounds_s, delay_s, seed),
                        "began_s": rounds_s,
                        "ended_s": rounds_s + delay_s + 1e-4,
                    }
                )
                for seed in range(TRAININGS)
            ]
            mean = float(np.mean([one["percent"] for one in found]))
            width = float(np.mean([one["upper"] - one["lower"] for one in found]))
            holds = float(np.mean([one["lower"] <= true <= one["upper"] for one in found]))
            off.append(abs(mean - true))
            held.append(holds)
            print(
                f"{1e3 * step_s:8.1f}{per_s:18.0f}{1e3 * delay_s:12.1f}{true:9.3f} %"
                f"{mean:8.3f} %{width:17.3f} %{100 * holds:7.0f} %",
                flush=True,
            )
    worst, mean_held = max(off), 100 * float(np.mean(held))
    goals = [
        Goal("worst mean error", "0.05 points", f"{worst:.3f} points", worst <= 0.05),
        Goal("intervals hold", "80 to 98 %", f"{mean_held:.0f} %", 80 <= mean_held <= 98),
    ]
    for goal in goals:
        print(goal)
    return int(not all(goal.met for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
