"""`EnergyTrace`: what each epoch of a training cost; the record that all parts share."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.arrays import FloatArray
from energyest.carbon import CarbonSeries, Intensity, co2e_kg
from energyest.carbon.emissions import check_pue
from energyest.carbon.spending import spending
from energyest.checks import check_count
from energyest.display import format_energy, printable
from energyest.errors import TraceError
from energyest.integration import energy_outside
from energyest.records import storage
from energyest.records.devices import (
    Device,
    contained_names,
    devices_of,
    names_with_counts,
    rows_of_devices,
    unread_devices,
)
from energyest.records.epoch_table import as_frame, checked_columns, rows_done, why_unstorable
from energyest.records.from_logs.columns import LogColumns
from energyest.records.from_logs.epochs import log_of_epochs
from energyest.records.from_logs.power import log_of_power
from energyest.records.meta import part_begins, read_count, read_list, read_number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

EPOCH_COLUMNS = (
    *("epoch", "start_s", "end_s", "duration_s"),
    *("energy_J", "gpu_energy_J", "cpu_energy_J", "ram_energy_J"),
    *("validation_energy_J", "validation_s", "mean_power_W"),
    *("steps", "samples", "flops"),
)
POWER_COLUMNS = storage.POWER_COLUMNS
# Facts in the meta, and in its devices, that describe the whole run and are known at its end.
_OF_WHOLE_RUN = {"total_J", "duration_s", "status", "components", "interrupted_epoch"}
_OF_WHOLE_DEVICE = {"energy_J", "missing_s", "failed_readings", "power_integral_J", "utilization"}


@dataclass(frozen=True, eq=False, repr=False)
class EnergyTrace:
    """What a training run cost, epoch by epoch. The run may be finished, running or killed.

    A trace comes from `EnergyMonitor`, `EnergyCallback`, `track`, `load_trace`, `from_epochs` or
    `from_power`.

    Attributes:
        epoch_columns: name -> array of shape (epochs,): `EPOCH_COLUMNS` and the logged metrics.
        power_columns: name -> array of shape (readings,): `POWER_COLUMNS`.
        meta: facts about the run, its devices, model and versions, as plain JSON values.

    Examples:
        >>> from energyest import EnergyTrace
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030], duration_s=[30, 24, 24, 24])
        >>> trace
        EnergyTrace(4 epochs, 17.16 kJ)
        >>> trace.total_J
        17160.0
        >>> trace.head(2).epochs['energy_J'].tolist()
        [5100.0, 4020.0]
    """

    epoch_columns: Mapping[str, FloatArray]
    power_columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        epochs = checked_columns(self.epoch_columns, EPOCH_COLUMNS, "epochs")
        power = checked_columns(self.power_columns, POWER_COLUMNS, "power")
        if len(power["device"]) and not {"time_s", "device"} <= set(self.power_columns):
            raise TraceError("readings need the columns time_s and device")
        for reason in filter(None, map(why_unstorable, epochs)):
            raise TraceError(reason)
        object.__setattr__(self, "epoch_columns", epochs)
        object.__setattr__(self, "power_columns", power)
        object.__setattr__(self, "meta", dict(_checked_meta(self.meta)))

    # ------------------------------------------------------------------ building

    @classmethod
    def from_epochs(
        cls,
        energy_J: ArrayLike,
        duration_s: ArrayLike | None = None,
        *,
        meta: Mapping[str, Any] | None = None,
        **columns: ArrayLike,
    ) -> EnergyTrace:
        """Build a trace from the energy of consecutive epochs, for example from a log.

        Args:
            energy_J: shape (epochs,), joules of each epoch. NaN marks an epoch that was not
                measured: it counts as an epoch, the total is then unknown, and a projection
                estimates it.
            duration_s: shape (epochs,), seconds of each epoch, also where its energy is NaN.
            meta: facts about the run, such as `{"devices": [{"device": "gpu:0", "kind": "gpu",
                "name": "NVIDIA A40", "power_limit_W": 300}]}`.
            **columns: further columns of shape (epochs,), such as `val_acc` or `flops`; NaN
                for what was not measured.

        Raises:
            TraceError: arrays differ in length or do not hold numbers (clock times, for example);
                an energy is negative or infinite, or a duration is negative, infinite or NaN; the
                mean power is above 100 kW for each device in `meta`, or below 1 mW for all of
                them.

        Warns:
            UserWarning: the numbers are unlikely to be joules and seconds, or to be per epoch; an
                epoch cost 0 J.

        Examples:
            >>> from energyest import EnergyTrace
            >>> EnergyTrace.from_epochs([5100, 4020], duration_s=[30, 24], val_acc=[0.7, 0.8])
            EnergyTrace(2 epochs, 9.12 kJ)
        """
        log = log_of_epochs(energy_J, duration_s, _checked_meta(meta or {}), columns)
        return cls._of_log(log)

    @classmethod
    def from_power(
        cls,
        time_s: ArrayLike,
        power_W: ArrayLike,
        epoch_end_s: ArrayLike,
        *,
        utilization: ArrayLike | None = None,
        device: str | ArrayLike = "gpu:0",
        max_gap_s: float | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> EnergyTrace:
        """Build a trace from power readings, integrated over each epoch by the trapezoid rule.

        An epoch is NaN if power was not read for longer than `max_gap_s`; the reading before such
        a gap is held until the next one was due. Each device is integrated separately.

        Args:
            time_s: shape (readings,), seconds on any clock, not decreasing for each device.
            power_W: shape (readings,), watts; NaN for a reading that failed.
            epoch_end_s: shape (epochs,), the ends of consecutive epochs on the same clock; the
                first epoch starts at the first reading. The last end may lie beyond the last
                reading by less than the usual time between readings: power is then assumed to
                continue.
            utilization: shape (readings,), the share of time, from 0 to 1, in which the device was
                busy; NaN where it was not read.
            device: name of the device, or names of shape (readings,); the part before the colon is
                the device's kind (gpu, cpu, ram).
            max_gap_s: the longest time without a reading, in seconds, that is bridged by a straight
                line; by default 5, or 3.5 times the usual time between nearby readings if that is
                longer. `math.inf` bridges everything.
            meta: facts about the run, as in `from_epochs`.

        Raises:
            TraceError: arrays differ in length or do not hold numbers (clock times, for example); a
                device has fewer than two readings; times go backwards; power is negative, infinite
                or above 100 kW; an epoch ends before it starts or after the last reading; or
                readings under one device name look like those of several devices.

        Warns:
            UserWarning: an epoch is NaN because power was not read for too long; power or times
                are unlikely to be that device's watts and seconds.

        Examples:
            >>> from energyest import EnergyTrace
            >>> trace = EnergyTrace.from_power([0, 10, 20, 30, 40], [300] * 5, [20, 40])
            >>> trace.column('energy_J').tolist()
            [6000.0, 6000.0]
        """
        log = log_of_power(
            time_s,
            power_W,
            epoch_end_s,
            utilization=utilization,
            device=device,
            max_gap_s=max_gap_s,
            meta=_checked_meta(meta or {}),
        )
        return cls._of_log(log)

    @classmethod
    def _of_log(cls, log: LogColumns) -> EnergyTrace:
        for doubt in log.doubts:
            warnings.warn(doubt, UserWarning, stacklevel=3)
        return cls(log.epochs, log.power, log.meta)

    # ------------------------------------------------------------------ reading

    @property
    def epochs(self) -> pd.DataFrame:
        """A new DataFrame with one row per epoch; columns are `EPOCH_COLUMNS` and the metrics.

        `energy_J` is the sum of the components present and includes `validation_energy_J`. If a
        device contains others, as a whole node does, the sum counts their joules once. NaN marks
        what was not measured.
        """
        return as_frame(self.epoch_columns, integers=("epoch",))

    @property
    def power(self) -> pd.DataFrame:
        """A new DataFrame with one row per reading of a device; columns are `POWER_COLUMNS`.

        `energy_J` is the device's cumulative counter; `utilization` is a share from 0 to 1.
        """
        return as_frame(self.power_columns)

    def column(self, name: str) -> FloatArray:
        """A column of `epochs` as a read-only array of shape (epochs,).

        Raises:
            TraceError: there is no such column.
        """
        try:
            return self.epoch_columns[name]
        except KeyError:
            raise TraceError(
                f"the trace has no column {name!r}; it has {', '.join(self.epoch_columns)}"
            ) from None

    @property
    def unit(self) -> str:
        """What a row of `epochs` is: an `epoch`, or an `interval` of a number of steps."""
        return "epoch" if self.meta.get("interval_steps") is None else "interval"

    @property
    def epochs_done(self) -> float:
        """Number of epochs; a last one with fewer steps than the others counts in part.

        A training that stops within an epoch, at a number of steps or a budget, leaves such a row.
        """
        return rows_done(self.column("steps"))

    @property
    def metrics(self) -> list[str]:
        """The names of the logged metrics."""
        return [name for name in self.epoch_columns if name not in EPOCH_COLUMNS]

    @property
    def devices(self) -> list[Device]:
        """The device entries in `meta`; values that are not objects are left out."""
        return devices_of(self.meta)

    @property
    def total_J(self) -> float:
        """Energy of the whole run in joules, including what was drawn outside of epochs.

        It is recorded when the run ends. For a killed run, and for a trace built from arrays, it
        is the sum of the epochs and of what the readings show outside of them. NaN if a part, or
        everything, was not measured.
        """
        if read_list(self.meta, "missing_ranks"):
            return math.nan
        recorded = read_number(self.meta, "total_J")
        if recorded is not None:
            return recorded
        is_unknown = any(self.meta.get(n, 0.0) is None for n in ("total_J", "earlier_total_J"))
        if is_unknown or unread_devices(self.meta, self.power_columns["device"]):
            return math.nan
        energy_J, first = self.column("energy_J"), read_count(self.meta, "earlier_rows")
        earlier_J, carried_J = (read_number(self.meta, n) for n in ("earlier_total_J", "carried_J"))
        rows_J = float(np.sum(energy_J))
        if earlier_J is not None and first is not None and first <= len(self):
            # The run was resumed from a checkpoint, which holds its cost by then. If the epoch
            # that was under way has ended since, its row includes the part carried over, which
            # must not count twice.
            rows_J = earlier_J + float(np.sum(energy_J[first:]))
            if len(self) > first and carried_J is not None:
                rows_J -= carried_J
        return rows_J + self._outside_J()

    def co2e_kg(self, intensity_g_per_kWh: Intensity, *, pue: float = 1.0) -> float:
        """Emissions of the whole run in kg CO2e: `total_J` × PUE × intensity.

        Raises:
            EstimateError: see `energyest.carbon.co2e_kg`, or `CarbonSeries.co2e_kg` for a series.
        """
        if isinstance(intensity_g_per_kWh, CarbonSeries):
            return check_pue(pue) * intensity_g_per_kWh.co2e_kg(*self.energy_over_time())
        return co2e_kg(self.total_J, intensity_g_per_kWh, pue=pue)

    def energy_over_time(self) -> tuple[FloatArray, FloatArray]:
        """Times in seconds since 1970, ascending, and the joules used up to each of them.

        Raises:
            EstimateError: the trace does not say when the run, or an earlier part of it, began.
        """
        rows = self.column("start_s"), self.column("end_s"), self.column("energy_J")
        duration_s = read_number(self.meta, "duration_s") or 0.0
        return spending(rows, part_begins(self.meta), duration_s, self.total_J)

    def _outside_J(self) -> float:
        """Energy that the readings show before, between and after the epochs, in joules."""
        columns = self.power_columns
        starts_s, ends_s = self.column("start_s"), self.column("end_s")
        if not np.isfinite([starts_s, ends_s]).all():
            return 0.0
        values = [columns[name] for name in ("time_s", "power_W", "energy_J")]
        within = contained_names(self.devices)  # their joules count with what contains them
        readings = (
            [column[rows] for column in values]
            for name, rows in rows_of_devices(columns["device"]).items()
            if name not in within
        )
        outside_J, longest_s = energy_outside(readings, starts_s, ends_s)
        return outside_J if len(self) or longest_s > 0 else math.nan

    def head(self, epochs: int) -> EnergyTrace:
        """The trace as it was after the first `epochs` epochs.

        Raises:
            TraceError: `epochs` is negative.
        """
        epochs = check_count(epochs, "epochs", TraceError, least=0)
        if epochs >= len(self):
            return self
        last_s = float(self.column("end_s")[epochs - 1]) if epochs else -math.inf
        until = self.power_columns["time_s"] <= last_s
        meta = {name: value for name, value in self.meta.items() if name not in _OF_WHOLE_RUN}
        if self.devices:
            meta["devices"] = [
                {name: value for name, value in device.items() if name not in _OF_WHOLE_DEVICE}
                for device in self.devices
            ]
        return EnergyTrace(
            {name: values[:epochs] for name, values in self.epoch_columns.items()},
            {name: values[until] for name, values in self.power_columns.items()},
            meta,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the trace as a folder of plain files, which `load_trace` reads.

        Raises:
            TraceError: the folder already holds a trace or a file with the name of a trace file,
                or cannot be written.
        """
        path = Path(folder)
        storage.write_folder(path, self.epoch_columns, self.power_columns, self.meta)
        return path

    # ------------------------------------------------------------------ showing

    def plot(self, *, epochs: float | None = None, observed: int | None = None) -> Figure:
        """A picture of power, of each epoch's energy, and of the projection; see `plot_trace`.

        Raises:
            MissingDependencyError: matplotlib is not installed.
            TraceError: the trace holds no epoch.
            EstimateError: as `energyest.plots.plot_trace`.
        """
        import energyest  # noqa: PLC0415  (pictures are made far above records)

        return energyest.plots.plot_trace(self, epochs=epochs, observed=observed)

    def to_html(self) -> str:
        """A page about the training in one HTML file; see `energyest.report.write_report`."""
        import energyest  # noqa: PLC0415

        return energyest.report.report_html(self)

    def _repr_html_(self) -> str:
        import energyest  # noqa: PLC0415

        return energyest.report.trace_card(self)

    def __len__(self) -> int:
        return len(self.epoch_columns["epoch"])

    def __repr__(self) -> str:
        energy_J = self.column("energy_J")
        unread = int(np.isnan(energy_J).sum())
        energy = format_energy(float(np.nansum(energy_J)))
        if unread:
            known = len(self) - unread
            energy = f"{energy} in {known} of them" if known else "energy unknown"
        size = f"{len(self)} {self.unit}s"
        text = ", ".join([size, energy, *names_with_counts(self.devices)])
        return f"EnergyTrace({printable(text)})"


# ---------------------------------------------------------------------- checks


def _checked_meta(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(meta, Mapping):
        raise TraceError(f"meta must be a mapping, not {type(meta).__name__}")
    return meta
