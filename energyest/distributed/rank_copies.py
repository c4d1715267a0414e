"""Copies of the traces of ranks on other machines, so that rank 0's folder holds the whole run."""

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
    """New content for the copy of a rank.

    Attributes:
        trace: the rank's whole trace, if it is to replace the copy; else only its meta.
        rows: final epochs that are not in the copy yet.
    """

    trace: EnergyTrace
    rows: Sequence[Mapping[str, float]]


class RankCopies:
    """Writes, in a thread, the epochs of ranks whose own folders are not visible here.

    Args:
        folder: the folder of rank 0.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Folders of the copies; None for ranks that write here themselves.
        self._folders: dict[int, TraceFolder | None] = {}
        # Ranks whose copies could not be written: their last line may be truncated.
        self._broken: set[int] = set()
        self._thread: threading.Thread | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last update is still going on, as on a stalling disk."""
        return self._thread is not None and self._thread.is_alive()

    def update(self, news: Mapping[int, Update], *, is_last: bool = False) -> None:
        """Bring the copies up to date; must not be called while `is_busy`.

        Args:
            news: rank -> its new content.
            is_last: whether to replace the copies by the whole traces, and wait for that.
        """
        if news:
            self._thread = threading.Thread(
                target=self._write, args=(news, is_last), name="energyest-copies", daemon=True
            )
            try:
                self._thread.start()
            except RuntimeError as error:  # the process cannot start more threads
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
