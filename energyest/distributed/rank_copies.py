"""Traces of ranks on other machines, kept beside that of rank 0: its folder holds the whole run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from energyest.measure.folder import TraceFolder
from energyest.records.loading import folder_of
from energyest.records.storage import EPOCHS_FILE, encode_epoch
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

_LAST_S = 2.0


class Update(NamedTuple):
    """What is to be added to the copy of a rank.

    Attributes:
        trace: all that is known of the rank, if the copy is to be replaced by it; else its meta.
        rows: epochs that will not change any more, and are not in the copy yet.
    """

    trace: EnergyTrace
    rows: Sequence[Mapping[str, float]]


class RankCopies:
    """Writes the epochs of ranks whose own folders are not to be seen here, in a thread.

    Args:
        folder: that of rank 0.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Of the ranks that are copied; None for those that write here themselves.
        self._folders: dict[int, TraceFolder | None] = {}
        # Those whose copies took no more: half a line may be their last.
        self._broken: set[int] = set()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last update is under way, as on a disk that stalls."""
        return self._thread is not None and self._thread.is_alive()

    def update(self, news: Mapping[int, Update], *, is_last: bool = False) -> None:
        """Bring the copies up to date; not while one is busy.

        Args:
            news: rank -> what is new.
            is_last: replace them by all that is known, and wait for it.
        """
        if news:
            self._thread = threading.Thread(
                target=self._write, args=(news, is_last), name="energyest-copies", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError as error:  # the process can have no more of them
                log.debug("energyest: ranks are not copied: %s", error)
                self._thread = None
                self._broken.update(news)
            if is_last:
                self.wait()

    def wait(self) -> None:
        """Wait for the disk, but not for long."""
        if self._thread is not None:
            self._thread.join(_LAST_S)

    def _write(self, news: Mapping[int, Update], is_last: bool) -> None:
        for rank, (trace, rows) in news.items():
            try:
                folder = self._folder_of(rank, trace)
                if folder is not None and is_last:
                    folder.bring_back(trace)
                elif folder is not None and rank not in self._broken:
                    folder.append(EPOCHS_FILE, map(encode_epoch, rows))
            except Exception as error:
                log.debug("energyest: rank %d is not copied: %s", rank, error)
                self._broken.add(rank)

    def _folder_of(self, rank: int, trace: EnergyTrace) -> TraceFolder | None:
        if rank not in self._folders:
            path = folder_of(self._folder, rank)
            folder = None if path.exists() else TraceFolder(path)
            if folder is not None:
                folder.claim(trace.meta)
            self._folders[rank] = folder
        return self._folders[rank]
