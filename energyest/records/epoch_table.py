"""`EpochTable`: epoch rows as they arrive, in columns; which names and values are allowed."""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray, refuse
from energyest.checks import is_count, short
from energyest.errors import TraceError

if TYPE_CHECKING:
    import pandas as pd

#: Key in a line of `epochs.jsonl` that adds to an earlier row; its value is the row's number.
AMENDS = "amends_row"
# Every row names all of its metrics. More names, such as one for each step, would fill the memory.
_MOST_CHARACTERS, _MOST_NAMES = 200, 2000
# The measured columns, each with a bound that no training reaches: 1e18 J is what humanity uses in
# half a day, 1e11 s are three thousand years.
_MEASURED = {
    **dict.fromkeys(("energy_J", "gpu_energy_J", "cpu_energy_J", "ram_energy_J"), 1e18),
    **{"validation_energy_J": 1e18, "duration_s": 1e11, "validation_s": 1e11},
    **{"mean_power_W": 1e12, "steps": 1e15, "samples": 1e18, "flops": 1e33},
}
# A column without rows.
_NOTHING = np.empty(0)
_NOTHING.flags.writeable = False
MOST_S, MOST_J = _MEASURED["duration_s"], _MEASURED["energy_J"]
# Rounding of times and energies, also in long runs.
_ROUNDING_S, _ROUNDING_J, _ROUNDING = 1e-3, 1e-2, 1e-6
# A counter that corrects itself takes back energy booked earlier; an epoch is then unknown.
_CORRECTION, _CORRECTION_IF_UNKNOWN = 0.02, 0.5
# A last row with less than this share of the steps of every other row was cut short. Loaders of
# varying length differ by less.
_WHOLE_SHARE = 0.9
# Outside of epochs, a device draws at most this power, or this multiple of the power in epochs.
_MOST_DEVICE_W, _MOST_TIMES = 1e4, 10


def rows_done(steps: FloatArray) -> float:
    """Number of rows, of which a last one that was cut short counts in part.

    Args:
        steps: shape (rows,), training steps of each row; NaN if unknown.
    """
    if len(steps) < 2:
        return len(steps)
    last, others = float(steps[-1]), steps[:-1]
    if not 0 < last < _WHOLE_SHARE * others.min():  # False for NaN
        return len(steps)
    return len(others) + last / float(np.median(others))


class EpochTable:
    """Rows stored in columns, 8 bytes a value, however long the run; a row may lack some names.

    Args:
        most_rows: the largest number of rows; None for no limit.
        most_values: the largest number of rows × columns; None for no limit.
    """

    def __init__(self, most_rows: int | None = None, most_values: int | None = None) -> None:
        self._columns: dict[str, array[float]] = {}
        self._rows = 0
        self._most_rows = most_rows
        self._most_values = most_values

    def __len__(self) -> int:
        return self._rows

    def append(self, row: Mapping[str, float]) -> None:
        """Add a row. Names it lacks are NaN in it; names it introduces are NaN in earlier rows.

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
            row: number of the row, counted from 0; the last row by default.

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

    def extend(self, rows: int, names: Iterable[str]) -> None:
        """Add many rows at once, all values NaN.

        Args:
            rows: number of rows.
            names: columns that the table will have.

        Raises:
            ValueError: the table would become too large; it stays as it is.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._columns]
        self._check_size(self._rows + rows, len(self._columns) + len(new))
        self._columns.update((name, array("d", [math.nan]) * self._rows) for name in new)
        self._rows += rows
        for column in self._columns.values():
            column.frombytes(np.full(rows, math.nan).tobytes())

    def put(self, name: str, rows: NDArray[np.intp], values: FloatArray) -> None:
        """Set values of a column; if a row is named twice, the last value counts."""
        # While this view exists, the column cannot grow.
        np.frombuffer(self._columns[name])[rows] = values

    def add_columns(self, columns: Mapping[str, FloatArray]) -> None:
        """Add many rows at once, as columns of one length.

        Raises:
            ValueError: the table would become too large; it stays as it is.
        """
        rows = np.arange(len(next(iter(columns.values()), ())))
        first = self._rows
        if not self._columns:
            self._check_size(len(rows), len(columns))
            as_bytes = {n: np.asarray(v, dtype=np.float64).tobytes() for n, v in columns.items()}
            self._columns = {name: array("d", values) for name, values in as_bytes.items()}
            self._rows = len(rows)
            return
        self.extend(len(rows), columns)
        for name, values in columns.items():
            self.put(name, first + rows, values)

    def columns(self, more: Sequence[Mapping[str, float]] = ()) -> dict[str, FloatArray]:
        """A read-only copy of the columns, each of shape (rows,), with `more` rows appended."""
        names = dict.fromkeys([*self._columns, *(name for row in more for name in row)])
        columns = {name: np.full(self._rows + len(more), math.nan) for name in names}
        for name, values in columns.items():
            if name in self._columns:
                values[: self._rows] = self._columns[name]
            values[self._rows :] = [row.get(name, math.nan) for row in more]
            values.flags.writeable = False
        return columns

    def into_columns(self) -> dict[str, FloatArray]:
        """Move the columns out of the table, which saves the memory of a copy; it is then empty."""
        columns = {}
        for name in [*self._columns]:
            columns[name] = np.array(self._columns.pop(name))
            columns[name].flags.writeable = False
        self._rows = 0
        return columns

    def rows_from(self, first: int) -> list[dict[str, float]]:
        """The rows from `first` on."""
        return [
            {name: column[row] for name, column in self._columns.items()}
            for row in range(first, self._rows)
        ]

    def last(self) -> dict[str, float]:
        """The last row; empty if there is none."""
        return self.rows_from(self._rows - 1)[0] if self._rows else {}

    def _hold(self, values: Mapping[str, float]) -> None:
        """Make columns for new names, as long as the others."""
        new = [name for name in values if name not in self._columns]
        self._check_size(self._rows, len(self._columns) + len(new))
        before = len(next(iter(self._columns.values()), ()))
        self._columns.update((name, array("d", [math.nan]) * before) for name in new)

    def _check_size(self, rows: int, names: int) -> None:
        too_long = self._most_rows is not None and rows > self._most_rows
        if too_long or (self._most_values is not None and rows * names > self._most_values):
            raise ValueError(f"{rows} rows of {names} columns are too many")


