"""SQLite databases of experiment trackers, opened read-only."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from energyest.errors import TraceError


@contextmanager
def open_database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database read-only, without creating it.

    Raises:
        TraceError: there is no such database, or it is damaged.
    """
    if not path.is_file():
        raise TraceError(f"no log at {path}")
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise TraceError(f"{path} cannot be read as a database: {error}") from error
    try:
        yield database
    finally:
        database.close()


def tables_of(path: Path) -> set[str]:
    """The names of a database's tables; empty if the file is not a database."""
    try:
        with open_database(path) as database:
            names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            return {str(name) for (name,) in names}
    except (sqlite3.Error, TraceError):
        return set()
