"""What a recorder keeps in memory: rows of epochs, and readings thinned as they become many."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.measure.sensors.base import Reading

# A device's readings are kept at the full rate until there are this many; then two, then four, ...
# are merged into one, for as many rows again. At 10 Hz: ten minutes at 10 Hz, twenty at 5 Hz, ...,
# and less than 80,000 rows for a month.
ROWS_PER_RATE = 6000


class EpochTable:
    """Rows of epochs in columns: 8 bytes a value, however long a run is."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}
        self._rows = 0

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; names it lacks are NaN in it, names it brings are NaN in earlier rows."""
        self._rows += 1
        self._put(row)

    def amend(self, values: Mapping[str, float]) -> None:
        """Add to the last row; without a row there is nothing to add to."""
        if self._rows:
            self._put(values)

    def __len__(self) -> int:
        return self._rows

    def _put(self, values: Mapping[str, float]) -> None:
        for name in values:
            self._columns.setdefault(name, array("d"))
        for name, column in self._columns.items():
            column.extend([math.nan] * (self._rows - len(column)))
            if name in values:
                column[-1] = values[name]

    def columns(self) -> dict[str, NDArray[np.float64]]:
        """A copy of the columns, each of shape (rows,)."""
        return {name: np.array(column, dtype=np.float64) for name, column in self._columns.items()}

    def rows_from(self, first: int) -> list[dict[str, float]]:
        """The rows from one of them on."""
        return [
            {name: column[row] for name, column in self._columns.items()}
            for row in range(first, self._rows)
        ]

    def last(self) -> dict[str, float]:
        """The last row; empty if there is none."""
        return self.rows_from(self._rows - 1)[0] if self._rows else {}


class ReadingTable:
    """The readings of all devices, thinned."""

    def __init__(self) -> None:
        self._devices: list[str] = []
        self._values = array("d")
        self._thinners: dict[str, _Thinner] = {}

    def add(self, reading: Reading) -> Reading | None:
        """Take in a reading; returns the row that it completed, if any."""
        thinner = self._thinners.setdefault(reading.device, _Thinner())
        return self._keep(thinner.add(reading))

    def flush(self) -> list[Reading]:
        """Complete the rows that wait for more readings, at the end of a run."""
        rows = [self._keep(thinner.flush()) for thinner in self._thinners.values()]
        return [row for row in rows if row is not None]

    def _keep(self, row: Reading | None) -> Reading | None:
        if row is not None:
            self._devices.append(row.device)
            self._values.extend([row.time_s, *row[2:]])
        return row

    def columns(self) -> dict[str, NDArray[Any]]:
        """A copy of the rows as columns, each of shape (rows,)."""
        numbers = [name for name in Reading._fields if name != "device"]
        table = np.array(self._values, dtype=np.float64).reshape(-1, len(numbers))
        columns: dict[str, NDArray[Any]] = dict(zip(numbers, table.T, strict=True))
        columns["device"] = np.array(self._devices, dtype=object)
        return {name: columns[name] for name in Reading._fields}


class _Thinner:
    """Merges ever more readings of one device into a row, so that rows grow as the logarithm."""

    def __init__(self) -> None:
        self._merge = 1
        self._rows = 0
        self._pending: list[Reading] = []

    def add(self, reading: Reading) -> Reading | None:
        self._pending.append(reading)
        return self.flush() if len(self._pending) >= self._merge else None

    def flush(self) -> Reading | None:
        if not self._pending:
            return None
        row = _merged(self._pending)
        self._pending = []
        self._rows += 1
        if self._rows == ROWS_PER_RATE:
            self._rows, self._merge = 0, 2 * self._merge
        return row


def _merged(readings: list[Reading]) -> Reading:
    """The last of the readings, with power and utilisation as means of those that were read."""
    last = readings[-1]
    if len(readings) == 1:
        return last
    return last._replace(
        power_W=_mean([r.power_W for r in readings]),
        utilization=_mean([r.utilization for r in readings]),
    )


def _mean(values: list[float]) -> float:
    read = [value for value in values if math.isfinite(value)]
    return sum(read) / len(read) if read else math.nan
