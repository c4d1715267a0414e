"""The folder of one run: claimed for it alone, appended to, and restored as a whole if lost."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from energyest.records import storage
from energyest.records.own_files import OwnFiles
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")


class FolderExchangedError(OSError):
    """Something that is not a trace has taken the folder's place: nothing is written to it."""


class TraceFolder:
    """Files that grow, and files that are replaced, in a folder to which nobody else writes.

    Methods raise OSError or TraceError; the caller decides what a failure means.

    Args:
        wanted: the folder. If it already holds a trace, or a file with the name of a trace file, a
            free name next to it is used (`energy`, `energy-2`, ...).
    """

    def __init__(self, wanted: Path) -> None:
        try:
            # The training may change its working directory.
            self._wanted = Path(os.path.abspath(wanted))
        except OSError:  # it was deleted: no folder can be created there
            self._wanted = Path(wanted)
        #: The claimed folder; before the claim, the wanted one.
        self.path = self._wanted
        self._own: OwnFiles | None = None
        # The real path of the folder's parent, links followed.
        self._parent: str | None = None

    def claim(self, meta: Mapping[str, Any]) -> None:
        """Claim the folder for this run, and create an empty trace in it."""
        own = self._claim()
        _replace_meta(own, storage.META_FILE, meta)
        own.replace(storage.POWER_FILE, [storage.POWER_HEADER])

    def append(self, name: str, lines: Iterable[str]) -> None:
        """Append to a growing file, without buffering, so that the lines survive a kill."""
        self._claimed().append(name, lines)

    def is_gone(self) -> bool:
        """Whether appended lines would be lost, because the files were removed or replaced."""
        own = self._own
        if own is None:
            return False
        is_here = own.is_at(self.path) and all(map(own.is_own, storage.FILES[:3]))
        return not is_here or own.is_foreign(storage.LATEST_FILE)

    def bring_back(self, trace: EnergyTrace) -> None:
        """Rewrite the whole trace: in the same folder, or next to it if others use that now.

        Raises:
            FolderExchangedError: something that is not a trace has taken the folder's place.
        """
        own = self._own
        if own is None or not own.is_at(self.path) or any(map(own.is_foreign, storage.FILES)):
            self._check_place()
            own = self._claim()
        own.replace(storage.EPOCHS_FILE, storage.epoch_lines(trace.epoch_columns))
        own.replace(storage.POWER_FILE, storage.power_lines(trace.power_columns))
        _replace_meta(own, storage.META_FILE, trace.meta)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the meta."""
        _replace_meta(self._claimed(), storage.META_FILE, meta)

    def write_latest(self, latest: Mapping[str, Any]) -> None:
        """Replace the file with the state of the run so far."""
        text = storage.encode_meta(latest, indent=None)  # fast, as it is replaced all the time
        self._claimed().replace(storage.LATEST_FILE, [text])

    def drop_latest(self) -> None:
        """Remove that file, if there is one."""
        self._claimed().remove(storage.LATEST_FILE)

    def close(self) -> None:
        """Close the files; nothing is lost if that fails, because nothing is buffered."""
        own, self._own = self._own, None
        if own is not None:
            own.close()

    # ------------------------------------------------------------------ inside

    def _claimed(self) -> OwnFiles:
        if self._own is None:
            raise FileNotFoundError(f"{self.path} was never created")
        return self._own

    def _claim(self) -> OwnFiles:
        own = _claim(self._wanted)
        self.close()
        self._own, self.path = own, own.path
        self._parent = os.path.realpath(own.path.parent)
        return own

    def _check_place(self) -> None:
        """Refuse to recreate the folder if something else has taken its place."""
        if self._parent is None:
            return  # there was none before
        is_moved = os.path.realpath(self.path.parent) != self._parent
        is_there = os.path.lexists(self.path)
        is_own = self._own is not None and self._own.is_at(self.path)
        is_trace = not self.path.is_symlink() and (self.path / storage.EPOCHS_FILE).is_file()
        if is_moved or (is_there and not (is_own or is_trace)):
            raise FolderExchangedError(f"something else has taken the place of {self.path}")


def _replace_meta(own: OwnFiles, name: str, meta: Mapping[str, Any]) -> None:
    own.replace(name, [storage.encode_meta(meta)])


def _claim(folder: Path) -> OwnFiles:
    """Claim a folder, or a free one next to it, by creating its file of epochs."""
    number = 1
    foreign = ""
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        number += 1
        if os.path.lexists(candidate) and not candidate.is_dir():
            continue
        candidate.mkdir(parents=True, exist_ok=True)
        own = OwnFiles(candidate)
        try:
            taken = [name for name in storage.FILES if own.exists(name)]
            # If two processes come at the same time, only one of them creates the file.
            if not taken:
                own.create(storage.EPOCHS_FILE)
                break
            if storage.EPOCHS_FILE not in taken and not foreign:
                foreign = f"{candidate} holds {taken[0]}, which is not part of a trace"
        except FileExistsError:
            pass
        except BaseException:
            own.close()
            raise
        own.close()
    if foreign:
        log.warning("energyest: %s, and is left alone: the trace goes to %s", foreign, candidate)
    return own
