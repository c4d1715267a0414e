"""Writes a growing trace to its folder; trouble with the disk affects nobody else."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from energyest.measure.folder import FolderExchangedError, TraceFolder
from energyest.measure.sensors.base import Reading
from energyest.measure.signals import let_handlers_raise
from energyest.patience import PATIENCE_S, Errand
from energyest.records import storage
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# The first pause before writing the whole trace from memory is retried; it doubles each time.
_RETRY_S = 10.0
_LONGEST_RETRY_S = 600.0
# The most rows and readings that wait for a stalling disk. If there are more, they are dropped, and
# the trace is written from memory later.
_MOST_WAITING = 20_000
# A write that takes longer than this is reported.
_STALL_S = 5.0


@dataclass
class _News:
    """Content waiting to be written."""

    rows: list[Iterable[str]] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    meta: Mapping[str, Any] | None = None
    latest: Mapping[str, Any] | None = None


class TraceWriter:
    """Writes rows and readings as they come, in a thread of its own because a disk may stall.

    The first failure is reported once. What was written stays readable; after a failure, or if the
    folder vanishes, the whole trace is written from memory, with retries at long intervals and at
    the end.

    Args:
        folder: where to write; if it already holds a trace, a free name next to it is used
            (`energy`, `energy-2`, ...).
        meta: the first content of `meta.json`.
        contents: returns the whole trace up to now; called in the writer's thread.
        note: takes a sentence about a lost folder; called in the writer's thread.
    """

    def __init__(
        self,
        folder: Path,
        meta: Mapping[str, Any],
        contents: Callable[[], EnergyTrace],
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._contents = contents
        self._note = note
        self._folder = TraceFolder(folder)
        self._changed = threading.Condition()
        self._news = _News()
        self._closing = False
        self._reported: set[str] = set()
        # Whether the folder holds everything that is not waiting; else it is written from memory.
        self._whole = True
        # Whether nothing is written any more, because something else has taken the folder's place.
        self._is_lost = False
        self._retry_s = _RETRY_S
        self._next_try_s = -math.inf
        self._busy_since_s = math.inf
        self._thread = threading.Thread(target=self._run, name="energyest-writer", daemon=True)
        self._claim = Errand(partial(self._folder.claim, meta), "claim")
        if not self._claim.wait(PATIENCE_S):
            self._whole = False
            self._report(
                "slow",
                f"{self._folder.path} does not answer; the trace is kept in memory until it does",
            )
        else:
            self._settle_claim()

    @property
    def folder(self) -> Path | None:
        """The folder being written to; None while writing fails."""
        return self._folder.path if self._whole else None

    @property
    def place(self) -> Path:
        """The folder that is, or will be, written to."""
        return self._folder.path

    def start(self) -> RuntimeError | None:
        """Begin to write; return the reason if this must wait for the end of the run, else None."""
        try:
            self._thread.start()
        except RuntimeError as error:  # the process cannot start more threads
            return error
        return None

    def put(
        self,
        rows: Sequence[Iterable[str]] = (),
        readings: Sequence[Reading] = (),
        meta: Mapping[str, Any] | None = None,
        latest: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue content to be written, without waiting for the disk.

        Args:
            rows: lines of epochs, to be written at once; iterables are evaluated in the writer's
                thread.
            readings: readings, to be written together with other content.
            meta: replaces the meta file.
            latest: replaces the file with the state of the run so far.
        """
        with self._changed:
            news = self._news
            if self._whole:
                news.rows.extend(rows)
                news.readings.extend(readings)
                if len(news.rows) + len(news.readings) > _MOST_WAITING:
                    self._whole = False
                    self._news = news = _News()
            news.meta = news.meta if meta is None else meta
            news.latest = news.latest if latest is None else latest
            if rows or meta is not None or latest is not None:
                self._changed.notify()
            stalls = time.monotonic() - self._busy_since_s > _STALL_S
        if stalls:
            self._report("stall", f"{self._folder.path} has not accepted the trace for seconds")

    def forget(self) -> None:
        """Drop the waiting rows and readings; the caller writes them in another way."""
        with self._changed:
            self._news.rows, self._news.readings = [], []
            self._whole = True

    def close(self, timeout_s: float) -> bool:
        """Write what is waiting and end the thread; return whether this was done in time.

        A thread that hangs on its disk is left behind: it is a daemon and blocks nothing.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is None:
            # Never started, or no thread could be started.
            if not self._claim.wait(timeout_s):
                return False
            self._run()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._is_due)
                closing = self._closing
            self.write_waiting(last=closing)
        self._folder.close()

    def _settle_claim(self) -> None:
        """Handle the result of the claim, which is done."""
        try:
            self._claim.result()
        except Exception as error:
            let_handlers_raise(error)
            self._fail(error)

    def write_waiting(self, *, last: bool = False) -> None:
        """Write what is waiting; also for use without the thread, as with a simulated clock."""
        with self._changed:
            news, self._news = self._news, _News()
            self._busy_since_s = time.monotonic()
        try:
            self._write(news, last=last)
        except FolderExchangedError as error:
            self._lose(error)
        except Exception as error:
            self._fail(error)
        with self._changed:
            self._busy_since_s = math.inf

    def _is_due(self) -> bool:
        news = self._news
        return self._closing or bool(news.rows or news.meta is not None or news.latest is not None)

    def _write(self, news: _News, *, last: bool) -> None:
        folder = self._folder
        if self._is_lost:
            return
        if not self._claim.is_done:
            if not last:
                return
            self._claim.wait()
        gone = folder.path if self._whole and folder.is_gone() else None
        if gone is not None:
            self._whole = False
        if not self._whole:
            if not last and time.monotonic() < self._next_try_s:
                return
            self._next_try_s = time.monotonic() + self._retry_s
            # The contents include all rows and readings queued so far.
            folder.bring_back(self._contents())
            self._retry_s = _RETRY_S
            if gone is not None:
                self._report("gone", f"{gone} was removed; its trace is written again")
            if "failure" in self._reported:
                self._report("again", f"the whole trace is written again, to {folder.path}")
        else:
            self._append(news)
        if last:
            folder.drop_latest()  # the meta now holds all of it
        elif news.latest is not None:
            folder.write_latest(news.latest)

    def _append(self, news: _News) -> None:
        if news.rows:
            self._folder.append(storage.EPOCHS_FILE, chain.from_iterable(news.rows))
        if news.readings:
            self._folder.append(storage.POWER_FILE, map(storage.encode_reading, news.readings))
        if news.meta is not None:
            self._folder.write_meta(news.meta)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._whole = False
            self._news.rows, self._news.readings = [], []
            self._next_try_s = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)
        self._report(
            "failure",
            f"the trace cannot be written to {self._folder.path} ({error}). Training and measuring "
            "go on, and writing is retried; save it at the end with trace.save(folder)",
        )

    def _lose(self, error: FolderExchangedError) -> None:
        with self._changed:
            self._is_lost, self._whole = True, False
            self._news.rows, self._news.readings = [], []
        self._note(f"{error.args[0]} during the run: the trace was kept in memory")
        self._report(
            "lost",
            f"{error.args[0]}. Nothing is written there; training and measuring go on, and the "
            "trace is kept in memory: save it at the end with trace.save(folder)",
        )

    def _report(self, kind: str, message: str) -> None:
        """Log a message the first time that its event happens."""
        if kind not in self._reported:
            self._reported.add(kind)
            log.warning("energyest: %s", message)
