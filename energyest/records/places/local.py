"""A folder of this machine that holds traces. What has not changed costs a few look-ups."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from energyest.errors import RunsError
from energyest.records import storage
from energyest.records.own_files import OwnFiles
from energyest.records.places.base import (
    RANK,
    SETTLED_AFTER_S,
    Found,
    Known,
    Listing,
    NeedsReadings,
    signature_of,
)
from energyest.records.safe_json import read_bytes

Stamp = tuple[int, int, int]


class LocalPlace:
    """A folder of this machine.

    Links to folders are not followed; the folder itself may be reached through one.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._base = f"{root}{os.sep}"

    def look(self, known: Known, *, looks_at_files: bool = True) -> Listing:
        """See `Place`. A folder is listed anew only if the time of its last change differs.

        Args:
            known: see `Place`.
            looks_at_files: whether to find out when the files of traces changed, and what their
                ranks hold. It takes most of the time; without it, a trace has no stamps.
        """
        if not self._root.is_dir():
            raise RunsError(f"there is no folder {self._root}")
        listing = Listing()
        settled_ns = time.time_ns() - int(SETTLED_AFTER_S * 1e9)
        waiting = [""]
        while waiting:
            name = waiting.pop()
            below = self._look_at(name, known, listing, settled_ns if looks_at_files else None)
            waiting += [f"{name}{os.sep}{folder}" if name else folder for folder in below]
        return listing

    @contextmanager
    def open(self, found: Found, needs_readings: NeedsReadings) -> Iterator[Path]:
        """See `Place`."""
        yield self._root / found.name

    def has(self, found: Found) -> bool:
        """See `Place`."""
        return (self._root / found.name / storage.META_FILE).exists()

    def label(self, name: str) -> str:
        """See `Place`."""
        return self._root.name if name == "." else name

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """See `Place`."""
        try:
            return read_bytes(self._root / name, most_bytes)
        except FileNotFoundError:
            return None

    def replace(self, name: str, text: str) -> None:
        """See `Place`. A link or a folder of this name is not replaced."""
        own = OwnFiles(self._root)
        try:
            if (self._root / name).is_file():
                own.adopt(name)
            own.replace(name, [text])
        finally:
            own.close()

    # ------------------------------------------------------------------ inside

    def _look_at(
        self, name: str, known: Known, listing: Listing, settled_ns: int | None
    ) -> list[str]:
        """Add what a folder is to the listing; return the folders in it that remain.

        Args:
            name: the folder.
            known: what is known already.
            listing: what is found is added here.
            settled_ns: what has changed later may change again unseen; None to look at no files.
        """
        run = known.runs.get(name or ".")
        if run is not None and self._is_unchanged(name, *run):
            listing.unchanged.append(name or ".")
            changed_ns, below = known.folders.get(name, (0, []))
            if below:
                listing.folders[name] = (changed_ns, below)
            return below
        path = f"{self._base}{name}"
        try:
            changed_ns = os.stat(path).st_mtime_ns
            if run is None and name in known.folders and known.folders[name][0] == changed_ns:
                listing.folders[name] = known.folders[name]
                return known.folders[name][1]
            files, below = _entries(path)
        except OSError:  # it has vanished, or nobody may look into it
            return []
        if storage.META_FILE in files:
            ranks = [folder for folder in below if RANK.fullmatch(folder)]
            below = [folder for folder in below if folder not in ranks]
            if settled_ns is None:
                listing.found.append(Found(name or ".", {}, is_settled=False))
            else:
                listing.found.append(self._found(name, files, ranks, settled_ns))
            if not below:
                return []
        if settled_ns is not None and changed_ns < settled_ns:
            listing.folders[name] = (changed_ns, below)
        return below

    def _is_unchanged(self, name: str, files: tuple[str, ...], signature: str) -> bool:
        base = f"{self._base}{name}{os.sep}" if name else self._base
        try:
            return signature == signature_of([_stamp(base + file) for file in files])
        except OSError:
            return False

    def _found(self, name: str, files: list[str], ranks: list[str], settled_ns: int) -> Found:
        base = f"{self._base}{name}{os.sep}" if name else self._base
        stamps: dict[str, Stamp] = {}
        for folder in ("", *sorted(ranks)):
            try:
                inside = _entries(base + folder)[0] if folder else files
                prefix = f"{folder}{os.sep}" if folder else ""
                wanted = [prefix + file for file in storage.FILES if file in inside]
                stamps |= {file: _stamp(base + file) for file in (folder, *wanted)}
            except OSError:  # it vanishes: reading will tell
                stamps.pop(folder, None)
        is_settled = all(max(stamp[:2]) < settled_ns for stamp in stamps.values())
        return Found(name or ".", stamps, is_settled)


def _entries(path: str) -> tuple[list[str], list[str]]:
    """The names of the files in a folder, and of the folders in it, without links to folders."""
    files, folders = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.name in storage.FILES:
                files.append(entry.name)
    return files, sorted(folders)


def _stamp(path: str) -> Stamp:
    """What changes with a file. Its own number does not count: some file systems renew it."""
    found = os.stat(path)
    # The size of a folder says nothing about it.
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return found.st_mtime_ns, found.st_ctime_ns, size
