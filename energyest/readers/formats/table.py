"""A user's own table of power over time, or of energy per epoch, read by its column names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import DATE_TIME, Clock, clock_of_texts, clock_of_unix
from energyest.readers.columns import UNITS, Meaning, device_of, factor_of, meanings_of, unit_of
from energyest.readers.readings import Readings, trace_of_readings, wide_readings
from energyest.readers.tables import Table, read_any_table
from energyest.readers.text import separator_of
from energyest.readers.windows import Windows, trace_of_windows
from energyest.records.epoch_table import why_unstorable
from energyest.records.trace import EPOCH_COLUMNS, EnergyTrace

# Unix time of the years 2001 to 2096, in seconds and in milliseconds.
_UNIX_S, _UNIX_MS = (1e9, 4e9), (1e12, 4e12)
_DEVICE = re.compile(r"(gpu|cpu|ram)(:[\w@]*)?")
# Columns that only number the rows; pandas writes the last two.
_NUMBER_OF_EPOCH = ("epoch", "epochs", "", "unnamed: 0")
# Columns of a trace that a table may hold under the same name, with the same meaning.
_COUNTS = ("steps", "samples", "flops")


def is_table(path: Path, head: str) -> bool:
    """Whether a file may be a table with columns of power or energy."""
    if head.startswith("PAR1"):
        return True
    first = next((line for line in head.splitlines() if line.strip() and line[0] != "#"), "")
    if first.lstrip().startswith(("{", "[")):
        names = re.findall(r'"([^"]+)"\s*:', first)
    else:
        names = [field.strip(' "') for field in first.split(separator_of(first))]
    found = {meaning.quantity for meaning in meanings_of(names).values()}
    return bool(found & {"power", "energy"}) and len(names) > 1


def read_table(
    path: str | Path,
    *,
    time: str | None = None,
    power: str | Sequence[str] | Mapping[str, str] | None = None,
    energy: str | None = None,
    duration: str | None = None,
    device: str | None = None,
    units: Mapping[str, str] | None = None,
    separator: str | None = None,
    decimal: str = ".",
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from a table: power over time, or one row per epoch with its energy.

    Other columns of numbers in a table of epochs are metrics; a note names what was not used.
    The table is CSV, JSON lines, a list of JSON objects, or Parquet. Columns are found by their
    names, which state the unit: `time_s`, `timestamp`, `power_W`, `gpu0_power_mW`, `energy_kWh`,
    `duration_s`.

    Args:
        path: the table.
        time: column of times: date-times, Unix time or seconds.
        power: column of power; a list of columns for several devices; or a mapping from device to
            column, such as `{"gpu:0": "P0", "cpu:0": "package"}`.
        energy: column of the energy of each epoch, instead of power.
        duration: column of the duration of each epoch.
        device: column that names the device of each row, or the name of the device, such as
            "gpu:0".
        units: units of columns whose names state none, such as `{"P0": "mW", "t": "ms"}`.
        separator: column separator; by default a comma, semicolon or tab, as found.
        decimal: decimal separator.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`; for a table of power.
        epoch_marks: if `epoch_end_s` is a file, regular expression of the lines that are ends.
        gpu: the device to count, or a list of them; by default, all are summed.
        timezone: the time zone of local times.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: a column cannot be identified with certainty; a unit is not stated; a value is
            not a number. The message names the line.

    Examples:
        >>> from energyest.readers import read_table
        >>> read_table('power.csv', epoch_end_s=[20, 40, 60]).column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    table = read_any_table(Path(path), separator=separator)
    known = _Columns(table, dict(units or {}), decimal)
    if energy is not None and power is not None:
        raise TraceError("energy= is for a table of epochs, power= for readings: give one of them")
    if energy is None and (power is not None or known.those("power")):
        readings = known.readings(time, power, device, timezone)
        return trace_of_readings(
            readings, epoch_end_s=epoch_end_s, epoch_marks=epoch_marks, gpu=gpu, max_gap_s=max_gap_s
        )
    if gpu is not None:
        raise TraceError("gpu= selects power readings, but this is a table of epochs")
    is_cut = epoch_end_s is not None or epoch_marks is not None
    windows = known.windows(time, energy, duration, timezone, keeps_rows=not is_cut)
    return trace_of_windows(windows, epoch_end_s=epoch_end_s, epoch_marks=epoch_marks)


class _Columns:
    """The columns of a table and their meanings."""

    def __init__(self, table: Table, units: dict[str, str], decimal: str) -> None:
        self.table, self.units, self.decimal = table, units, decimal
        self.meanings = meanings_of(table.names)
        for name in units:
            self._existing(name)

    def those(self, quantity: str) -> list[str]:
        """The columns that hold a quantity, judged by their names."""
        return [name for name, meaning in self.meanings.items() if meaning.quantity == quantity]

    def one(self, quantity: str, given: str | None) -> str:
        """The column that the user named, or the only one of its kind."""
        if given is not None:
            return self._existing(given)
        found = self.those(quantity)
        if len(found) != 1:
            what = f"{', '.join(found)} are candidates" if found else "no column name fits"
            raise TraceError(
                f"{self.table.path}: which column is {quantity}? {what}: name it in {quantity}=; "
                f"there are {', '.join(self.table.names)}"
            )
        return found[0]

    def factor(self, name: str, quantity: str) -> float:
        """The factor that converts a column to watts, joules or seconds."""
        meaning = self.meanings.get(name, Meaning(quantity, unit_of(name), ""))
        unit = self.units.get(name, meaning.unit)
        try:
            return factor_of(quantity, unit)
        except KeyError:
            example = {"power": "W", "energy": "J"}.get(quantity, "s")
            raise TraceError(
                f"{self.table.path}: {name} does not state its unit"
                f"{f', and {unit} is no unit of {quantity}' if unit else ''}: add it, as "
                f"in units={{{name!r}: {example!r}}}"
            ) from None

    def numbers(self, name: str, quantity: str) -> FloatArray:
        """A column in watts, joules or seconds."""
        return self.table.numbers(name, self.factor(name, quantity), decimal=self.decimal)

    def times(self, given: str | None, timezone: str | None) -> tuple[str, FloatArray, Clock]:
        """The column of times, its values in seconds, and their clock."""
        name = self._time(given)
        table = self.table
        texts = table.texts(name)
        if any(DATE_TIME.fullmatch(text) for text in texts):
            return name, *clock_of_texts(texts, table.refusal, timezone)
        if name in self.units or self.meanings.get(name, Meaning("time", "", "")).unit:
            time_s = self.numbers(name, "time")
        else:
            time_s = table.numbers(name, decimal=self.decimal)
            known = time_s[np.isfinite(time_s)]
            if len(known) and (known > _UNIX_MS[0]).all() and (known < _UNIX_MS[1]).all():
                time_s = time_s / 1000
            elif not (len(known) and (known > _UNIX_S[0]).all() and (known < _UNIX_S[1]).all()):
                time_s = self.numbers(name, "time")  # refused: no unit
        missing = np.flatnonzero(~np.isfinite(time_s))
        if len(missing):
            raise table.refusal(int(missing[0]), f"no {name}")
        if len(time_s) and (time_s > _UNIX_S[0]).all():
            return name, *clock_of_unix(time_s)
        return name, time_s, Clock()

    def readings(
        self, time: str | None, power: Any, device: str | None, timezone: str | None
    ) -> Readings:
        """The table as power readings."""
        table = self.table
        name, time_s, clock = self.times(time, timezone)
        powers = self._powers(power, device)
        facts = {"time_column": name, "power_column": ", ".join(powers.values())}
        of_row = self._of_row(device) if len(powers) == 1 else None
        common: dict[str, Any] = {
            "path": table.path,
            "tool": "table",
            "clock": clock,
            "notes": table.notes,
            "facts": facts,
        }
        arrays = wide_readings(
            time_s,
            {of: self.numbers(column, "power") for of, column in powers.items()},
            table.lines,
        )
        if of_row is None:
            is_told = len(powers) > 1 or device is not None
            return Readings(**common, **arrays, tells_devices=is_told)
        return Readings(**common, **arrays | {"device": of_row})

    def windows(
        self,
        time: str | None,
        energy: str | None,
        duration: str | None,
        timezone: str | None,
        *,
        keeps_rows: bool,
    ) -> Windows:
        """The table as epochs; with metrics if its rows are kept, not cut at other ends."""
        table = self.table
        names = [energy] if energy is not None else self.those("energy")
        parts = {column: device_of(column).partition(":")[0] for column in names}
        totals = [column for column, kind in parts.items() if not kind]
        if energy is not None:
            totals = [self._existing(energy)]
        if len(totals) > 1 or not names:
            self.one("energy", None)
        columns: dict[str, FloatArray] = {}
        for column, kind in parts.items():
            if kind and column not in totals:
                key = f"{kind}_energy_J"
                columns[key] = columns.get(key, 0.0) + self.numbers(column, "energy")
        energy_J = (
            self.numbers(totals[0], "energy")
            if totals
            else np.asarray(np.sum(list(columns.values()), axis=0))
        )
        used = {*totals, *names}
        duration_s = None
        if duration is not None or self.those("duration"):
            duration = self.one("duration", duration)
            duration_s = self.numbers(duration, "duration")
            used.add(duration)
        end_s, clock = None, None
        if time is not None or (len(self.those("time")) == 1 and duration_s is not None):
            time, end_s, clock = self.times(time, timezone)
            used.add(time)
        metrics, notes = self._others(used, keeps_rows, has_duration=duration_s is not None)
        return Windows(
            table.path,
            "table",
            energy_J,
            duration_s,
            {**columns, **metrics},
            table.lines,
            end_s=end_s,
            clock=clock,
            notes=[*table.notes, *notes],
            facts={"energy_column": ", ".join(totals or names)},
        )

    def _others(
        self, used: set[str], keeps_rows: bool, *, has_duration: bool
    ) -> tuple[dict[str, FloatArray], list[str]]:
        """The metrics among the columns of a table of epochs, and notes on those not used.

        A metric is a column of numbers whose name means nothing else. The number of the epoch is
        its place in the table.
        """
        metrics: dict[str, FloatArray] = {}
        left: list[str] = []
        notes: list[str] = []
        for name in self.table.names:
            if name in used or name.strip().lower() in _NUMBER_OF_EPOCH:
                continue
            is_span = not has_duration and unit_of(name) in UNITS["time"] and "per" not in name
            values = self._metric(name) if keeps_rows and not is_span else None
            if values is not None:
                metrics[name] = values
            elif is_span:
                notes.append(
                    f"column {name} was not used: if it is the duration of each epoch, name it "
                    f"duration_{unit_of(name)}, or pass duration={name!r}"
                )
            else:
                left.append(name)
        if left:
            are = "column {} was" if len(left) == 1 else "columns {} were"
            notes.append(f"{are.format(', '.join(left))} not used")
        return metrics, notes

    def _metric(self, name: str) -> FloatArray | None:
        """A column as a metric; None if it is none."""
        is_taken = name in EPOCH_COLUMNS and name not in _COUNTS
        if name in self.meanings or is_taken or why_unstorable(name):
            return None
        try:
            values = self.table.numbers(name, decimal=self.decimal)
        except TraceError:
            return None
        return values if np.isfinite(values).any() else None

    def _time(self, given: str | None) -> str:
        """The column of times; of two, the one with dates, which says more."""
        found = self.those("time")
        if given is None and len(found) > 1:
            dated = [n for n in found if DATE_TIME.fullmatch((self.table.texts(n) or [""])[0])]
            if len(dated) == 1:
                return dated[0]
        return self.one("time", given)

    def _powers(self, power: Any, device: str | None) -> dict[str, str]:
        """The power column of each device."""
        if isinstance(power, Mapping):
            return {str(of): self._existing(column) for of, column in power.items()}
        if isinstance(power, str):
            columns = [self._existing(power)]
        elif power is not None:
            columns = [self._existing(column) for column in power]
        else:
            columns = self.those("power")
        devices = [device_of(column) for column in columns]
        if len(columns) == 1:
            named = device if device is not None and _DEVICE.fullmatch(device) else devices[0]
            return {named or "gpu:0": columns[0]}
        if "" in devices or len(set(devices)) < len(devices):
            raise TraceError(
                f"{self.table.path}: which of {', '.join(columns)} is power? Their names do not "
                "identify devices: name one in power=, or map devices to columns"
            )
        return dict(zip(devices, columns, strict=True))

    def _of_row(self, device: str | None) -> Any:
        """The device of each row; None if all are of one device."""
        if device is not None and device not in self.table.names:
            if _DEVICE.fullmatch(device):
                return None
            self._existing(device)
        found = [device] if device is not None else self.those("device")
        if len(found) != 1:
            return None
        texts = self.table.texts(found[0])
        numbers: dict[str, int] = {}
        names = []
        for row, text in enumerate(texts):
            if not text:
                raise self.table.refusal(row, f"no {found[0]}")
            own = text if text.isdigit() else numbers.setdefault(text, len(numbers))
            names.append(text if _DEVICE.fullmatch(text) else f"gpu:{own}")
        return np.array(names, dtype=object)

    def _existing(self, name: str) -> str:
        if name not in self.table.names:
            raise TraceError(
                f"{self.table.path} has no column {short(name)}; it has "
                f"{', '.join(self.table.names)}"
            )
        return name
