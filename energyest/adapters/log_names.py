"""`LogNames`: names for a monitor's values that do not collide with names of the training."""

from __future__ import annotations

import logging
from collections.abc import Iterable

log = logging.getLogger("energyest")

# The prefix, and the one for values whose name the training itself uses.
_PREFIX, _OTHER_PREFIX = "energy/", "energyest/"


class LogNames:
    """Finds names that the training does not use."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._told: set[str] = set()

    def take(self, names: Iterable[str]) -> None:
        """Mark names as used by something else."""
        self._taken.update(names)

    def free(self, wanted: str, *, is_news: bool = True) -> str | None:
        """A name that nothing else uses; None if all are in use.

        Args:
            wanted: the preferred name, which begins with `energy/`.
            is_news: whether to warn the user if another name is chosen; not needed if a second
                monitor uses the name.
        """
        names = self.candidates(wanted)
        name = next((name for name in names if name not in self._taken), None)
        if name != wanted and is_news and wanted not in self._told:
            self._told.add(wanted)
            log.warning(
                "energyest: the training logs %s itself; the monitor's value is %s",
                wanted,
                f"logged as {name}" if name else "not logged, but it is in the trace",
            )
        return name

    @staticmethod
    def candidates(wanted: str) -> tuple[str, str]:
        """The names that a value may be logged under."""
        return wanted, wanted.replace(_PREFIX, _OTHER_PREFIX, 1)
