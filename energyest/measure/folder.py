"""The folder of one run: claimed for it alone, appended to, and brought back as a whole."""

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
    """Something that is no trace stands in the place of the folder: nothing is written to it."""


class TraceFolder:
    """Files that grow, and files that are replaced, in a folder that nobody else writes to.

    Every method raises what goes wrong, OSError or TraceError: its user decides what that means.

    Args:
        wanted: the folder; if it holds a trace already, or another file by the name of one of a
            trace, a free name next to it is taken (`energy`, `energy-2`, ...).
    """

    def __init__(self, wanted: Path) -> None:
        try:
            # The training may change its working directory.
            self._wanted = Path(os.path.abspath(wanted))
        except OSError:  # that was deleted: no folder can be made there
            self._wanted = Path(wanted)
        #: The folder that was claimed; the one that is wanted before.
        self.path = self._wanted
        self._own: OwnFiles | None = None
        # Where the folder's parent really was, links followed.
        self._parent: str | None = None

    def claim(self, meta: Mapping[str, Any]) -> None:
        """Make the folder this run's, with a trace in it that is empty yet."""
        own = self._claim()
        _replace_meta(own, storage.META_FILE, meta)
        own.replace(storage.POWER_FILE, [storage.POWER_HEADER])

    def append(self, name: str, lines: Iterable[str]) -> None:
        """Add to a file that grows, and hand it to the operating system: it survives a kill."""
        self._claimed().append(name, lines)

    def is_gone(self) -> bool:
        """Whether what is appended would be lost: the files were taken away or replaced."""
        own = self._own
        if own is None:
            return False
        is_here = own.is_at(self.path) and all(map(own.is_own, storage.FILES[:3]))
        return not is_here or own.is_foreign(storage.LATEST_FILE)

    def bring_back(self, trace: EnergyTrace) -> None:
        """Write the whole trace anew: in the same folder, or beside it if others have it by now.

        Raises:
            FolderExchangedError: there is something else in its place, and no trace.
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
        """Replace the file of what is known of the run so far."""
        text = storage.encode_meta(latest, indent=None)  # as it is replaced all the time
        self._claimed().replace(storage.LATEST_FILE, [text])

    def drop_latest(self) -> None:
        """Remove that file, if there is one."""
        self._claimed().remove(storage.LATEST_FILE)

    def close(self) -> None:
        """Close the files; nothing is lost if that fails, as nothing waits in a buffer."""
        own, self._own = self._own, None
        if own is not None:
            own.close()

    # ------------------------------------------------------------------ inside

    def _claimed(self) -> OwnFiles:
        if self._own is None:
            raise FileNotFoundError(f"{self.path} was never made")
        return self._own

    def _claim(self) -> OwnFiles:
        own = _claim(self._wanted)
        self.close()
        self._own, self.path = own, own.path
        self._parent = os.path.realpath(own.path.parent)
        return own

    def _check_place(self) -> None:
        """Refuse to make the folder anew where something else has taken its place."""
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
    """A folder, or a free one next to it, in which the file of epochs is this run's alone."""
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
            # Of two processes that come at the same time, one creates the file.
            if not taken:
                own.create(storage.EPOCHS_FILE)
                break
            if storage.EPOCHS_FILE not in taken and not foreign:
                foreign = f"{candidate} holds {taken[0]}, which is of no trace"
        except FileExistsError:
            pass
        except BaseException:
            own.close()
            raise
        own.close()
    if foreign:
        log.warning("energyest: %s and stays as it is: the trace goes to %s", foreign, candidate)
    return own
