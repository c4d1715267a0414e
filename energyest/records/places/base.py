"""What a place tells of the traces in it: which there are, and whether their files changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

from energyest.records import storage

#: The folder of a rank within a trace.
RANK = re.compile(r"rank[1-9]\d{0,4}")
# What changed less than this ago may change again without a later time: disks keep times in steps.
SETTLED_AFTER_S = 3.0
#: Whether the readings of the process with this `meta.json` are needed.
NeedsReadings = Callable[[bytes], bool]


@dataclass(frozen=True)
class Found:
    """A trace that was found.

    Attributes:
        name: its folder within the place; "." for the place itself.
        stamps: the files and folders of the trace, each with what changes when it does; paths
            within the trace's folder, "" for that itself.
        is_settled: whether any change from now on will show in the stamps.
    """

    name: str
    stamps: Mapping[str, object]
    is_settled: bool

    def signature(self, files: Sequence[str]) -> str:
        """A text that changes if one of these files does; empty if a change may not show."""
        return signature_of([self.stamps.get(file) for file in files]) if self.is_settled else ""

    def files(self, *, readings: bool) -> tuple[str, ...]:
        """The files that a summary depends on, with those of the readings or without them."""
        return tuple(f for f in self.stamps if readings or not f.endswith(storage.POWER_FILE))


@dataclass
class Known:
    """What an earlier look at a place has found.

    Attributes:
        runs: name of a trace -> its files and their signature.
        folders: other folders -> when they changed, in ns, and the folders in them.
    """

    runs: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    folders: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


@dataclass
class Listing:
    """What a place holds now.

    Attributes:
        unchanged: names of the known traces whose files are as they were.
        found: the others.
        folders: as in `Known`.
    """

    unchanged: list[str] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    folders: dict[str, tuple[int, list[str]]] = field(default_factory=dict)


class Place(Protocol):
    """A folder, on this machine or elsewhere, that holds traces at any depth."""

    def look(self, known: Known) -> Listing:
        """The traces below this place, without the folders of ranks in them.

        Raises:
            RunsError: there is no such folder, or it cannot be reached.
        """

    def open(self, found: Found, needs_readings: NeedsReadings) -> AbstractContextManager[Path]:
        """A trace as a folder of this machine, for as long as the context lasts.

        Raises:
            OSError: its files cannot be fetched.
        """

    def has(self, found: Found) -> bool:
        """Whether a trace that was found is still there."""

    def label(self, name: str) -> str:
        """How tables and messages name a trace."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """A file of the place itself; None if there is none.

        Raises:
            OSError: it cannot be read.
            ValueError: it is too large, or no regular file.
        """

    def replace(self, name: str, text: str) -> None:
        """Write a file of the place itself as a whole, so that nobody sees half of it.

        Raises:
            OSError: it cannot be written, or somebody else has just written it.
        """


def in_order(found: Iterable[Found]) -> list[Found]:
    """Traces in the order of their folders: one comes before those inside it."""
    return sorted(found, key=lambda one: PurePath(one.name).parts)


def is_inside(name: str, others: Collection[str]) -> bool:
    """Whether a trace of this name lies inside one of the others."""
    return any(str(above) in others for above in PurePath(name).parents)


def signature_of(stamps: Sequence[object]) -> str:
    """A short text that differs for other stamps."""
    return hashlib.blake2b(repr(stamps).encode(), digest_size=12).hexdigest()
