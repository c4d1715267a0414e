"""Text of `nvidia-smi dmon`: columns below a two-line header that is repeated."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import Clock, clock_of_rounds, clock_of_texts
from energyest.readers.readings import Readings
from energyest.readers.text import Log

_HALF_DAY_S = 43_200.0


def is_dmon(head: str) -> bool:
    """Whether text begins like the output of `nvidia-smi dmon` or `pmon`."""
    lines = [line for line in head.splitlines() if line.strip()]
    return bool(lines) and bool(re.match(r"#\s*(Date[\s,]+)?(Time[\s,]+)?gpu[\s,]", lines[0]))


def readings_of(log: Log, interval_s: float | None, timezone: str | None) -> Readings:
    """The readings of a log of `nvidia-smi dmon`.

    Raises:
        TraceError: it holds no power, as with `pmon`, or it holds no times and `interval_s` is not
            given.
    """
    names: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    notes: list[str] = []
    for number, text in log.lines:
        fields = re.split(r"[\s,]+", text.lstrip("# \t").strip())
        if text.lstrip().startswith("#"):
            fields = [field.lower() for field in fields]
            if "gpu" in fields:
                if names and fields != names:
                    raise log.refusal(number, "from here on the log has other columns")
                names = fields
            elif "pwr" in names and fields[names.index("pwr")] != "w":
                raise log.refusal(number, f"power in {short(fields[names.index('pwr')])}, not W")
            continue
        if "pwr" not in names:
            raise log.refusal(
                log.lines[0].number,
                "no column pwr: pmon does not report power; dmon does with -s p",
            )
        if len(fields) != len(names):
            if number == log.lines[-1].number and not log.is_whole:
                notes.append(log.note(number, "the last line was cut short and is left out"))
                continue
            raise log.refusal(number, f"{len(fields)} fields, but the header has {len(names)}")
        rows.append((number, fields))
    if not rows:
        raise TraceError(f"{log.path} holds no reading of nvidia-smi dmon")
    lines = np.array([number for number, _ in rows], dtype=np.int64)
    devices = np.array([f"gpu:{row[names.index('gpu')]}" for _, row in rows], dtype=object)
    power_W = np.array([_number(log, number, row[names.index("pwr")]) for number, row in rows])
    busy = names.index("sm") if "sm" in names else None
    utilization = (
        None
        if busy is None
        else np.array([min(_number(log, number, row[busy]) / 100, 1.0) for number, row in rows])
    )
    time_s, clock = _times(log, names, rows, devices, interval_s, timezone)
    return Readings(
        log.path,
        "nvidia-smi dmon",
        time_s,
        devices,
        power_W,
        lines,
        clock,
        utilization=utilization,
        notes=notes,
        facts={"power_column": "pwr"},
    )


def _times(
    log: Log,
    names: list[str],
    rows: list[tuple[int, list[str]]],
    devices: Any,
    interval_s: float | None,
    timezone: str | None,
) -> tuple[Any, Clock]:
    if "time" not in names:
        if interval_s is None:
            raise log.refusal(
                log.lines[0].number,
                "the log has no times (dmon -o DT): give the seconds between readings (dmon -d) "
                "in interval_s=",
            )
        return clock_of_rounds(devices, interval_s)
    clocks = [row[names.index("time")] for _, row in rows]
    if "date" in names:
        days = [row[names.index("date")] for _, row in rows]
        texts = [
            f"{day[:4]}-{day[4:6]}-{day[6:]} {time}" if day.isdigit() else f"{day} {time}"
            for day, time in zip(days, clocks, strict=True)
        ]
        return clock_of_texts(texts, lambda n, text: log.refusal(rows[n][0], text), timezone)
    seconds = []
    for (number, _), text in zip(rows, clocks, strict=True):
        if not re.fullmatch(r"\d\d:\d\d:\d\d", text):
            raise log.refusal(number, f"{short(text)} is not a time of day")
        hours, minutes, rest = map(int, text.split(":"))
        seconds.append(3600.0 * hours + 60 * minutes + rest)
    time_s = np.array(seconds)
    # Midnight is where the time of day falls by nearly a day.
    time_s += 86_400.0 * np.cumsum(np.append(0, np.diff(time_s) < -_HALF_DAY_S))
    return time_s - time_s[0], Clock()


def _number(log: Log, line: int, text: str) -> float:
    if text in ("-", "N/A"):
        return math.nan
    try:
        return float(text)
    except ValueError as error:
        raise log.refusal(line, f"{short(text)} is not a number") from error
