"""Power logs of MLPerf: PTDaemon's `spl.txt`, and `power_reading` lines of MLLOG."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from energyest.checks import is_number, short
from energyest.errors import TraceError
from energyest.readers.clock import clock_of_texts, clock_of_unix
from energyest.readers.readings import Readings, trace_of_readings
from energyest.readers.text import Log, read_log_text
from energyest.records.trace import EnergyTrace

_SPL = re.compile(r"Time,(\d\d)-(\d\d)-(\d{4}) (\d\d:\d\d:\d\d(?:\.\d+)?),Watts,([^,]+)(.*)")
_MARK = re.compile(r",Mark,([^,]*)")
_MLLOG = re.compile(r":::MLLOG\s+(\{.*\})")
# What PTDaemon writes if a meter gave no value.
_FAILED = {"-1", "-1.0", "-1.000000", "nan", "n/a"}
_DEVICE = "system:0"


def is_mlperf_power(path: Path, head: str) -> bool:
    """Whether a file is a power log of MLPerf."""
    return bool(_SPL.search(head)) or (":::MLLOG" in head and "power_reading" in head)


def read_mlperf_power(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from a power log of MLPerf, which covers a whole node, metered at the plug.

    Args:
        path: `spl.txt` of PTDaemon, with dates as month-day-year, or a log with `power_reading`
            lines of MLLOG.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`. If this is the training's own log,
            `epoch_marks="epoch_stop"` finds the ends in it.
        epoch_marks: regular expression: an epoch ends where a matching mark of `spl.txt` ends, or,
            if `epoch_end_s` is a file, at its matching lines.
        timezone: the time zone of PTDaemon's local times.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: the file is not such a log, or one of its lines does not fit. The message names
            the line.

    Examples:
        >>> from energyest.readers import read_mlperf_power
        >>> trace = read_mlperf_power('spl.txt', epoch_end_s=[20, 40, 60])
        >>> trace.column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    log = read_log_text(path)
    is_spl = any(_SPL.match(line.text) for line in log.lines[:50])
    readings = _of_spl(log, timezone) if is_spl else _of_mllog(log, timezone)
    return trace_of_readings(
        readings, epoch_end_s=epoch_end_s, epoch_marks=epoch_marks, max_gap_s=max_gap_s
    )


def _of_spl(log: Log, timezone: str | None) -> Readings:
    lines, texts, power_W, marks, notes = [], [], [], [], []
    for number, text in log.lines:
        match = _SPL.fullmatch(text)
        if match is None:
            if number == log.lines[-1].number and not log.is_whole:
                notes.append(log.note(number, "the last line was cut short and is left out"))
                continue
            raise log.refusal(number, f"not a reading of PTDaemon: {short(text)}")
        month, day, year, time, watts, rest = match.groups()
        lines.append(number)
        texts.append(f"{year}-{month}-{day} {time}")
        power_W.append(_watts(log, number, watts))
        mark = _MARK.search(rest)
        marks.append(mark[1] if mark else "")
    if not lines:
        raise TraceError(f"{log.path} holds no reading of PTDaemon")
    time_s, clock = clock_of_texts(texts, lambda n, text: log.refusal(lines[n], text), timezone)
    # A mark is repeated with each reading until the next mark: it ends with its last reading.
    last = [n for n in range(len(marks)) if n + 1 == len(marks) or marks[n + 1] != marks[n]]
    return _whole(
        log, "mlperf spl", time_s, power_W, lines, clock, notes,
        marks=[(float(time_s[n]), marks[n]) for n in last],
    )  # fmt: skip


def _of_mllog(log: Log, timezone: str | None) -> Readings:
    lines, unix_s, power_W, notes = [], [], [], []
    events: list[tuple[float, str]] = []
    for number, text in log.lines:
        match = _MLLOG.search(text)
        if match is None:
            continue
        try:
            event = json.loads(match[1])
        except (ValueError, RecursionError) as error:
            raise log.refusal(number, f"not an event of MLLOG: {error}") from error
        when = event.get("time_ms")
        if not is_number(when):
            raise log.refusal(number, "an event without time_ms")
        if event.get("key") == "power_reading":
            value = event.get("value")
            if not is_number(value):
                raise log.refusal(number, f"{short(value)} is not a power in watts")
            lines.append(number)
            unix_s.append(when / 1000)
            power_W.append(float(value))
        elif event.get("key") == "conversion_eff" and event.get("value") != 1:
            notes.append(
                log.note(
                    number,
                    f"the stated conversion efficiency of {short(event.get('value'))} is not "
                    "applied: power is taken as read",
                )
            )
        else:
            events.append((when / 1000, text))
    if not lines:
        raise TraceError(f"{log.path} holds no power_reading of MLPerf")
    time_s, clock = clock_of_unix(np.array(unix_s))
    marks = [(when - clock.zero_s, text) for when, text in events]
    clock = clock._replace(timezone=timezone)
    return _whole(log, "mlperf mllog", time_s, power_W, lines, clock, notes, marks=marks)


def _whole(
    log: Log,
    tool: str,
    time_s: Any,
    power_W: list[float],
    lines: list[int],
    clock: Any,
    notes: list[str],
    *,
    marks: list[tuple[float, str]],
) -> Readings:
    """Readings of a whole node."""
    return Readings(
        log.path,
        tool,
        time_s,
        np.full(len(lines), _DEVICE, dtype=object),
        np.array(power_W),
        np.array(lines, dtype=np.int64),
        clock,
        devices=[{"device": _DEVICE, "kind": "system", "name": "whole node", "source": "measured"}],
        marks=marks,
        notes=notes,
    )


def _watts(log: Log, line: int, text: str) -> float:
    if text.strip().lower() in _FAILED:
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise log.refusal(line, f"{short(text)} is not a power in watts") from error
