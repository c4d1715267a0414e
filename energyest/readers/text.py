"""Text of a log: decoded, in numbered lines, and never more than a log can have."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from energyest.checks import short
from energyest.errors import TraceError
from energyest.records.safe_json import read_bytes

# A week of readings of eight GPUs, once a second, is 0.4 GB.
MOST_BYTES = 2**30
# A row of all system metrics of a node takes some kilobytes.
_LONGEST_LINE = 2**20
_HEAD_BYTES = 2**16
_BYTE_ORDERS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


class Line(NamedTuple):
    """A line of a log, with its number from 1 on."""

    number: int
    text: str


class Log(NamedTuple):
    """The text of a log.

    Attributes:
        path: where it lies.
        lines: all that are not blank, without their ends.
        is_whole: whether the last line ends as lines do; else it may be cut short.
    """

    path: Path
    lines: list[Line]
    is_whole: bool

    def refusal(self, line: int, text: str) -> TraceError:
        """The error that names a line of this log."""
        return TraceError(f"{self.path}, line {line}: {text}")

    def note(self, line: int, text: str) -> str:
        """A note that names a line of this log."""
        return f"{self.path.name}, line {line}: {text}"


def read_log_text(path: str | Path) -> Log:
    """The lines of a text file: UTF-8, or UTF-16 as Windows' PowerShell redirects it.

    Raises:
        TraceError: it cannot be read, is no text, is empty, or has a line as no log has.
    """
    path = Path(path)
    data = bytes_of(path)
    log = Log(path, [], True)
    encoding = _encoding(data)
    if encoding == "utf-8" and b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise log.refusal(line, "it holds bytes of 0: this is no text, or a damaged file")
    text = data.decode(encoding, errors="replace").removeprefix("\ufeff")
    for number, one in enumerate(text.split("\n"), 1):
        if len(one) > _LONGEST_LINE:
            size = f"{len(one)} characters, more than {_LONGEST_LINE}"
            raise log.refusal(number, f"it has {size}: no log of a tool has such lines")
        if one.strip():
            log.lines.append(Line(number, one.rstrip("\r")))
    if not log.lines:
        raise TraceError(f"{path} is empty")
    return log._replace(is_whole=text.endswith(("\n", "\r")))


def head_of(path: Path) -> str:
    """The beginning of a file as text, to tell which tool has written it."""
    try:
        with open(path, "rb") as file:
            data = file.read(_HEAD_BYTES)
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error
    return data.decode(_encoding(data), errors="replace").removeprefix("\ufeff")


def bytes_of(path: Path) -> bytes:
    """All of a file.

    Raises:
        TraceError: it is missing, no regular file, too large, or cannot be read.
    """
    try:
        return read_bytes(path, MOST_BYTES)
    except FileNotFoundError as error:
        raise TraceError(f"no log at {path}") from error
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def split_row(text: str, separator: str = ",") -> list[str]:
    """The fields of a row of a CSV file, without blanks around them."""
    if '"' not in text:
        return [field.strip() for field in text.split(separator)]
    try:
        row = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # no row of a CSV file, nor one of any use
        row = text.split(separator)
    return [field.strip() for field in row]


def separator_of(header: str) -> str:
    """What stands between the columns of a table: a comma, a semicolon or a tabulator."""
    return max(",;\t", key=header.count)


def rows_of(log: Log, header: list[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file below its header, which may be repeated; blank ones left out.

    Raises:
        TraceError: a row has more or fewer fields than the header; the last one of a file that
            breaks off is left out instead.
    """
    for number, text in log.lines[1:]:
        row = split_row(text, separator)
        if row == header or text.startswith("#"):
            continue
        if len(row) != len(header):
            if number == log.lines[-1].number and not log.is_whole and len(row) < len(header):
                continue
            raise log.refusal(
                number, f"it has {len(row)} fields, and the header {len(header)}: {short(text)}"
            )
        yield number, row


def _encoding(data: bytes) -> str:
    if data[:2] in _BYTE_ORDERS:
        return _BYTE_ORDERS[data[:2]]
    # UTF-16 without a mark of its byte order: each second byte of plain letters is 0.
    some = data[:200]
    if len(some) > 3 and some[1::2].count(0) > 0.9 * len(some[1::2]):
        return "utf-16-le"
    return "utf-8"
