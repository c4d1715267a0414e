"""`ReadingTable`: readings in memory, thinned as their number grows."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.measure.sensors.base import Reading

# Readings are kept at the full rate for this many rows, of all devices together; then two, four,
# ... readings of a device are merged into one, for as many rows again. The number of rows thus
# grows with the logarithm of time: 146,000 in a month of ten devices at 10 Hz, of 50 bytes each.
ROWS_PER_RATE = 10_000


class ReadingTable:
    """The readings of all devices in rows, which merge more and more readings as a run goes on.

    Args:
        origin_s: the instant that counts as 0 in the rows.
    """

    def __init__(self, origin_s: float = 0.0) -> None:
        self._origin_s = origin_s
        self._merge = 1  # readings of a device per row
        self._rows_at_rate = 0
        self._rounds = 0
        # A number in place of the name: there are many rows but few devices.
        self._numbers: dict[str, int] = {}
        self._waiting: list[_Row] = []
        self._devices = array("H")
        self._columns = {name: array("d") for name in Reading._fields if name != "device"}
        self._appends = [column.append for column in self._columns.values()]

    def add(self, readings: Iterable[Reading]) -> list[Reading]:
        """Take in a round of readings, one per device; return the rows that it completed."""
        if self._merge == 1:
            return [self._append(self._number(reading), reading) for reading in readings]
        for reading in readings:
            self._waiting[self._number(reading)].add(reading)
        self._rounds += 1
        return self.flush() if self._rounds >= self._merge else []

    def flush(self) -> list[Reading]:
        """Complete the rows that are waiting for more readings, as at the end of a run."""
        rows = []
        for number, waiting in enumerate(self._waiting):
            row = waiting.take_merged()
            if row is not None:
                rows.append(self._append(number, row))
        self._rounds = 0
        return rows

    def _number(self, reading: Reading) -> int:
        """The number of the reading's device."""
        number = self._numbers.setdefault(reading.device, len(self._numbers))
        if number == len(self._waiting):
            self._waiting.append(_Row())
        return number

    def _append(self, number: int, reading: Reading) -> Reading:
        """Add a row and return it."""
        time_s, device, *values = reading
        row = Reading(time_s - self._origin_s, device, *values)
        self._devices.append(number)
        for append, value in zip(self._appends, (row[0], *values), strict=True):
            append(value)
        self._rows_at_rate += 1
        if self._rows_at_rate >= ROWS_PER_RATE:
            self._rows_at_rate, self._merge = 0, 2 * self._merge
        return row

    def columns(self) -> dict[str, NDArray[Any]]:
        """A copy of the rows as read-only columns, each of shape (rows,)."""
        names = np.array([*self._numbers], dtype=object)[np.array(self._devices)]
        columns: dict[str, NDArray[Any]] = {
            name: names if name == "device" else np.array(self._columns[name])
            for name in Reading._fields
        }
        for values in columns.values():
            values.flags.writeable = False  # so that a trace need not copy them again
        return columns


class _Row:
    """An unfinished row of one device: the readings since its last row."""

    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def add(self, reading: Reading) -> None:
        self._readings.append(reading)

    def take_merged(self) -> Reading | None:
        """Merge the readings so far into one; None if there are none.

        Power and utilisation are means; other quantities are the last values read. The time is that
        of the last counter reading, if there is one.
        """
        readings, self._readings = self._readings, []
        if len(readings) < 2:
            return readings[0] if readings else None
        counted = next((r for r in reversed(readings) if math.isfinite(r.energy_J)), readings[-1])
        return counted._replace(
            power_W=_mean([reading.power_W for reading in readings]),
            utilization=_mean([reading.utilization for reading in readings]),
            memory_bytes=_last([reading.memory_bytes for reading in readings]),
            temperature_C=_last([reading.temperature_C for reading in readings]),
        )


def _last(values: list[float]) -> float:
    """The last of the finite values; NaN if there are none."""
    return next((value for value in reversed(values) if math.isfinite(value)), math.nan)


def _mean(values: list[float]) -> float:
    """The mean of the finite values; NaN if there are none."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
