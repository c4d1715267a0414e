"""Epoch ends: from numbers, dates, a second file, marks in a log, or a function."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import DATE_TIME, Clock, seconds_on
from energyest.readers.text import Log, read_log_text, separator_of, split_row

if TYPE_CHECKING:
    import pandas as pd

# Names of the column of epoch ends in a table.
_COLUMN = re.compile(r"(epoch_)?ends?(_s|_time)?|time(_s|stamp)?", re.IGNORECASE)
# Time of an event in MLPerf's training logs.
_TIME_MS = re.compile(r'"time_ms":\s*(\d+(?:\.\d+)?)')
_UNIX = re.compile(r"(?<![\d.])1\d{9}(?:\.\d+)?(?![\d.])")


def ends_on(
    clock: Clock,
    epoch_end_s: Any,
    epoch_marks: str | None,
    marks: Iterable[tuple[float, str]],
    readings: Callable[[], pd.DataFrame],
) -> FloatArray:
    """The ends of epochs on the clock of a log; empty if none are given.

    Args:
        clock: the log's clock.
        epoch_end_s: the argument that the reader received.
        epoch_marks: regular expression that matches the lines at the end of an epoch.
        marks: times and texts of the log's lines that are not readings.
        readings: returns the log's readings, for a function that the user passed.

    Raises:
        TraceError: the ends cannot be used, or none were found although they were asked for.
    """
    pattern = _pattern(epoch_marks)
    if callable(epoch_end_s):
        return seconds_on(np.asarray(epoch_end_s(readings())).tolist(), clock, "epoch_end_s")
    if isinstance(epoch_end_s, (str, Path)):
        log = read_log_text(epoch_end_s)
        if pattern is None:
            return _of_table(log, clock)
        return _of_lines(log, pattern, clock)
    if epoch_end_s is not None:
        if pattern is not None:
            raise TraceError(
                "epoch_marks= finds ends in a log: set epoch_end_s= to a file, or leave it out"
            )
        values = epoch_end_s if isinstance(epoch_end_s, Sequence) else list(epoch_end_s)
        return seconds_on(values, clock, "epoch_end_s")
    if pattern is None:
        return np.empty(0)
    found = [time_s for time_s, text in marks if pattern.search(text)]
    if not found:
        raise TraceError(f"no mark in the log matches epoch_marks={short(pattern.pattern)}")
    return np.asarray(found, dtype=np.float64)


def _pattern(epoch_marks: str | None) -> re.Pattern[str] | None:
    if epoch_marks is None:
        return None
    try:
        return re.compile(epoch_marks)
    except re.error as error:
        raise TraceError(
            f"epoch_marks={short(epoch_marks)} is not a valid regular expression: {error}"
        ) from error


def _of_table(log: Log, clock: Clock) -> FloatArray:
    """Ends from a file: one per line, or a suitably named column of a table."""
    lines = [line for line in log.lines if not line.text.lstrip().startswith("#")]
    if not lines:
        raise TraceError(f"{log.path} holds no ends of epochs")
    separator = separator_of(lines[0].text)
    header = split_row(lines[0].text, separator)
    column = 0
    if not any(_is_time(field) for field in header):
        columns = [n for n, name in enumerate(header) if _COLUMN.fullmatch(name)]
        # Of two columns, such as end_s and timestamp, prefer the one whose name says "end".
        sure = [n for n in columns if "end" in header[n].lower()] or columns
        if len(sure) != 1 and len(header) > 1:
            raise log.refusal(
                lines[0].number,
                f"which of {', '.join(header)} holds the ends? Name that column epoch_end_s",
            )
        column = sure[0] if sure else 0
        lines = lines[1:]
    elif len(header) > 1:
        raise log.refusal(
            lines[0].number,
            "several columns and no header: name one of them epoch_end_s; if this is a "
            "training's log, add epoch_marks=",
        )
    texts = []
    for number, text in lines:
        fields = split_row(text, separator)
        if column >= len(fields) or not _is_time(fields[column]):
            raise log.refusal(number, f"{short(text)} is neither seconds nor a date-time")
        texts.append(fields[column])
    return seconds_on(texts, clock, f"{log.path.name}: epoch_end_s")


def _of_lines(log: Log, pattern: re.Pattern[str], clock: Clock) -> FloatArray:
    """Ends from the matching lines of a training log, by the date-time in each."""
    texts = []
    for number, text in log.lines:
        if not pattern.search(text):
            continue
        in_ms, date, unix = _TIME_MS.search(text), DATE_TIME.search(text), _UNIX.search(text)
        if in_ms:
            texts.append(str(float(in_ms[1]) / 1000))
        elif date or unix:
            texts.append((date or unix)[0].strip())  # type: ignore[index]
        else:
            raise log.refusal(number, f"it holds neither a date-time nor Unix time: {short(text)}")
    if not texts:
        raise TraceError(f"{log.path}: no line matches epoch_marks={short(pattern.pattern)}")
    return seconds_on(texts, clock, f"{log.path.name}: its marks")


def _is_time(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return bool(DATE_TIME.fullmatch(text.strip()))
