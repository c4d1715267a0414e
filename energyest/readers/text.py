"""The text of a log: decoded, split into numbered lines, and limited in size."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from energyest.checks import short
from energyest.errors import TraceError
from energyest.records.safe_json import read_bytes

# A week of readings of eight GPUs, once a second, takes 0.4 GB.
MOST_BYTES = 2**30
# A row with all system metrics of a node takes a few kilobytes.
_LONGEST_LINE = 2**20
_HEAD_BYTES = 2**16
_BYTE_ORDERS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Line(NamedTuple):
    """A line of a log, with its number, counted from 1."""

    number: int
    text: str


class Log(NamedTuple):
    """The text of a log.

    Attributes:
        path: its path.
        lines: the lines that are not blank, without line breaks.
        is_whole: whether the last line ends with a line break; if not, it may be cut short.
    """

    path: Path
    lines: list[Line]
    is_whole: bool

    def refusal(self, line: int, text: str) -> TraceError:
        """An error that names a line of this log."""
        return TraceError(f"{self.path}, line {line}: {text}")

    def note(self, line: int, text: str) -> str:
        """A note that names a line of this log."""
        return f"{self.path.name}, line {line}: {text}"


def read_log_text(path: str | Path) -> Log:
    """Read the lines of a text file in UTF-8, or in UTF-16 as PowerShell writes it.

    Raises:
        TraceError: the file cannot be read, is not text, is empty, or has an absurdly long line.
    """
    path = Path(path)
    data = bytes_of(path)
    log = Log(path, [], True)
    encoding = _encoding(data)
    if encoding == "utf-8" and b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise log.refusal(line, "it holds zero bytes: the file is not text, or is damaged")
    text = data.decode(encoding, errors="replace").removeprefix("\ufeff")
    for number, one in enumerate(text.split("\n"), 1):
        if len(one) > _LONGEST_LINE:
            size = f"{len(one)} characters, more than {_LONGEST_LINE}"
            raise log.refusal(number, f"it has {size}: no tool's log has such lines")
        if one.strip():
            log.lines.append(Line(number, one.rstrip("\r")))
    if not log.lines:
        raise TraceError(f"{path} is empty")
    return log._replace(is_whole=text.endswith(("\n", "\r")))


def head_of(path: Path) -> str:
    """The beginning of a file as text, to recognise the tool that wrote it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_HEAD_BYTES)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    return data.decode(_encoding(data), errors="replace").removeprefix("\ufeff")


def bytes_of(path: Path) -> bytes:
    """The content of a file.

    Raises:
        TraceError: it is missing, not a regular file, too large, or cannot be read.
    """
    try:
        return read_bytes(path, MOST_BYTES)
    except FileNotFoundError as error:
        raise TraceError(f"no log at {path}") from error
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def split_row(text: str, separator: str = ",") -> list[str]:
    """Split a CSV row into fields, without surrounding blanks."""
    if '"' not in text:
        return [field.strip() for field in text.split(separator)]
    try:
        row = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # not a CSV row, and of no use otherwise
        row = text.split(separator)
    return [field.strip() for field in row]


def separator_of(header: str) -> str:
    """The separator of a table's columns: a comma, a semicolon or a tab."""
    return max(",;\t", key=header.count)


def rows_of(log: Log, header: list[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file below its header; repeated headers and comments are skipped.

    Raises:
        TraceError: a row has more or fewer fields than the header. A truncated last row is left
            out instead.
    """
    for number, text in log.lines[1:]:
        row = split_row(text, separator)
        if row == header or text.startswith("#"):
            continue
        if len(row) != len(header):
            if number == log.lines[-1].number and not log.is_whole and len(row) < len(header):
                continue
            raise log.refusal(
                number, f"it has {len(row)} fields, but the header {len(header)}: {short(text)}"
            )
        yield number, row


def _encoding(data: bytes) -> str:
    if data[:2] in _BYTE_ORDERS:
        return _BYTE_ORDERS[data[:2]]
    # UTF-16 without a byte-order mark: every second byte of plain letters is 0.
    some = data[:200]
    if len(some) > 3 and some[1::2].count(0) > 0.9 * len(some[1::2]):
        return "utf-16-le"
    return "utf-8"