@lru_cache(maxsize=4096)
def why_unstorable(name: object) -> str:
    """Why an epoch column cannot be stored and read back under this name; empty if it can."""
    if not isinstance(name, str):
        return f"{short(name)} is not a column name"
    if name == AMENDS:
        return f"the name {name!r} has another meaning in the trace's files"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"the name {short(name)} cannot be stored as text"
    return ""


class MetricNames:
    """The names that a training has logged so far.

    Args:
        measured: columns that cannot be logged, because they are measured.
    """

    def __init__(self, measured: Collection[str]) -> None:
        self._measured = measured
        self._known: set[str] = set()

    def refuse(self, name: str) -> tuple[str, str]:
        """Why a value is not stored under this name, and the warning to give once; else empty."""
        if name in self._known:
            return "", ""
        if name in self._measured:
            return name, f"the column {name!r} is measured and cannot be logged"
        why = why_unstorable(name)
        if why:
            return why, f"{why}: the metric is left out"
        if len(name) > _MOST_CHARACTERS:
            return "long", f"metrics with names as long as {short(name)}... are left out"
        if len(self._known) == _MOST_NAMES:
            return "many", f"{_MOST_NAMES} metric names are in use: further ones are left out"
        self._known.add(name)
        return "", ""

    def numbers(
        self, values: Mapping[str, object], warn: Callable[[str, str], None]
    ) -> dict[str, float]:
        """The values that can be stored, as numbers.

        Args:
            values: values by name.
            warn: called with a key and a text for each value left out; the caller may show the
                text once per key.
        """
        numbers = {}
        for name, value in values.items():
            key, warning = self.refuse(name)
            if warning:
                warn(key, warning)
                continue
            try:
                numbers[name] = float(value)  # type: ignore[arg-type]
            except Exception:  # a user's own type, or a tensor, may raise anything
                warn(name, f"the value of {name!r} is not a number and is left out")
        return numbers


def check_rows(columns: Mapping[str, FloatArray], what: str) -> None:
    """Refuse rows that no training can have. NaN, for what was not measured, is allowed anywhere.

    Args:
        columns: name -> values of shape (rows,).
        what: whose rows they are; messages begin with it.

    Raises:
        TraceError: a measured value is negative, infinite or absurdly large; a row ends before it
            begins, lasts longer than from its start to its end, or begins before the previous row
            ended.
    """
    names = tuple(name for name in _MEASURED if name in columns)
    together = np.array([columns[name] for name in names])
    if names and ((together < -_ROUNDING_J) | (together > _most_of(names))).any():
        for name in names:
            values, most_of_one = columns[name], _MEASURED[name]
            wrong = np.isinf(values) | (values < -_ROUNDING_J)
            refuse(wrong, values, f"{what}{name} of the epochs", "must be finite and not negative")
            rule = f"can be {most_of_one:g} at most"
            refuse(values > most_of_one, values, f"{what}{name} of the epochs", rule)
    if not {"start_s", "end_s"} <= columns.keys():
        return
    start_s, end_s = columns["start_s"], columns["end_s"]
    for name, values in (("start_s", start_s), ("end_s", end_s)):
        refuse(np.abs(values) > MOST_S, values, f"{what}{name}", "must be the time of a training")
    rounding_s = _ROUNDING_S + _ROUNDING * np.maximum(np.abs(start_s), np.abs(end_s))
    is_before = end_s < start_s - rounding_s
    refuse(is_before, end_s, f"{what}end_s of the epochs", "must not be before start_s")
    lasted_s = columns.get("duration_s")
    if lasted_s is not None:
        too_long = lasted_s > end_s - start_s + rounding_s
        rule = "must not exceed end_s - start_s"
        refuse(too_long, lasted_s, f"{what}duration_s of the epochs", rule)
    ended_s = np.fmax.accumulate(np.append(-math.inf, end_s))[:-1]
    rule = "must not be before the end of the previous epoch"
    refuse(start_s < ended_s - rounding_s, start_s, f"{what}start_s of the epochs", rule)


