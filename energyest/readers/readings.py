"""Turn power readings, as read from a tool's log, into an `EnergyTrace`."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import Clock
from energyest.readers.ends import ends_on
from energyest.readers.text import Log
from energyest.records.devices import Device, rows_of_devices
from energyest.records.from_logs.columns import as_measured
from energyest.records.from_logs.interleaved import devices_in_turn
from energyest.records.from_logs.power import log_of_power
from energyest.records.from_logs.units import check_power
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

# The jump of a clock at the end of summer time.
_HOUR_S, _ABOUT_S = 3600.0, 120.0
_INDEX = re.compile(r"\w+\[(\d+)\]")


@dataclass(frozen=True)
class Readings:
    """The power readings of a log.

    Attributes:
        path: the log.
        tool: the tool that wrote it.
        time_s: shape (n,), seconds on `clock`.
        device: shape (n,), such as "gpu:0".
        power_W: shape (n,), watts; NaN where a reading failed.
        line: shape (n,), the line of each reading in the log; 0 if the log has no lines.
        clock: the clock of `time_s`.
        utilization: shape (n,), share from 0 to 1, or NaN; None if not in the log.
        devices: facts that the log states about the devices.
        tells_devices: whether the log names the device of each reading.
        marks: times and texts of lines that are not readings.
        notes: what the reader had to decide, with the line.
        facts: what the reader read, such as the column of power.
    """

    path: Path
    tool: str
    time_s: FloatArray
    device: NDArray[Any]
    power_W: FloatArray
    line: NDArray[np.int64]
    clock: Clock
    utilization: FloatArray | None = None
    devices: Sequence[Device] = ()
    tells_devices: bool = True
    marks: Sequence[tuple[float, str]] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The readings as a table, for a function that the user passed."""
        import pandas as pd  # noqa: PLC0415

        columns: dict[str, Any] = {
            "time_s": self.time_s,
            "device": self.device,
            "power_W": self.power_W,
        }
        if self.utilization is not None:
            columns["utilization"] = self.utilization
        if self.clock.kind != "seconds":
            zone = "UTC" if self.clock.kind == "unix" else None
            zero = pd.Timestamp(self.clock.zero_s, unit="s", tz=zone)
            columns["time"] = zero + pd.to_timedelta(self.time_s, unit="s")
        frame: pd.DataFrame = pd.DataFrame(columns)
        return frame


