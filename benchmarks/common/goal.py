"""A figure with its goal, as the benchmarks print it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Goal:
    """A figure, its goal, the value reached, and whether the goal is met."""

    name: str
    asked: str
    reached: str
    met: bool

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:<7}{self.name}: {self.reached} (asked {self.asked})"


def goal_of_errors(name: str, errors: ArrayLike, asked: tuple[float, float]) -> Goal:
    """The goal of a mean and a median error.

    Args:
        name: what is in error.
        errors: absolute errors in per cent.
        asked: the largest mean and the largest median.
    """
    return mean_median_goal(name, (float(np.mean(errors)), float(np.median(errors))), asked)


def mean_median_goal(name: str, found: tuple[float, float], asked: tuple[float, float]) -> Goal:
    """The same, if the mean and the median are known."""
    met = found[0] <= asked[0] and found[1] <= asked[1]
    reached = f"{found[0]:.1f} %, {found[1]:.1f} %"
    return Goal(name, f"{asked[0]:g} %, {asked[1]:g} %", reached, met)
