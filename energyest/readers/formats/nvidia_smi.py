"""Logs of `nvidia-smi --query-gpu=... --format=csv`, and of `nvidia-smi dmon`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import DATE_TIME, clock_of_rounds, clock_of_texts
from energyest.readers.formats import nvidia_dmon
from energyest.readers.formats.nvidia_columns import (
    FAILED,
    IDENTITY,
    POWER,
    TWO_DIGITS,
    Columns,
    columns_of,
    guessed_columns,
)
from energyest.readers.readings import Readings, notes_of_marks, times_of_marks, trace_of_readings
from energyest.readers.text import Line, Log, read_log_text, split_row
from energyest.records.trace import EnergyTrace

_NAMES = ("name", "gpu_name")
_LIMIT = ("enforced.power.limit", "power.limit")
_VALUE = re.compile(r"([-+]?\d+(?:\.\d+)?)(?:\s*([A-Za-z%]+))?")
_TO_W = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
# Messages of nvidia-smi when it, the driver or a board fails.
_MESSAGE = re.compile(
    r"\s*(Unable to determine|No devices were found|NVIDIA-SMI has failed|Failed to|"
    r"Unable to|GPU is lost|WARNING:|Terminating|\^C|Killed)",
    re.I,
)


def is_nvidia_smi(path: Path, head: str) -> bool:
    """Whether a file is a log of nvidia-smi."""
    if nvidia_dmon.is_dmon(head):
        return True
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return False
    first = split_row(lines[0])
    if any(re.match(r"(module\.)?power\.draw", name) for name in first):
        return True
    is_time = bool(re.fullmatch(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}", first[0]))
    return len(first) > 1 and is_time


def read_nvidia_smi(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    columns: Sequence[str] | None = None,
    interval_s: float | None = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from a log of `nvidia-smi --query-gpu=timestamp,power.draw,... --format=csv`.

    The log may have a header and units or not, cover one or several GPUs, and have been restarted
    and appended to. Logs of `nvidia-smi dmon` are read too.

    Args:
        path: the log.
        epoch_end_s: when epochs ended: seconds since the first reading, Unix times or date-times;
            or a file with one of these per line, or with a column of that name; or a function that
            takes the readings as a DataFrame and returns the ends. Without it, the trace has a
            total but no epochs.
        epoch_marks: regular expression of the lines that mark the end of an epoch, in the log or,
            if `epoch_end_s` is a file, in that file.
        gpu: index or UUID of the GPU to count, or a list of them; by default, all are summed.
        columns: the columns given to `--query-gpu`, for a log without a header.
        interval_s: seconds between readings (`-l`, `-lms`, `-d`), for a log without times.
        timezone: the time zone of the log's local times, such as "Europe/Berlin"; needed if the
            epoch ends state a time zone, or if the clock changed.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: the file is not such a log, or is ambiguous. The message names the line.

    Warns:
        UserWarning: there are failed readings, gaps, a truncated last line, and the like.

    Examples:
        >>> from energyest.readers import read_nvidia_smi
        >>> trace = read_nvidia_smi('gpus.csv', epoch_end_s=[26, 46, 66])
        >>> trace.column('mean_power_W').round().tolist()
        [251.0, 300.0, 300.0]
    """
    log = read_log_text(path)
    readings = (
        nvidia_dmon.readings_of(log, interval_s, timezone)
        if nvidia_dmon.is_dmon("\n".join(line.text for line in log.lines[:20]))
        else _readings(log, columns, interval_s, timezone)
    )
    return trace_of_readings(
        readings,
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        gpu=gpu,
        max_gap_s=max_gap_s,
    )