@lru_cache
def _most_of(names: tuple[str, ...]) -> FloatArray:
    """The bounds of measured columns, shape (columns, 1)."""
    return np.array([[_MEASURED[name]] for name in names])


def check_totals(
    energy_J: float, duration_s: float, columns: Mapping[str, FloatArray], devices: int, what: str
) -> None:
    """Refuse totals that contradict the rows.

    Args:
        energy_J: joules of the whole run; NaN if unknown.
        duration_s: seconds of the whole run; NaN if unknown.
        columns: the rows, which have passed `check_rows`.
        devices: number of devices measured.
        what: whose totals they are; messages begin with it.

    Raises:
        TraceError: a total is negative, absurdly large, less than the sum of its rows, or more
            than the rows plus what can have been drawn in the time outside of them.
    """
    for value, name, most in ((energy_J, "total_J", MOST_J), (duration_s, "duration_s", MOST_S)):
        if value < -_ROUNDING_J or value > most:
            raise TraceError(f"{what}{name} is {value:g}: it must be from 0 to {most:g}")
    rows_J, rows_s = (columns.get(name, np.empty(0)) for name in ("energy_J", "duration_s"))
    known_J, known_s = _known_sum(rows_J), _known_sum(rows_s)
    are_known = bool(np.isfinite(rows_J).all())
    less = known_J * (1 - (_CORRECTION if are_known else _CORRECTION_IF_UNKNOWN)) - _ROUNDING_J
    if energy_J < less:
        raise TraceError(f"{what}total_J is {energy_J:g}, less than the {known_J:g} of its rows")
    was_measured = duration_s > 0 or math.isfinite(energy_J)  # False if a run never started
    if was_measured and duration_s < known_s * (1 - _ROUNDING) - _ROUNDING_S * (len(rows_s) + 1):
        raise TraceError(f"{what}duration_s is {duration_s:g}, less than its rows' {known_s:g}")
    if are_known and math.isfinite(duration_s) and np.isfinite(rows_s).all() and len(rows_s):
        power_W = rows_J[rows_s > 0] / rows_s[rows_s > 0]
        most_W = max(_MOST_DEVICE_W * max(1, devices), _MOST_TIMES * float(power_W.max(initial=0)))
        outside_J = max(0.0, duration_s - known_s) * most_W
        if energy_J > known_J * (1 + _CORRECTION) + outside_J + _ROUNDING_J:
            raise TraceError(
                f"{what}total_J is {energy_J:g}, more than the {known_J:g} of its rows and what "
                "can have been drawn outside of them"
            )


def _known_sum(values: FloatArray) -> float:
    """The sum of what is known."""
    total = float(values.sum())
    return total if math.isfinite(total) else float(np.nansum(values))


# ---------------------------------------------------------------------- columns


def checked_columns(
    columns: Mapping[str, NDArray[Any]], names: tuple[str, ...], what: str
) -> dict[str, NDArray[Any]]:
    """All of `names`, then the others, read-only and of the same length; NaN where missing."""
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in columns.items())
        raise TraceError(f"the columns of {what} must have the same length, not {sizes}")
    size = lengths.pop() if lengths else 0
    if not size and not columns:
        return dict.fromkeys(names, _NOTHING)
    checked: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys((*names, *columns)):
        values = columns.get(name)
        if values is None or not _is_fixed(values):
            values = np.full(size, math.nan) if values is None else np.array(values)
            values.flags.writeable = False
        checked[name] = values
    return checked


def _is_fixed(values: object) -> bool:
    """Whether nobody can change these values. Arrays of a long run are large: copies cost."""
    if not isinstance(values, np.ndarray) or values.flags.writeable:
        return False
    owner = values.base
    return owner is None or (isinstance(owner, np.ndarray) and not owner.flags.writeable)


def as_frame(columns: Mapping[str, NDArray[Any]], integers: tuple[str, ...] = ()) -> pd.DataFrame:
    """The columns as a new table; those in `integers` as whole numbers if all are known."""
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    frame: pd.DataFrame = pd.DataFrame({name: values.copy() for name, values in columns.items()})
    for name in integers:
        if not frame[name].isna().any():
            frame[name] = frame[name].astype(np.int64)
    return frame
