"""Logs of `dcgmi dmon`, from NVIDIA's Data Center GPU Manager."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import DATE_TIME, clock_of_rounds, clock_of_texts
from energyest.readers.readings import (
    Readings,
    notes_of_marks,
    times_of_marks,
    trace_of_readings,
)
from energyest.readers.text import Log, read_log_text
from energyest.records.trace import EnergyTrace

_HEADER = re.compile(r"#\s*Entity\b", re.IGNORECASE)
_ROW = re.compile(r"(GPU|GPU-I|GPU-CI|CPU|CORE|SWITCH|LINK|NIC)[ \t]+(\d+)[ \t]*(.*)", re.I)
# Field 155; the names of other power fields differ between versions, and are not accepted.
_POWER = ("POWER",)
_UNITS_ROW = re.compile(r"\s*#?\s*(ID|Id)\b")
# Fields of GPU utilisation and their factors to a share: GPUTL is in percent, GRACT is a share.
_BUSY = {"GPUTL": 0.01, "GRACT": 1.0}


def is_dcgm(path: Path, head: str) -> bool:
    """Whether a file is a log of `dcgmi dmon`."""
    lines = [line for line in head.splitlines()[:20] if line.strip()]
    return any(_HEADER.search(line) for line in lines)


def read_dcgm(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    interval_s: float | None = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from a log of `dcgmi dmon -e 155,203 -d 1000`.

    Args:
        path: the log.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`.
        epoch_marks: regular expression of the marks of epochs, as in `read_nvidia_smi`.
        gpu: number of the GPU to count, or a list of them; by default, all are summed.
        interval_s: seconds between readings (`-d` of dcgmi takes milliseconds); not needed if
            each line begins with a date-time, which a tool such as `ts` adds.
        timezone: the time zone of such date-times.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: the file is not such a log, has no column of power (field 155), has no times
            and `interval_s` is not given, or is ambiguous. The message names the line.

    Examples:
        >>> from energyest.readers import read_dcgm
        >>> trace = read_dcgm('dcgm.log', interval_s=1, epoch_end_s=[20, 40, 60])
        >>> trace.column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    log = read_log_text(path)
    return trace_of_readings(
        _readings(log, interval_s, timezone),
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        gpu=gpu,
        max_gap_s=max_gap_s,
    )


class _Found:
    """The content of a log, read line by line."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.names: list[str] = []
        self.lines: list[int] = []
        self.dates: list[str] = []
        self.devices: list[str] = []
        self.values: list[list[str]] = []
        self.notes: list[str] = []
        self.others: dict[str, int] = {}
        self.marks: list[tuple[int, str]] = []

    def take(self, number: int, text: str) -> None:
        text = text.strip().lstrip("[")
        date = DATE_TIME.match(text)
        rest = text[date.end() :].lstrip("] \t:,-") if date else text
        if header := _HEADER.match(rest):
            found = rest[header.end() :].upper().split()
            if self.names and found != self.names:
                raise self.log.refusal(number, f"from here on the log has other columns: {rest}")
            self.names = found
        elif row := _ROW.fullmatch(rest):
            if not self.names:
                raise self.log.refusal(number, "a reading before the header #Entity")
            if row[1].upper() == "GPU":
                self._take_reading(
                    number, date[0].strip() if date else "", f"gpu:{row[2]}", row[3].split()
                )
            else:
                self.others.setdefault(f"{row[1]} {row[2]}", number)
        elif _UNITS_ROW.match(rest):
            _check_unit(self.log, number, rest, self.names)
        else:
            self.marks.append((number, text))

    def _take_reading(self, number: int, date: str, device: str, values: list[str]) -> None:
        log = self.log
        if len(values) != len(self.names):
            if number == log.lines[-1].number and not log.is_whole:
                self.notes.append(log.note(number, "the last line was cut short and is left out"))
                return
            raise log.refusal(number, f"{len(values)} values, but the header {len(self.names)}")
        self.lines.append(number)
        self.dates.append(date)
        self.devices.append(device)
        self.values.append(values)

    def column(self, name: str) -> FloatArray:
        """A column of the readings."""
        place = self.names.index(name)
        rows = zip(self.lines, self.values, strict=True)
        return np.array([_value(self.log, line, values[place]) for line, values in rows])


def _readings(log: Log, interval_s: float | None, timezone: str | None) -> Readings:
    found = _Found(log)
    for number, text in log.lines:
        found.take(number, text)
    column = next((name for name in _POWER if name in found.names), None)
    if column is None:
        raise log.refusal(
            log.lines[0].number,
            f"no column of power among {', '.join(found.names)}: dcgmi dmon logs it with -e 155",
        )
    if not found.lines:
        raise TraceError(f"{log.path} holds no reading of a GPU")
    notes = found.notes + notes_of_marks(log, found.marks)
    for entity, number in found.others.items():
        notes.append(log.note(number, f"{entity} is not a whole GPU and is left out"))
    lines = np.array(found.lines, dtype=np.int64)
    power_W = found.column(column)
    failed = np.flatnonzero(np.isnan(power_W))
    if len(failed):
        notes.append(
            log.note(int(lines[failed[0]]), f"the first of {len(failed)} failed reading(s)")
        )
    busy = next((name for name in _BUSY if name in found.names), None)
    utilization = None
    if busy is not None:
        utilization = np.minimum(_BUSY[busy] * found.column(busy), 1.0)
    if all(found.dates):
        time_s, clock = clock_of_texts(
            found.dates, lambda n, text: log.refusal(int(lines[n]), text), timezone
        )
    elif interval_s is None:
        raise log.refusal(
            int(lines[0]),
            "dcgmi dmon writes no times: give the seconds between readings in interval_s=, as in "
            "interval_s=1.0 for -d 1000, which is in milliseconds",
        )
    else:
        time_s, clock = clock_of_rounds(found.devices, interval_s)
        notes.append(f"times are counted as one reading every {interval_s:g} s, with none missing")
    return Readings(
        log.path,
        "dcgmi dmon",
        time_s,
        np.array(found.devices, dtype=object),
        power_W,
        lines,
        clock,
        utilization=utilization,
        marks=times_of_marks(found.marks, lines, time_s),
        notes=notes,
        facts={"power_column": column},
    )


def _check_unit(log: Log, number: int, text: str, names: list[str]) -> None:
    """Refuse power that is not in watts; newer versions write units below the names.

    Columns without a unit are blank in that line, so units cannot be assigned to columns: it is
    enough that a log with a column of power has a W.
    """
    units = text.lstrip("# ").split()[1:]
    if units and {*names} & {*_POWER} and "W" not in units:
        raise log.refusal(number, f"no W among the units {' '.join(units)}: is power in watts?")


def _value(log: Log, line: int, text: str) -> float:
    if text.upper() in ("N/A", "-", "NAN"):
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise log.refusal(line, f"{short(text)} is not a number") from error
