"""`ReadingTable`: readings in memory, thinned as they become many."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.measure.sensors.base import Reading

# Readings are kept at the full rate until there are so many rows, of all devices together; then
# two, four, ... readings of a device are merged into one, for as many rows again. Rows so grow as
# the logarithm of time: 146,000 in a month of ten devices at 10 Hz, of 50 bytes each.
ROWS_PER_RATE = 10_000


class ReadingTable:
    """The readings of all devices in rows, of which each merges ever more readings of a device.

    Args:
        origin_s: the instant that counts as 0 in the rows.
    """

    def __init__(self, origin_s: float = 0.0) -> None:
        self._origin_s = origin_s
        self._merge = 1  # readings of a device to a row
        self._rows_at_rate = 0
        self._rounds = 0
        self._waiting: dict[str, _Row] = {}
        # A number in place of the name: the rows are many, the devices few.
        self._devices = array("H")
        self._columns = {name: array("d") for name in Reading._fields if name != "device"}

    def add(self, readings: Iterable[Reading]) -> list[Reading]:
        """Take in a round of readings, one of each device; returns the rows that it completed."""
        for reading in readings:
            row = self._waiting.get(reading.device)
            if row is None:
                row = self._waiting[reading.device] = _Row()
            row.add(reading)
        self._rounds += 1
        return self.flush() if self._rounds >= self._merge else []

    def flush(self) -> list[Reading]:
        """Complete the rows that wait for more readings, as at the end of a run."""
        rows = []
        for number, (device, waiting) in enumerate(self._waiting.items()):
            row = waiting.merged()
            if row is not None:
                row = row._replace(time_s=row.time_s - self._origin_s)
                rows.append(row)
                self._devices.append(number)
                for name, column in self._columns.items():
                    column.append(getattr(row, name))
                self._waiting[device] = _Row()
        self._rounds = 0
        self._rows_at_rate += len(rows)
        if self._rows_at_rate >= ROWS_PER_RATE:
            self._rows_at_rate, self._merge = 0, 2 * self._merge
        return rows

    def columns(self) -> dict[str, NDArray[Any]]:
        """A copy of the rows as read-only columns, each of shape (rows,)."""
        names = np.array([*self._waiting], dtype=object)[np.array(self._devices)]
        columns: dict[str, NDArray[Any]] = {
            name: names if name == "device" else np.array(self._columns[name])
            for name in Reading._fields
        }
        for values in columns.values():
            values.flags.writeable = False  # so that a trace need not copy them again
        return columns


class _Row:
    """A row of one device in the making: what the readings since its last one come to."""

    def __init__(self) -> None:
        self._last: Reading | None = None
        self._power_W = self._utilization = 0.0
        self._powers = self._utilizations = 0

    def add(self, reading: Reading) -> None:
        self._last = reading
        if math.isfinite(reading.power_W):
            self._power_W += reading.power_W
            self._powers += 1
        if math.isfinite(reading.utilization):
            self._utilization += reading.utilization
            self._utilizations += 1

    def merged(self) -> Reading | None:
        """The last of the readings, with power and utilisation as means of those that were read."""
        if self._last is None:
            return None
        return self._last._replace(
            power_W=self._power_W / self._powers if self._powers else math.nan,
            utilization=(
                self._utilization / self._utilizations if self._utilizations else math.nan
            ),
        )