def _readings(
    log: Log, columns: Sequence[str] | None, interval_s: float | None, timezone: str | None
) -> Readings:
    rows, notes, marks = _rows(log, columns)
    first = rows[0][1]
    time_column, power_column = first.first(["timestamp"]), _power_column(rows)
    identity = first.first(IDENTITY)
    named = first.first(_NAMES)
    tells_devices = identity is not None
    if identity is None and named is not None and len({row[named] for _, _, row in rows}) > 1:
        identity = named
    keys = [_field(log, line, of, row, first, identity) for line, of, row in rows]
    devices = _devices(keys, rows, first)
    power_W = np.array(
        [
            _watts(
                log, line, row[of.names.index(power_column)], of.units[of.names.index(power_column)]
            )
            for line, of, row in rows
        ]
    )
    lines = np.array([line for line, _, _ in rows], dtype=np.int64)
    failed = int(np.isnan(power_W).sum())
    if failed:
        where = int(lines[np.isnan(power_W)][0])
        notes.append(log.note(where, f"the first of {failed} failed power reading(s)"))
    busy = first.first(["utilization.gpu"])
    utilization = None
    if busy is not None:
        utilization = np.array(
            [_share(row[busy]) if of.names == first.names else math.nan for _, of, row in rows]
        )
        if not np.isfinite(utilization).any():
            utilization = None
    names = np.array([devices[key] for key in keys], dtype=object)
    if time_column is None:
        if interval_s is None:
            raise log.refusal(
                log.lines[0].number,
                "the log has no times (--query-gpu=timestamp): give the seconds between readings "
                "in interval_s=",
            )
        time_s, clock = clock_of_rounds(names.tolist(), interval_s)
    else:
        texts = [row[of.names.index("timestamp")] for _, of, row in rows]
        time_s, clock = clock_of_texts(
            texts, lambda n, text: log.refusal(int(lines[n]), text), timezone
        )
    return Readings(
        log.path,
        "nvidia-smi",
        time_s,
        names,
        power_W,
        lines,
        clock,
        utilization=utilization,
        devices=_entries(devices, keys, rows, first),
        tells_devices=tells_devices,
        marks=times_of_marks(marks, lines, time_s),
        notes=notes,
        facts={"power_column": power_column},
    )


# A row: its line, its columns, its fields.
Row = tuple[int, Columns, list[str]]


def _rows(
    log: Log, columns: Sequence[str] | None
) -> tuple[list[Row], list[str], list[tuple[int, str]]]:
    """The rows of readings with their columns, notes, and the lines that are not readings."""
    of = columns_of(split_row(log.lines[0].text))
    if columns is not None:
        of = columns_of(list(columns)) or of
    notes: list[str] = []
    if of is None:
        of, note = guessed_columns(log)
        notes.append(note)
    rows: list[Row] = []
    marks: list[tuple[int, str]] = []
    for line in log.lines:
        fields = split_row(line.text)
        header = columns_of(fields)
        if header is not None:
            of = of if columns is not None else _next_columns(log, line, of, header)
            continue
        reading = _reading(log, line, fields, of)
        if reading is not None:
            rows.append((line.number, of, reading))
        elif line.number == log.lines[-1].number and not log.is_whole:
            notes.append(log.note(line.number, "the last line was cut short and is left out"))
        elif _MESSAGE.match(line.text):
            notes.append(log.note(line.number, f"left out: {short(line.text.strip())}"))
        elif len(fields) == 1 or line.text.lstrip().startswith("#"):
            marks.append((line.number, line.text))
        else:
            raise log.refusal(
                line.number,
                f"{len(fields)} fields instead of {len(of.names)} ({', '.join(of.names)}): "
                f"{short(line.text)}",
            )
    if not rows:
        raise TraceError(f"{log.path} holds no reading of nvidia-smi")
    return rows, notes + notes_of_marks(log, marks), marks


def _next_columns(log: Log, line: Line, of: Columns, header: Columns) -> Columns:
    """The columns below a repeated header, as after a restart."""
    lost = {*of.names} & {*IDENTITY, "timestamp"} - {*header.names}
    if lost:
        raise log.refusal(line.number, f"from here on the log lacks {', '.join(sorted(lost))}")
    return header


