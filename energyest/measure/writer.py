"""Appends a growing trace to its folder; trouble with the disk never reaches the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from energyest import storage
from energyest.measure.sensors.base import Reading

log = logging.getLogger("energyest")


class TraceWriter:
    """Writes rows and readings as they come.

    The first failure is reported once and ends the writing: what was written stays readable, and
    the recorder goes on in memory.

    Args:
        folder: where to write; if it holds a trace already, a free name next to it is taken
            (`energy`, `energy-2`, ...).
        meta: the first content of `meta.json`.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self._files: list[TextIO] = []
        #: The folder that is written to; None once writing has failed.
        self.folder: Path | None = None
        try:
            self.folder = _claim(folder)
            self.write_meta(meta)  # first: from here on the folder is a trace
            self._epochs = self._open(storage.EPOCHS_FILE)
            self._power = self._open(storage.POWER_FILE)
            self._power.write(storage.POWER_HEADER)
            self.flush()
        except OSError as error:
            self._give_up(folder, error)

    def write_epoch_line(self, line: str) -> None:
        """Append a row of an epoch, or an amendment of one, and flush it."""
        if self.folder is not None:
            try:
                self._epochs.write(line)
                self._epochs.flush()
            except OSError as error:
                self._give_up(self.folder, error)

    def write_reading(self, reading: Reading) -> None:
        """Append a reading; `flush` brings it to the operating system."""
        if self.folder is not None:
            try:
                self._power.write(storage.encode_reading(reading))
            except OSError as error:
                self._give_up(self.folder, error)

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the meta file."""
        if self.folder is not None:
            try:
                storage.write_meta(self.folder, meta)
            except OSError as error:
                self._give_up(self.folder, error)

    def flush(self) -> None:
        """Hand what was written to the operating system, from where it survives a kill."""
        if self.folder is not None:
            try:
                for file in self._files:
                    file.flush()
            except OSError as error:
                self._give_up(self.folder, error)

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        for file in self._files:
            try:
                file.close()
            except OSError as error:
                log.debug("energyest: closing %s: %s", file.name, error)
        self._files = []

    def _open(self, name: str) -> TextIO:
        assert self.folder is not None
        file = open(self.folder / name, "w", encoding="utf-8")  # noqa: SIM115  (closed in close)
        self._files.append(file)
        return file

    def _give_up(self, folder: Path, error: OSError) -> None:
        self.folder = None
        log.warning(
            "energyest: the trace cannot be written to %s (%s). Training and measuring go on; "
            "save it at the end with trace.save(folder)",
            folder,
            error,
        )


def _claim(folder: Path) -> Path:
    """Make the folder, or a free one next to it, for this run alone."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir()
        except FileExistsError:
            # An empty folder, made for us by somebody, is as good as none.
            if candidate.is_dir() and not any(candidate.iterdir()):
                return candidate
            number += 1
        else:
            return candidate