def trace_of_readings(
    readings: Readings,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Make the trace of a log of power; without epoch ends it has a total but no epochs.

    Raises:
        TraceError: the readings or the ends break a rule of `EnergyTrace.from_power`, or the log
            has readings of several devices without naming the device of each.

    Warns:
        UserWarning: as for `EnergyTrace.from_power`; the trace's notes repeat the warnings.
    """
    ends_s = ends_on(readings.clock, epoch_end_s, epoch_marks, readings.marks, readings.frame)
    chosen = _of_gpu(readings, gpu)
    _check(chosen)
    try:
        log = log_of_power(
            chosen.time_s,
            chosen.power_W,
            ends_s,
            utilization=chosen.utilization,
            device=chosen.device,
            max_gap_s=max_gap_s,
            meta=_meta(chosen),
        )
    except TraceError as error:
        raise TraceError(f"{chosen.path}: {error}") from error
    return finished(chosen.path, log.epochs, log.power, log.meta, [*chosen.notes, *log.doubts])


def finished(
    path: Path,
    epochs: Mapping[str, FloatArray],
    power: Mapping[str, NDArray[Any]],
    meta: Mapping[str, Any],
    notes: Sequence[str],
) -> EnergyTrace:
    """Make the trace, and repeat its notes as warnings."""
    for note in notes:
        warnings.warn(f"{path.name}: {note.removeprefix(f'{path.name}, ')}", stacklevel=4)
    return EnergyTrace(epochs, power, {**meta, "notes": list(notes)} if notes else meta)


def facts_of(
    tool: str, path: Path, clock: Clock | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The meta entries that describe the log from which a trace was made."""
    log: dict[str, Any] = {"tool": tool, "file": path.name, **facts}
    if clock is not None and clock.timezone is not None:
        log["timezone"] = clock.timezone
    start_time = clock.start_time if clock is not None else None
    return {"log": log} | ({"start_time": start_time} if start_time else {})


def wide_readings(
    time_s: FloatArray, powers: Mapping[str, FloatArray], lines: Sequence[int]
) -> dict[str, Any]:
    """Convert one power column per device to the arrays of `Readings`."""
    return {
        "time_s": np.concatenate([time_s for _ in powers]),
        "device": np.repeat(np.array(list(powers), dtype=object), len(time_s)),
        "power_W": np.concatenate(
            [np.asarray(power, dtype=np.float64) for power in powers.values()]
        ),
        "line": np.tile(np.asarray(lines, dtype=np.int64), len(powers)),
    }


def times_of_marks(
    marks: Sequence[tuple[int, str]], lines: NDArray[np.int64], time_s: FloatArray
) -> list[tuple[float, str]]:
    """Times of lines that are not readings, interpolated between the readings around them.

    Args:
        marks: number and text of each line.
        lines: shape (n,), the lines of the readings.
        time_s: shape (n,), the times of the readings.
    """
    return [(float(np.interp(number, lines, time_s)), text) for number, text in marks]


def notes_of_marks(log: Log, marks: Sequence[tuple[int, str]]) -> list[str]:
    """A note about lines that are not readings, which names the first."""
    if not marks:
        return []
    number, text = marks[0]
    what = f"the first of {len(marks)} line(s) that are not readings: {short(text)}"
    return [log.note(number, what)]


# ---------------------------------------------------------------------- checks


def _of_gpu(readings: Readings, gpu: Any) -> Readings:
    """The readings of the requested devices."""
    if gpu is None:
        return readings
    asked = [gpu] if isinstance(gpu, (str, int)) or not hasattr(gpu, "__iter__") else list(gpu)
    names: set[str] = set()
    known = dict.fromkeys(readings.device)
    for one in asked:
        text = str(one)
        found = [n for n in known if n in (text, f"gpu:{text}")] or [
            str(entry["device"])
            for entry in readings.devices
            if text and str(entry.get("uuid", "")).startswith(text)
        ]
        if len(found) != 1:
            raise TraceError(
                f"{readings.path}: gpu={short(one)} is not one of its devices: {', '.join(known)}"
            )
        names.add(found[0])
    rows = np.isin(readings.device.astype(str), list(names))
    return replace(
        readings,
        time_s=readings.time_s[rows],
        device=readings.device[rows],
        power_W=readings.power_W[rows],
        line=readings.line[rows],
        utilization=None if readings.utilization is None else readings.utilization[rows],
        devices=[entry for entry in readings.devices if entry.get("device") in names],
    )


def _check(readings: Readings) -> None:
    """Refuse impossible readings; the error names the line."""
    if not len(readings.time_s):
        raise TraceError(f"{readings.path} holds no power reading")
    try:
        check_power(as_measured(readings.power_W, "power_W"), "a device")
    except TraceError as error:
        index = _INDEX.match(str(error))
        raise _refusal(readings, int(index[1]) if index else 0, str(error)) from error
    for name, rows in rows_of_devices(readings.device).items():
        _check_device(readings, name, rows)


def _check_device(readings: Readings, name: str, rows: NDArray[np.intp]) -> None:
    time_s = readings.time_s[rows]
    step_s = np.diff(time_s)
    if (step_s < 0).any():
        first = int(np.argmax(step_s < 0))
        back_s = -float(step_s[first])
        text = f"the time of {name} goes back by {back_s:.10g} s from the previous reading"
        if abs(back_s - _HOUR_S) < _ABOUT_S and readings.clock.kind == "local":
            text += (
                ", about an hour, as at the end of summer time: give the log's time zone, as in "
                "timezone='Europe/Berlin'"
            )
        else:
            text += ": two logs in one, devices that are not distinguished, or a clock set back?"
        raise _refusal(readings, int(rows[first + 1]), text)
    together = devices_in_turn(time_s)
    if together > 1 and not readings.tells_devices:
        raise _refusal(
            readings,
            int(rows[min(1, len(rows) - 1)]),
            f"the readings come {together} at a time, as from {together} GPUs, but nothing "
            "distinguishes these: log the GPU too (nvidia-smi: index or uuid), or name the column "
            "that holds it",
        )
    if not np.isfinite(readings.power_W[rows]).any():
        raise _refusal(
            readings,
            int(rows[0]),
            f"no reading of {name} holds its power: the device or driver does not report it"
            + ("; leave it out with gpu=" if len(set(readings.device)) > 1 else ""),
        )


def _refusal(readings: Readings, index: int, text: str) -> TraceError:
    line = int(readings.line[index])
    return TraceError(f"{readings.path}{f', line {line}' if line else ''}: {text}")


def _meta(readings: Readings) -> dict[str, Any]:
    clock = readings.clock
    stated = {str(entry["device"]): entry for entry in readings.devices}
    # A table does not say whether its power was measured or modelled.
    source = {} if readings.tool == "table" else {"source": "measured"}
    devices = [
        {"device": name, "kind": name.partition(":")[0], **source} | stated.get(name, {})
        for name in dict.fromkeys(readings.device)
    ]
    facts = {
        "devices": devices,
        **facts_of(readings.tool, readings.path, clock, readings.facts),
    }
    first = next(iter(rows_of_devices(readings.device).values()))
    step_s = np.diff(readings.time_s[first])
    if len(step_s) and math.isfinite(median_s := float(np.median(step_s))):
        facts["interval_s"] = median_s
    return facts
