"""Checks and goals of a benchmark, printed as they are decided."""

from __future__ import annotations

from benchmarks.common.goal import Goal


class Checks:
    """Prints figures, and remembers whether a check or a goal failed."""

    def __init__(self) -> None:
        self.failed = False

    def __call__(self, text: str, holds: bool) -> bool:
        """Print a check, and return whether it holds."""
        self.failed |= not holds
        print(f"{'ok    ' if holds else 'FAILED'} {text}", flush=True)
        return holds

    def goal(self, name: str, value: float, most: float, unit: str) -> None:
        """Print a goal: the value should be at most `most`. NaN misses it."""
        goal = Goal(name, f"{most:g} {unit}", f"{value:.3g} {unit}", value <= most)
        self.failed |= not goal.met
        print(goal, flush=True)

    @staticmethod
    def note(text: str) -> None:
        """Print a figure that is not judged."""
        print(f"       {text}", flush=True)
