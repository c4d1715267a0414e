"""A figure with its goal, as the benchmarks print it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A figure, what it should be, and what came of it."""

    name: str
    asked: str
    reached: str
    met: bool

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{verdict:<7}{self.name}: {self.reached} (asked {self.asked})"