def _reading(log: Log, line: Line, fields: list[str], of: Columns) -> list[str] | None:
    """The fields of a reading; None if the line is not a reading."""
    if len(fields) != len(of.names):
        return None
    if "timestamp" in of.names and not DATE_TIME.fullmatch(fields[of.names.index("timestamp")]):
        return None
    powers = [fields[of.names.index(name)] for name in POWER if name in of.names]
    if line.number == log.lines[-1].number and not log.is_whole:
        # A truncated number looks like a smaller one.
        tail = fields[-1]
        if of.names[-1] in POWER and not (TWO_DIGITS.fullmatch(tail) or FAILED.fullmatch(tail)):
            return None
        if of.names[-1] == "utilization.gpu" and "%" not in tail:
            fields = [*fields[:-1], "N/A"]
    return fields if powers else None


def _power_column(rows: list[Row]) -> str:
    """The best power column that holds a value."""
    known = [name for name in POWER if all(name in of.names for _, of, _ in rows)]
    for name in known:
        if any(not FAILED.fullmatch(row[of.names.index(name)]) for _, of, row in rows):
            return name
    return known[0]


def _field(
    log: Log, line: int, of: Columns, row: list[str], first: Columns, column: int | None
) -> str:
    """The field of a row that identifies its GPU."""
    if column is None:
        return ""
    name = first.names[column]
    if name not in of.names:
        raise log.refusal(line, f"the log lacks {name} here, by which GPUs are distinguished")
    return row[of.names.index(name)]


def _devices(keys: list[str], rows: list[Row], first: Columns) -> dict[str, str]:
    """The device name for each key: from the GPU's index if logged, else in order of appearance."""
    index = first.first(["index"])
    devices: dict[str, str] = {}
    for key, (_, of, row) in zip(keys, rows, strict=True):
        if key not in devices:
            number = row[index] if index is not None and of.names == first.names else ""
            devices[key] = f"gpu:{number}" if number.isdigit() else f"gpu:{len(devices)}"
    # If two boards share an index, as after one was replaced, the index is of no use.
    if len({*devices.values()}) < len(devices):
        devices = {key: f"gpu:{n}" for n, key in enumerate(devices)}
    return devices


def _entries(
    devices: dict[str, str], keys: list[str], rows: list[Row], first: Columns
) -> list[dict[str, Any]]:
    """The facts that the log states about each device."""
    entries = []
    of_key = {
        key: row for key, (_, of, row) in zip(keys, rows, strict=True) if of.names == first.names
    }
    for key, device in devices.items():
        entry: dict[str, Any] = {"device": device, "kind": "gpu", "source": "measured"}
        row = of_key.get(key)
        for names, fact in ((_NAMES, "name"), (("uuid", "gpu_uuid"), "uuid")):
            column = first.first(names)
            if row is not None and column is not None and not FAILED.fullmatch(row[column]):
                entry[fact] = row[column]
        column = first.first(_LIMIT)
        value = _VALUE.fullmatch(row[column]) if row is not None and column is not None else None
        if value and column is not None:
            unit = value[2] or first.units[column] or "W"
            if unit in _TO_W:
                entry["power_limit_W"] = float(value[1]) * _TO_W[unit]
        entries.append(entry)
    return entries


def _watts(log: Log, line: int, text: str, unit: str) -> float:
    """Power in watts; NaN for a reading that failed."""
    if FAILED.fullmatch(text):
        return math.nan
    value = _VALUE.fullmatch(text)
    if value is None:
        raise log.refusal(line, f"{short(text)} is not a power")
    own = value[2] or unit or "W"
    if own not in _TO_W:
        raise log.refusal(line, f"power in {short(own)}: must be in W, mW or kW")
    return float(value[1]) * _TO_W[own]


def _share(text: str) -> float:
    value = _VALUE.fullmatch(text)
    return float(value[1]) / 100 if value and float(value[1]) <= 100 else math.nan
