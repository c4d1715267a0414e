"""Appends a growing trace to its folder; trouble with the disk never reaches the training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from energyest import storage
from energyest.errors import TraceError
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
        # Lines wait here and not in the files' buffers, which a forked process would write again.
        self._lines: list[str] = []
        #: The folder that is written to; None once writing has failed.
        self.folder: Path | None = None
        try:
            self._epochs = _claim(folder)
            self.folder = Path(self._epochs.name).parent
            self._files.append(self._epochs)
            storage.write_meta(self.folder, meta)
            self._power = open(  # noqa: SIM115  (closed in close)
                self.folder / storage.POWER_FILE, "w", encoding="utf-8"
            )
            self._files.append(self._power)
            self._lines.append(storage.POWER_HEADER)
        except (OSError, TraceError) as error:
            self._give_up(folder, error)

    def write_epoch_line(self, line: str) -> None:
        """Append a row of an epoch, or an amendment of one, and flush it."""
        self._attempt(lambda folder: _append(self._epochs, line))

    def write_reading(self, reading: Reading) -> None:
        """Append a reading; `flush` brings it to the operating system."""
        if self.folder is not None:
            self._lines.append(storage.encode_reading(reading))

    def write_meta(self, meta: Mapping[str, Any]) -> None:
        """Replace the meta file."""
        self._attempt(lambda folder: storage.write_meta(folder, meta))

    def flush(self) -> None:
        """Hand what was written to the operating system, from where it survives a kill."""
        lines, self._lines = self._lines, []
        self._attempt(lambda folder: _append(self._power, "".join(lines)))

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        for file in self._files:
            try:
                file.close()
            except OSError as error:
                log.debug("energyest: closing %s: %s", file.name, error)
        self._files = []

    def _attempt(self, write: Callable[[Path], None]) -> None:
        """Write, unless that has failed before."""
        if self.folder is not None:
            try:
                write(self.folder)
            except (OSError, TraceError) as error:
                self._give_up(self.folder, error)

    def _give_up(self, folder: Path, error: Exception) -> None:
        self.folder = None
        self._lines = []
        log.warning(
            "energyest: the trace cannot be written to %s (%s). Training and measuring go on; "
            "save it at the end with trace.save(folder)",
            folder,
            error,
        )


def _append(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()


def _claim(folder: Path) -> TextIO:
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
            return open(candidate / storage.EPOCHS_FILE, "x", encoding="utf-8")
        except FileExistsError:
            continue
