"""Columns of `nvidia-smi --query-gpu`: from the header or, without one, from their values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from energyest.checks import short
from energyest.readers.clock import DATE_TIME
from energyest.readers.text import Log, split_row

# Best first: instantaneous power, rather than the mean of the last second.
POWER = ("power.draw.instant", "power.draw", "power.draw.average")
# Columns that identify a GPU, most reliable first.
IDENTITY = ("uuid", "gpu_uuid", "pci.bus_id", "gpu_bus_id", "serial", "gpu_serial", "index")
_COLUMN = re.compile(r"([\w.]+)(?:\s*\[([^\]]*)\])?")
# A failed reading, such as [N/A], [Not Supported], [Unknown Error], or ERR! with old drivers.
FAILED = re.compile(r"\[.*\]|N/A|ERR!|Not Supported|Unknown Error|Function Not Found|-", re.I)
TWO_DIGITS = re.compile(r"\d+\.\d\d(\s*W)?")


class Columns(NamedTuple):
    """The names of a row's fields, and their units if the header states them."""

    names: list[str]
    units: list[str]

    def first(self, names: Sequence[str]) -> int | None:
        """The index of the first of these names that is present."""
        return next((self.names.index(name) for name in names if name in self.names), None)


def columns_of(fields: Sequence[str]) -> Columns | None:
    """The columns that a header names; None if the line is not a header."""
    found = [_COLUMN.fullmatch(field) for field in fields]
    names = [match[1] if match else field for match, field in zip(found, fields, strict=True)]
    if not {*names} & {*POWER, "timestamp", "utilization.gpu"}:
        return None
    return Columns(names, [(match[2] or "") if match else "" for match in found])


def guessed_columns(log: Log) -> tuple[Columns, str]:
    """The columns of a log without a header, guessed from their values, and a note about them.

    Raises:
        TraceError: the columns cannot be identified with certainty.
    """
    number, text = log.lines[0]
    rows = [split_row(line.text) for line in log.lines[:200]]
    width = len(rows[0])
    rows = [row for row in rows if len(row) == width]
    columns = [[row[n] for row in rows] for n in range(width)]
    names = [f"column {n + 1}" for n in range(width)]
    hint = (
        "name them in the order of --query-gpu, as in columns=['timestamp', 'index', 'power.draw']"
    )

    def those(test: Callable[[str], object]) -> list[int]:
        return [
            n
            for n, values in enumerate(columns)
            if any(map(test, values))
            and all(test(value) or FAILED.fullmatch(value) for value in values)
        ]

    times = those(DATE_TIME.fullmatch)
    if len(times) > 1:
        raise log.refusal(number, f"no header, and several columns hold times: {hint}")
    for n in times:
        names[n] = "timestamp"
    powers = those(re.compile(r"\d+\.\d+ W").fullmatch)
    unit = "W"
    if not powers:
        # Without units: nvidia-smi writes power, and nothing else, with two decimals.
        powers, unit = those(TWO_DIGITS.fullmatch), ""
    if len(powers) != 1:
        what = f"{len(powers)} columns may be power" if powers else "no column looks like power"
        raise log.refusal(number, f"no header, and {what} ({short(text)}): {hint}")
    names[powers[0]] = "power.draw"
    for n in those(re.compile(r"GPU-[0-9a-f-]+").fullmatch)[:1]:
        names[n] = "uuid"
    for n in those(re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d").fullmatch)[:1]:
        names[n] = "pci.bus_id"
    percents = those(re.compile(r"\d+ %").fullmatch)
    if len(percents) == 1:
        names[percents[0]] = "utilization.gpu"
    if not {"uuid", "pci.bus_id"} & {*names}:
        turns = [n for n in those(re.compile(r"\d{1,2}").fullmatch) if _in_turn(columns[n])]
        if len(turns) == 1:
            names[turns[0]] = "index"
    told = ", ".join(
        f"{name} is column {n + 1}"
        for n, name in enumerate(names)
        if not name.startswith("column ")
    )
    units = " in W" if not unit else ""
    return (
        Columns(names, ["" for _ in names]),
        log.note(number, f"no header: judged by values, {told}{units}; columns= overrides this"),
    )


def _in_turn(values: list[str]) -> bool:
    """Whether these are the indices of several GPUs in turn: 0, 1, 0, 1, ..."""
    distinct = list(dict.fromkeys(values))
    return (
        len(distinct) > 1
        and [int(v) for v in distinct] == sorted(int(v) for v in distinct)
        and all(value == distinct[n % len(distinct)] for n, value in enumerate(values))
    )
