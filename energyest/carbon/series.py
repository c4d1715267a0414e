"""`CarbonSeries`: a carbon intensity that changes with time, as measured or as forecast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from energyest.arrays import FloatArray, as_vector
from energyest.checks import check_positive, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd

# A value counts until the next one, but for no longer than this multiple of the usual time between
# two values: what comes after it is not known.
_MOST_STEPS = 1.5
# More values than the hours of a century, or its quarter hours in 25 years.
_MOST_VALUES = 10**6


@dataclass(frozen=True, eq=False)
class CarbonSeries:
    """The carbon intensity of electricity over time; each value counts until the next.

    Attributes:
        time_s: shape (values,), when each value begins to count, in seconds since 1970 (UTC),
            ascending.
        g_per_kWh: shape (values,), g CO2e per kWh.
        source: where the values come from, for reports.

    Raises:
        EstimateError: the shapes differ, there are fewer than two values, a time is not finite or
            does not ascend, or an intensity is negative or infinite. NaN is a value that is not
            known.

    Examples:
        >>> from energyest.carbon import CarbonSeries
        >>> series = CarbonSeries([0, 3600, 7200], [400, 300, 350])
        >>> series.at(5000)
        300.0
    """

    time_s: ArrayLike
    g_per_kWh: ArrayLike
    source: str = ""

    def __post_init__(self) -> None:
        time_s = as_vector(self.time_s, "time_s", EstimateError)
        values = as_vector(self.g_per_kWh, "g_per_kWh", EstimateError)
        if time_s.shape != values.shape or len(time_s) < 2:
            raise EstimateError(
                f"a series needs two or more times and as many values, not {len(time_s)} and "
                f"{len(values)}"
            )
        if len(time_s) > _MOST_VALUES:
            raise EstimateError(f"a series of {len(time_s)} values is too long: {_MOST_VALUES}")
        if not np.isfinite(time_s).all() or (np.diff(time_s) <= 0).any():
            raise EstimateError("the times of a series must be finite, and each after the last")
        if np.isinf(values).any() or (values < 0).any():
            raise EstimateError("the intensities of a series must be 0 or more (g CO2e per kWh)")
        object.__setattr__(self, "time_s", time_s)
        object.__setattr__(self, "g_per_kWh", values)

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        time: str | None = None,
        value: str | None = None,
        tz: str | None = None,
    ) -> CarbonSeries:
        """Read a series from a CSV file, such as one of Electricity Maps or of a grid operator.

        Args:
            path: the file, with a line of names.
            time: name of the column with the times at which values begin to count, as ISO 8601 or
                seconds since 1970; the first column by default.
            value: name of the column with g CO2e per kWh; by default the only other column of
                numbers.
            tz: time zone of times that name none, such as "Europe/Berlin"; "UTC" by default if the
                column's name contains it.

        Raises:
            EstimateError: the file cannot be read, a column is missing or could be one of several,
                the times name no zone, or the values break a rule of `CarbonSeries`.
        """
        import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

        try:
            table = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise EstimateError(f"{path}: no series of carbon intensities: {error}") from error
        columns = [str(name) for name in table.columns]
        table.columns = pd.Index(columns)
        at = columns[0] if time is None and columns else time
        if at not in columns:
            raise EstimateError(f"{path} has no column {at!r}, but {', '.join(columns)}")
        name = _value_column(table.drop(columns=at), str(path)) if value is None else value
        if name not in columns:
            raise EstimateError(f"{path} has no column {name!r}, but {', '.join(columns)}")
        time_s = _seconds(table[at], tz, f"{path}, column {at}")
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        order = np.argsort(time_s, kind="stable")
        return cls(time_s[order], values[order], f"{Path(path).name}, {name}")

    @classmethod
    def from_function(
        cls,
        function: Callable[[datetime], float],
        start: datetime,
        end: datetime,
        *,
        step_s: float = 3600.0,
    ) -> CarbonSeries:
        """Ask a function of your own for each step of a time.

        Args:
            function: takes a time in UTC; returns g CO2e per kWh, or NaN if it is not known.
            start: when the series begins, with a time zone.
            end: when it ends.
            step_s: seconds from one value to the next.

        Raises:
            EstimateError: a time has no zone, `end` is not after `start`, the steps are too many,
                or the function returns no intensity.
        """
        first_s, last_s = seconds_of(start, "start"), seconds_of(end, "end")
        step_s = check_positive(step_s, "step_s", EstimateError)
        count = math.ceil((last_s - first_s) / step_s)
        if not 0 < count < _MOST_VALUES:
            raise EstimateError(f"{count} steps from start to end: there must be 1 to 1,000,000")
        time_s = first_s + step_s * np.arange(max(count, 2))
        moments = [datetime.fromtimestamp(at, timezone.utc) for at in time_s.tolist()]
        values = [function(moment) for moment in moments]
        name = getattr(function, "__name__", type(function).__name__)
        return cls(time_s, values, f"function {name}")

    @property
    def begin_s(self) -> float:
        """When the first value begins to count, in seconds since 1970."""
        return float(self._times[0])

    @property
    def end_s(self) -> float:
        """When the last value ceases to count, in seconds since 1970."""
        return float(self._times[-1]) + self._step_s

    def at(self, time_s: float) -> float:
        """The intensity at a time in seconds since 1970, in g CO2e per kWh; NaN if not known."""
        return float(self.values_at(np.array([time_s]))[0])

    def values_at(self, time_s: FloatArray) -> FloatArray:
        """The intensities at several times, of their shape; NaN where not known."""
        known, values = self._times, self._values
        row = np.searchsorted(known, time_s, side="right") - 1
        within = (row >= 0) & (time_s - known[row] < _MOST_STEPS * self._step_s)
        return np.where(within, values[np.maximum(row, 0)], np.nan)

    def co2e_kg(self, time_s: FloatArray, energy_J: FloatArray) -> float:
        """Emissions of an energy that was used over time.

        Args:
            time_s: shape (n,), ascending times in seconds since 1970.
            energy_J: shape (n,), energy used up to each of them. Between two, power is constant.

        Raises:
            EstimateError: energy was used at a time for which the series has no value.
        """
        edges_s, part_J = self.divide(time_s, energy_J)
        g_per_kWh = self.values_at(edges_s[:-1])
        unknown = np.isnan(g_per_kWh) & (part_J > 0)
        if unknown.any():
            row = int(np.flatnonzero(unknown)[0])
            raise EstimateError(
                f"the series of carbon intensities ({self}) has no value at "
                f"{_text(float(edges_s[row]))}, when energy was used"
            )
        used = part_J > 0
        kg = float(part_J[used] @ g_per_kWh[used]) / 1000 / JOULES_PER_KWH
        return kg if np.isfinite(part_J).all() else math.nan

    def divide(
        self, time_s: FloatArray, energy_J: FloatArray, *, more_s: ArrayLike = ()
    ) -> tuple[FloatArray, FloatArray]:
        """Divide an energy at the times at which the intensity changes.

        Args:
            time_s: as in `co2e_kg`.
            energy_J: as in `co2e_kg`.
            more_s: further times at which to divide it.

        Returns:
            Times of shape (parts + 1,), and the energy of each part, of shape (parts,).
        """
        first_s, last_s = time_s[0], time_s[-1]
        expires_s = self._times + _MOST_STEPS * self._step_s
        inner_s = np.concatenate([self._times, expires_s, np.asarray(more_s, np.float64)])
        inner_s = inner_s[(inner_s > first_s) & (inner_s < last_s)]
        edges_s = np.unique(np.concatenate([time_s, inner_s]))
        return edges_s, np.diff(np.interp(edges_s, time_s, energy_J))

    def __str__(self) -> str:
        of = f"{self.source}: " if self.source else ""
        return f"{of}{_text(float(self._times[0]))} to {_text(self.end_s)}"

    @property
    def _times(self) -> FloatArray:
        return np.asarray(self.time_s)

    @property
    def _values(self) -> FloatArray:
        return np.asarray(self.g_per_kWh)

    @property
    def _step_s(self) -> float:
        return float(np.median(np.diff(self._times)))


def seconds_of(time: datetime | str, name: str) -> float:
    """A time in seconds since 1970.

    Args:
        time: with a time zone; a text in ISO 8601.
        name: what it is, for the error.

    Raises:
        EstimateError: it is no time, or names no zone.
    """
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
        if moment.tzinfo is None:
            raise EstimateError(f"{name}={short(time)} names no time zone, such as +00:00")
        return moment.timestamp()
    except (ValueError, AttributeError, OverflowError) as error:
        raise EstimateError(f"{name}={short(time)} must be a time: {error}") from error


def _value_column(others: pd.DataFrame, path: str) -> str:
    numbers = [str(name) for name in others.select_dtypes("number").columns]
    if len(numbers) != 1:
        found = f"{len(numbers)} columns of numbers ({', '.join(numbers) or 'none'})"
        raise EstimateError(f"{path} has {found}: name the one with g CO2e per kWh as value=")
    return numbers[0]


def _seconds(times: pd.Series, tz: str | None, where: str) -> FloatArray:
    """Times as seconds since 1970."""
    import pandas as pd  # noqa: PLC0415

    if pd.api.types.is_numeric_dtype(times):
        return times.to_numpy(np.float64)
    try:
        parsed = pd.to_datetime(times, format="ISO8601")
        if parsed.dt.tz is None:
            zone = "UTC" if tz is None and "utc" in str(times.name).lower() else tz
            if zone is None:
                raise EstimateError(f"{where}: the times name no zone: pass tz=, such as 'UTC'")
            parsed = parsed.dt.tz_localize(zone)
    except EstimateError:
        raise
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise EstimateError(f"{where}: no times in ISO 8601: {error}") from error
    since: pd.Series = (parsed - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return since.to_numpy(np.float64)


def _text(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
