"""Tables of a log (CSV, JSON lines, a JSON list or Parquet) as columns with line numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import MissingDependencyError, TraceError
from energyest.readers.text import (
    Log,
    bytes_of,
    head_of,
    read_log_text,
    rows_of,
    separator_of,
    split_row,
)

_FAILED = {"", "nan", "none", "null", "n/a", "na", "-", "[n/a]", "[not supported]"}


class Table(NamedTuple):
    """A table of a log.

    Attributes:
        path: its path.
        names: its column names.
        rows: one mapping per row; columns that a row lacks are absent.
        lines: the line of each row; the row's number if the file has no lines.
        notes: notes on what was left out.
    """

    path: Path
    names: list[str]
    rows: list[dict[str, Any]]
    lines: list[int]
    notes: list[str]

    def refusal(self, row: int, text: str) -> TraceError:
        """An error that names a row of this table."""
        return Log(self.path, [], True).refusal(self.lines[row], text)

    def texts(self, name: str) -> list[str]:
        """A column as text."""
        return [_text(row.get(name)) for row in self.rows]

    def numbers(self, name: str, factor: float = 1.0, *, decimal: str = ".") -> FloatArray:
        """A column as numbers; NaN where a row has no value.

        Raises:
            TraceError: a value is not a number, with its line.
        """
        values = []
        for number, row in enumerate(self.rows):
            text = _text(row.get(name)).replace(decimal, ".")
            if text.lower() in _FAILED:
                values.append(math.nan)
                continue
            try:
                values.append(float(text) * factor)
            except ValueError as error:
                raise self.refusal(number, f"{name} is {short(text)}, not a number") from error
        return np.array(values, dtype=np.float64)

    def where(self, keep: list[bool]) -> Table:
        """The table with only the rows to keep."""
        rows = [row for row, kept in zip(self.rows, keep, strict=True) if kept]
        lines = [line for line, kept in zip(self.lines, keep, strict=True) if kept]
        return self._replace(rows=rows, lines=lines)


def read_any_table(path: Path, *, separator: str | None = None) -> Table:
    """Read a table from a file of any of these kinds.

    Raises:
        TraceError: the file is not a table, or is damaged; the message names the line.
        MissingDependencyError: it is a Parquet file and pyarrow is not installed.
    """
    if bytes_start(path) == b"PAR1":
        return _of_parquet(path)
    head = head_of(path).lstrip()
    if head.startswith("["):
        return _of_json(path)
    if head.startswith("{"):
        return _of_lines(path)
    return _of_csv(read_log_text(path), separator)


def bytes_start(path: Path) -> bytes:
    """The first four bytes of a file, which identify its kind."""
    try:
        with open(path, "rb") as file:
            return file.read(4)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def _of_csv(log: Log, separator: str | None) -> Table:
    lines = [line for line in log.lines if not line.text.startswith("#")]
    if not lines:
        raise TraceError(f"{log.path} holds only comments")
    separator = separator or separator_of(lines[0].text)
    header = split_row(lines[0].text, separator)
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise log.refusal(lines[0].number, f"two columns are named {short(twice)}")
    rows = list(rows_of(log._replace(lines=lines), header, separator))
    notes = []
    last = log.lines[-1].number
    if not log.is_whole and rows:
        is_out = rows[-1][0] != last
        notes.append(
            log.note(
                last,
                "the last line has no line break"
                + (" and is left out" if is_out else ": its last value may be cut short"),
            )
        )
    return Table(
        log.path,
        header,
        [dict(zip(header, row, strict=True)) for _, row in rows],
        [number for number, _ in rows],
        notes,
    )


def _of_lines(path: Path) -> Table:
    log = read_log_text(path)
    rows, lines, notes = [], [], []
    for number, text in log.lines:
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            if number == log.lines[-1].number and not log.is_whole:
                notes.append(log.note(number, "the last line was cut short and is left out"))
                continue
            raise log.refusal(number, f"not a line of JSON: {error}") from error
        if not isinstance(row, dict):
            raise log.refusal(number, f"expected a JSON object, not {short(row)}")
        rows.append(row)
        lines.append(number)
    return _of_objects(path, rows, lines, notes)


def _of_json(path: Path) -> Table:
    try:
        rows = json.loads(bytes_of(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path} is not JSON: {error}") from error
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise TraceError(f"{path} holds no list of JSON objects")
    return _of_objects(path, rows, list(range(1, len(rows) + 1)), [])


def _of_parquet(path: Path) -> Table:
    import pandas as pd  # noqa: PLC0415

    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a Parquet file: install pyarrow to read it (pip install pyarrow)"
        ) from error
    except Exception as error:  # pyarrow's own errors
        raise TraceError(f"{path} is not a readable Parquet file: {error}") from error
    rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    return _of_objects(path, rows, list(range(1, len(rows) + 1)), [])


def _of_objects(
    path: Path, rows: list[dict[str, Any]], lines: list[int], notes: list[str]
) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows:
        raise TraceError(f"{path} holds no rows")
    return Table(path, names, rows, lines, notes)


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(value).strip()
