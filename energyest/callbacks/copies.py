"""Traces of ranks on other machines, kept beside that of rank 0: its folder holds the whole run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from energyest.measure.folder import Contents, TraceFolder
from energyest.ranks import Record, folder_of
from energyest.storage import POWER_COLUMNS

log = logging.getLogger("energyest")

# A copy is written anew once it has grown so much: the machine itself keeps every row as it comes.
_GROWTH = 1.5
_LAST_S = 2.0


class Copies:
    """Writes the epochs of ranks whose own folders are not to be seen here, in a thread.

    Args:
        folder: that of rank 0.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Of the ranks that are copied; None for those that write here themselves.
        self._folders: dict[int, TraceFolder | None] = {}
        self._rows: dict[int, int] = {}
        self._thread: threading.Thread | None = None

    def update(
        self, rows: Mapping[int, int], record: Callable[[int], Record], *, is_last: bool
    ) -> None:
        """Bring the copies up to date, where it is worth it.

        Args:
            rows: rank -> how many epochs of it are known.
            record: gives what is known of a rank.
            is_last: write them in any case, and wait for it.
        """
        if self._thread is not None and is_last:
            self._thread.join(_LAST_S)
        if self._thread is not None and self._thread.is_alive():
            return  # a disk that stalls
        due = {
            rank: record(rank)
            for rank, count in rows.items()
            if is_last or count > _GROWTH * self._rows.get(rank, 0)
        }
        if due:
            self._rows |= {rank: len(one) for rank, one in due.items()}
            self._thread = threading.Thread(
                target=self._write, args=(due,), name="energyest-copies", daemon=True
            )
            self._thread.start()
        if self._thread is not None and is_last:
            self._thread.join(_LAST_S)

    def _write(self, records: Mapping[int, Record]) -> None:
        for rank, record in records.items():
            try:
                folder = self._folder_of(rank, record)
                if folder is not None:
                    nothing = {name: np.empty(0) for name in POWER_COLUMNS}
                    folder.bring_back(Contents(record.meta, dict(record.epochs), nothing))
            except Exception as error:
                log.debug("energyest: rank %d is not copied: %s", rank, error)

    def _folder_of(self, rank: int, record: Record) -> TraceFolder | None:
        if rank not in self._folders:
            path = folder_of(self._folder, rank)
            self._folders[rank] = None if path.exists() else TraceFolder(path)
            folder = self._folders[rank]
            if folder is not None:
                folder.claim(record.meta)
        return self._folders[rank]
