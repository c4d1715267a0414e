"""`LiveRuns`: the runs below a folder that are going on, or have just ended."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from energyest.checks import check_positive
from energyest.errors import ConfigurationError, EnergyestError, RunsError
from energyest.exporters.run_view import RunView, state_of
from energyest.records.places import Known, in_order, is_inside
from energyest.records.places.local import LocalPlace

log = logging.getLogger("energyest")

# The folders are looked for again after this many seconds.
_SEARCH_S = 15.0
# A run is read again when its files have changed, but for at most this share of the time.
_MOST_SHARE = 0.1
# Totals may lag behind epochs for this long.
_LAG_S = 10.0


@dataclass
class _Known:
    """A run that was read: its files then, what they showed, and when to read them again.

    Attributes:
        seen: its files at the last look.
        changed_s: when they had last changed, on this process's own clock.
        view: what they showed; None if they are too old or cannot be read.
        state: the files that showed it.
        read_s: when they were read.
        took_s: how long the last reading took.
        next_s: not to be read again before.
        has_failed: whether they cannot be read.
    """

    seen: tuple[object, ...] | None = None
    changed_s: float = 0.0
    view: RunView | None = None
    state: tuple[object, ...] = ()
    read_s: float = 0.0
    took_s: float = 0.0
    next_s: float = 0.0
    has_failed: bool = False

    def is_ahead_of(self, view: RunView, now_s: float) -> bool:
        """Whether a new view lacks the total of the last because it fell between two writes.

        A monitor writes epochs as they end, and totals once a second.
        """
        return (
            view.status == "running"
            and self.view is not None
            and now_s - self.read_s < _LAG_S
            and math.isnan(view.trace.total_J)
            and math.isfinite(self.view.trace.total_J)
        )


class LiveRuns:
    """The runs below a folder that are going on, or ended not long ago.

    Args:
        folder: a folder that holds traces at any depth, or is one. It need not exist yet.
        keep_s: seconds for which a run is still shown after its files last changed. A killed run
            disappears after this time, too. Times of files count at the first look only, as the
            clock of another machine may differ; after that, what has changed since the last look.
        epochs: epochs of each training; by default as planned.

    Raises:
        ConfigurationError: `keep_s` is not positive.

    Examples:
        >>> from energyest.exporters import LiveRuns
        >>> runs = LiveRuns('runs', keep_s=60)
        >>> runs.views()
        {}
    """

    def __init__(
        self, folder: str | Path, *, keep_s: float = 300.0, epochs: float | None = None
    ) -> None:
        self._root = Path(folder)
        self._place = LocalPlace(self._root)
        self._keep_s = check_positive(keep_s, "keep_s", ConfigurationError)
        self._epochs = epochs
        self._known: dict[str, _Known] = {}
        self._searched_s = -float("inf")
        self._lock = threading.Lock()

    def views(self) -> dict[str, RunView]:
        """The runs by the paths of their folders within the folder, as they are now.

        A run that cannot be read is left out, with a warning once. As in `load_traces`, a trace
        inside another one is not shown by itself. Several threads may call this.
        """
        with self._lock:
            self._search()
            found: dict[str, RunView] = {}
            readable: set[str] = set()
            for name, known in self._known.items():
                if is_inside(name, readable):
                    continue
                self._look(self._root / name, known)
                if not known.has_failed:
                    readable.add(name)
                if known.view is not None:
                    found[self._place.label(name)] = known.view
            return found

    def _search(self) -> None:
        if time.monotonic() - self._searched_s < _SEARCH_S and self._known:
            return
        self._searched_s = time.monotonic()
        try:
            there = self._place.look(Known(), looks_at_files=False).found
        except RunsError:  # the folder does not exist yet
            there = []
        self._known = {one.name: self._known.get(one.name, _Known()) for one in in_order(there)}

    def _look(self, path: Path, known: _Known) -> None:
        state, now_s = state_of(path), time.monotonic()
        if known.seen is None:
            changed_ns = max((file[2] for file in state), default=0)
            known.changed_s = now_s - max(0.0, time.time() - changed_ns / 1e9)
        elif state != known.seen:
            known.changed_s = now_s
        known.seen = state
        if not state or now_s - known.changed_s > self._keep_s:
            known.view, known.state = None, ()
            return
        if state == known.state or now_s < known.next_s:
            return
        try:
            view = RunView.load(path, self._epochs)
            if not known.is_ahead_of(view, now_s):
                known.view, known.state, known.read_s = view, state, now_s
            known.has_failed = False
        except EnergyestError as error:
            known.view = None
            if not known.has_failed:
                log.warning("energyest: a run is left out: %s", error)
            known.has_failed = True
        # A single long reading, as one that imports what it needs, says nothing about the next.
        took_s, known.took_s = known.took_s, time.monotonic() - now_s
        known.next_s = now_s + min(took_s, known.took_s) / _MOST_SHARE
