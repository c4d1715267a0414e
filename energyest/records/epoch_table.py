"""`EpochTable`: rows of epochs as they come, in columns; and what these can be called."""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import is_count, short

#: Key of a line of `epochs.jsonl` that adds to an earlier row, whose number is its value.
AMENDS = "amends_row"
# Every row names all of its metrics. More, as of a name for each step, would fill the memory.
_MOST_CHARACTERS, _MOST_NAMES = 200, 2000


class EpochTable:
    """Rows that may each lack some names, in columns: 8 bytes a value, however long a run is.

    Args:
        most_rows: more rows are refused; None for any number.
        most_values: more rows × columns are refused.
    """

    def __init__(self, most_rows: int | None = None, most_values: int | None = None) -> None:
        self._columns: dict[str, array[float]] = {}
        self._rows = 0
        self._most_rows = most_rows
        self._most_values = most_values

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row; names it lacks are NaN in it, names it brings are NaN in earlier rows.

        Raises:
            ValueError: the table would become too large.
        """
        self._rows += 1
        self._hold(row)
        for name, column in self._columns.items():
            column.append(row.get(name, math.nan))

    def amend(self, values: Mapping[str, float], row: object = None) -> None:
        """Add to a row.

        Args:
            values: what to add.
            row: number of the row, counted from 0; by default the last.

        Raises:
            LookupError: there is no such row.
            ValueError: the table would become too large.
        """
        number = self._rows - 1 if row is None else row
        if not is_count(number) or number >= self._rows:
            raise LookupError(f"there is no row {reprlib.repr(row)} to add to")
        self._hold(values)
        for name, value in values.items():
            self._columns[name][number] = value

    def columns(self, more: Sequence[Mapping[str, float]] = ()) -> dict[str, FloatArray]:
        """A copy of the columns, read-only and each of shape (rows,), with some more rows."""
        names = dict.fromkeys([*self._columns, *(name for row in more for name in row)])
        columns = {name: np.full(self._rows + len(more), math.nan) for name in names}
        for name, values in columns.items():
            if name in self._columns:
                values[: self._rows] = self._columns[name]
            values[self._rows :] = [row.get(name, math.nan) for row in more]
            values.flags.writeable = False
        return columns

    def rows_from(self, first: int) -> list[dict[str, float]]:
        """The rows from one of them on."""
        return [
            {name: column[row] for name, column in self._columns.items()}
            for row in range(first, self._rows)
        ]

    def last(self) -> dict[str, float]:
        """The last row; empty if there is none."""
        return self.rows_from(self._rows - 1)[0] if self._rows else {}

    def _hold(self, values: Mapping[str, float]) -> None:
        """Make columns of new names, as long as the others are."""
        new = [name for name in values if name not in self._columns]
        names = len(self._columns) + len(new)
        too_long = self._most_rows is not None and self._rows > self._most_rows
        if too_long or (self._most_values is not None and self._rows * names > self._most_values):
            raise ValueError(f"{self._rows} rows of {names} columns are too much")
        before = len(next(iter(self._columns.values()), ()))
        self._columns.update((name, array("d", [math.nan]) * before) for name in new)


def why_unstorable(name: object) -> str:
    """Why a column of epochs cannot be stored and read again by that name; empty if it can."""
    if not isinstance(name, str):
        return f"{short(name)} is no name of a column"
    if name == AMENDS:
        return f"the name {name!r} has another meaning in the trace's files"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"the name {short(name)} is no text that a file can hold"
    return ""


class MetricNames:
    """The names that a training has logged so far.

    Args:
        measured: columns that it cannot set, as they are measured.
    """

    def __init__(self, measured: Collection[str]) -> None:
        self._measured = measured
        self._known: set[str] = set()

    def refuse(self, name: str) -> tuple[str, str]:
        """Why a value is not stored by that name, and what to warn of it once; empty if it is."""
        if name in self._known:
            return "", ""
        if name in self._measured:
            return name, f"the column {name!r} is measured and cannot be logged"
        why = why_unstorable(name)
        if why:
            return why, f"{why}: the metric is left out"
        if len(name) > _MOST_CHARACTERS:
            return "long", f"metrics are left out whose names are as long as {short(name)}..."
        if len(self._known) == _MOST_NAMES:
            return "many", f"{_MOST_NAMES} metrics have names by now: further ones are left out"
        self._known.add(name)
        return "", ""
