"""The folder of one run: claimed for it alone, appended to, and brought back as a whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

from energyest.records import storage
from energyest.records.trace import EnergyTrace

# Lines that are encoded and written at a time.
_BATCH = 1000


class TraceFolder:
    """Files that grow, and files that are replaced, in a folder that nobody else writes to.

    Every method raises what goes wrong, OSError or TraceError: its user decides what that means.

    Args:
        wanted: the folder; if it holds a trace already, a free name next to it is taken
            (`energy`, `energy-2`, ...).
    """

    def __init__(self, wanted: Path) -> None:
        # The training may change its working directory; one that is gone shows when it is used.
        try:
            self._wanted = Path(os.path.abspath(wanted))
        except OSError:
            self._wanted = wanted
        #: The folder that was claimed; the one that is wanted before.
        self.path = self._wanted
        # Without buffers: a forked process would write them again, and a full disk would keep them.
        self._files: dict[str, FileIO] = {}
        self._can_tell = True

    def claim(self, meta: Mapping[str, Any]) -> None:
        """Make the folder this run's, with a trace in it that is empty yet."""
        self._claim()
        storage.write_meta(self.path, meta)
        self._replace(storage.POWER_FILE, [storage.POWER_HEADER])

    def append(self, name: str, text: str) -> None:
        """Add to a file that grows, and hand it to the operating system: it survives a kill."""
        _write(self._files[name], text)

    def is_gone(self) -> bool:
        """Whether what is appended would be lost: the files were taken away or replaced."""
        return not all(self._is_at_its_place(name) for name in self._files)

    def bring_back(self, trace: EnergyTrace) -> None:
        """Write the whole trace anew, in the same folder unless another run has it by now."""
        if not self._is_at_its_place(storage.EPOCHS_FILE):
            self.close()
            self._claim()
        self._replace(storage.EPOCHS_FILE, storage.epoch_lines(trace.epoch_columns))
        self._replace(storage.POWER_FILE, storage.power_lines(trace.power_columns))
        storage.write_meta(self.path, trace.meta)

    def write_latest(self, latest: Mapping[str, Any]) -> None:
        """Replace the file of what is known of the run so far."""
        storage.write_meta(self.path, latest, storage.LATEST_FILE)

    def drop_latest(self) -> None:
        """Remove that file, if there is one."""
        (self.path / storage.LATEST_FILE).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; nothing is lost if that fails, as nothing waits in a buffer."""
        while self._files:
            with contextlib.suppress(OSError):
                self._files.popitem()[1].close()

    def _claim(self) -> None:
        file = _claim(self._wanted)
        self._files[storage.EPOCHS_FILE] = file
        self.path = Path(str(file.name)).parent
        # Some network filesystems number a file anew each time that it is looked up.
        self._can_tell = os.path.samestat(os.stat(file.name), os.fstat(file.fileno()))

    def _is_at_its_place(self, name: str) -> bool:
        file = self._files.get(name)
        if file is None:
            return False
        try:
            there = os.stat(self.path / name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not self._can_tell or os.path.samestat(there, os.fstat(file.fileno()))

    def _replace(self, name: str, lines: Iterable[str]) -> None:
        """Write a file that grows anew, beside the old one, which it then replaces."""
        draft = self.path / (name + ".new")
        file = FileIO(draft, "w")
        try:
            for batch in _batches(lines):
                _write(file, batch)
            if not self._is_at_its_place(storage.EPOCHS_FILE):
                raise FileNotFoundError(f"{self.path} was taken away")
            os.replace(draft, self.path / name)
        except BaseException:
            file.close()
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        old = self._files.pop(name, None)
        self._files[name] = file
        if old is not None:
            with contextlib.suppress(OSError):
                old.close()


def _claim(folder: Path) -> FileIO:
    """Open the file of epochs in the folder, or in a free one next to it, for this run alone."""
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        number += 1
        if candidate.exists() and not candidate.is_dir():
            continue
        candidate.mkdir(parents=True, exist_ok=True)
        try:
            # Of two processes that come at the same time, one creates the file.
            return FileIO(candidate / storage.EPOCHS_FILE, "x")
        except FileExistsError:
            continue


def _write(file: FileIO, text: str) -> None:
    data = memoryview(text.encode())
    while data:  # a disk that is nearly full takes a part
        data = data[file.write(data) :]


def _batches(lines: Iterable[str]) -> Iterator[str]:
    rest = iter(lines)
    while batch := "".join(islice(rest, _BATCH)):
        yield batch
