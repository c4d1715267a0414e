"""A figure with its goal, as the benchmarks print it."""

from __future__ import annotations

from dataclasses import dataclass


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
