"""`LogNames`: by which names a monitor logs, beside a training that logs what it likes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

log = logging.getLogger("energyest")

# Where a value goes whose name the training uses itself.
_PREFIX, _OTHER_PREFIX = "energy/", "energyest/"


class LogNames:
    """The names that a training uses are left to it."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._told: set[str] = set()

    def take(self, names: Iterable[str]) -> None:
        """Something else is logged by these names."""
        self._taken.update(names)

    def free(self, wanted: str, *, is_news: bool = True) -> str | None:
        """A name that nothing else is logged by; None if there is none.

        Args:
            wanted: begins with `energy/`.
            is_news: whether the user is to be told if it is another; a second monitor beside this
                one is no news.
        """
        names = self.candidates(wanted)
        name = next((name for name in names if name not in self._taken), None)
        if name != wanted and is_news and wanted not in self._told:
            self._told.add(wanted)
            log.warning(
                "energyest: something else is logged as %s; the monitor's value %s",
                wanted,
                f"goes by {name}" if name else "is not logged; it is in the trace",
            )
        return name

    @staticmethod
    def candidates(wanted: str) -> tuple[str, str]:
        """The names that a value may go by."""
        return wanted, wanted.replace(_PREFIX, _OTHER_PREFIX, 1)
