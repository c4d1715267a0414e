"""Turn a log of the power of one or more devices into the columns of a trace."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.arrays import FloatArray, check_increasing, check_same_length, ratio, refuse
from energyest.checks import is_number, short
from energyest.errors import TraceError
from energyest.integration import GAP_TIMES, MAX_GAP_S, cumulative_energy
from energyest.records.devices import (
    KINDS,
    WHOLES,
    Device,
    devices_of,
    rows_of_devices,
    summed_columns,
)
from energyest.records.from_logs.columns import LogColumns, as_measured, as_numbers, lower_median
from energyest.records.from_logs.interleaved import devices_by_power, devices_in_turn
from energyest.records.from_logs.units import check_power, check_times, doubts_of_power

_NAME = re.compile(rf"({'|'.join((*KINDS, *WHOLES))})(:[\w@]*)*")
# Steps before and after a gap from which the local time between readings is taken.
_AROUND = 10
# Rounding of times, also of Unix time; a gap is longer.
_ROUNDING_S = 1e-6


class _Drawn(NamedTuple):
    """The energy drawn by one device.

    Attributes:
        energy_J: shape (epochs,), joules; NaN if part of the epoch was not measured.
        gaps_s: shape (gaps, 2), start and end of each span that was not measured.
    """

    energy_J: FloatArray
    gaps_s: FloatArray


def log_of_power(
    time_s: ArrayLike,
    power_W: ArrayLike,
    epoch_end_s: ArrayLike,
    *,
    utilization: ArrayLike | None,
    device: str | ArrayLike,
    max_gap_s: float | None,
    meta: Mapping[str, Any],
) -> LogColumns:
    """The columns for `EnergyTrace.from_power`, with the same arguments and errors."""
    time, power = as_numbers(time_s, "time_s"), as_measured(power_W, "power_W")
    check_times(time, "time_s")
    check_same_length(time_s=time, power_W=power)
    if max_gap_s is not None and not (is_number(max_gap_s) and max_gap_s > 0):
        raise TraceError(f"max_gap_s={short(max_gap_s)} must be positive: seconds, or math.inf")
    names, rows = _devices(device, len(time))
    doubts = _check_devices(time, power, rows, is_named=not isinstance(device, str))
    every_s = {name: lower_median(np.diff(time[of_it])) for name, of_it in rows.items()}

    ends = as_numbers(epoch_end_s, "epoch_end_s")
    check_times(ends, "epoch_end_s")
    edges = np.append(time.min(), ends)
    check_increasing(edges, "epoch_end_s (with the first of time_s before it)", strictly=True)
    last_s = float(time.max())
    # If the next reading was due after the last epoch's end, none is missing.
    if edges[-1] - last_s >= max(*every_s.values(), 1e-9 * abs(last_s)):
        raise TraceError(
            f"epoch_end_s ends at {edges[-1]:g} s, after the last reading at {last_s:g} s: "
            "every epoch must lie within the readings"
        )

    entries = _entries(list(rows), meta)
    drawn: dict[str, _Drawn] = {}
    until_s = max(last_s, float(edges[-1]))
    for name, of_it in rows.items():
        doubts += doubts_of_power(power[of_it], every_s[name], entries[name])
        drawn[name] = _drawn(time[of_it], power[of_it], edges, until_s, max_gap_s)
    doubts += _doubts_of_gaps(drawn)

    readings: dict[str, NDArray[Any]] = {"time_s": time, "device": names, "power_W": power}
    if utilization is not None:
        busy = as_measured(utilization, "utilization")
        check_same_length(time_s=time, utilization=busy)
        refuse(busy > 1, busy, "utilization", "must be a share from 0 to 1")
        readings["utilization"] = busy
    duration = np.diff(edges)
    sums = _sums(drawn, entries)
    energy = sums["energy_J"]
    epochs = {
        "epoch": np.arange(len(ends), dtype=np.float64),
        "start_s": edges[:-1],
        "end_s": edges[1:],
        "duration_s": duration,
        **sums,
        "mean_power_W": ratio(energy, duration),
    }
    return LogColumns(epochs, readings, _with_gaps(meta, entries, drawn, edges[-1]), doubts)


# ---------------------------------------------------------------------- devices


def _devices(
    device: str | ArrayLike, readings: int
) -> tuple[NDArray[Any], dict[str, NDArray[np.intp]]]:
    """The device of each reading, and the readings of each device."""
    if isinstance(device, str):
        names: NDArray[Any] = np.full(readings, device, dtype=object)
        rows = {device: np.arange(readings)}
    else:
        names = np.array(device, dtype=object)
        if names.shape != (readings,):
            raise TraceError(
                f"device must be one name, or one for each of the {readings} readings, not "
                f"have shape {names.shape}"
            )
        rows = rows_of_devices(names)
    for name in rows:
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise TraceError(
                f"device {name!r} must start with {', '.join((*KINDS, *WHOLES))}, as in 'gpu:0'"
            )
    fewest = min(map(len, rows.values()), default=0)
    if fewest < 2:
        raise TraceError(
            f"time_s holds {fewest} reading(s) of a device: integration needs at least 2"
        )
    return names, rows


def _check_devices(
    time: FloatArray, power: FloatArray, rows: Mapping[str, NDArray[np.intp]], *, is_named: bool
) -> list[str]:
    """Refuse impossible readings of a device, and return doubts about unlikely ones.

    Args:
        time: times of all readings.
        power: power of all readings.
        rows: the readings of each device.
        is_named: whether the caller named the device of each reading.
    """
    doubts = []
    for name, of_it in rows.items():
        rule = (
            "must not go backwards: sort the readings by time; if they are from several devices, "
            "name the device of each reading in device="
        )
        of = "time_s" if len(rows) == 1 else f"time_s of {name}"
        step_s = np.append(0.0, np.diff(time[of_it]))
        refuse(step_s < 0, time[of_it], of, rule)
        check_power(power[of_it], name)
        together = devices_in_turn(time[of_it])
        if together > 1:
            what = (
                f"{of} has groups of {together} readings close together, as if {together} devices "
                f"were read in turn; their power must be summed, not taken for the power of "
                f"{name} alone"
            )
            if not is_named:
                raise TraceError(
                    f"{what}: name the device of each reading, as in "
                    "device='gpu:' + log['index'].astype(str), or, if it is one device, "
                    f"device=[{name!r}] * {len(time)}"
                )
            doubts.append(what)
        elif (levels := devices_by_power(power[of_it])) > 1:
            doubts.append(
                f"power_W of {name} alternates between {levels} levels from reading to reading: "
                f"are these readings of {levels} devices? Then name the device of each in device="
            )
    return doubts


def _entries(names: list[str], meta: Mapping[str, Any]) -> dict[str, Device]:
    """The facts about each device: from the meta or, if it has none, from the device's name."""
    stated = {str(entry.get("device")): entry for entry in devices_of(meta)}
    return {
        name: stated.get(name, {}) | {"device": name, "kind": name.partition(":")[0]}
        for name in names
    }


def _sums(drawn: Mapping[str, _Drawn], entries: Mapping[str, Device]) -> dict[str, FloatArray]:
    """The energy columns: of all devices, and of each kind of device in the log."""
    energies_J = [of_it.energy_J for of_it in drawn.values()]
    summed = summed_columns([entries[name] for name in drawn])
    return {
        column: np.sum([energies_J[place] for place in places], axis=0)
        for column, places in summed.items()
        if places
    }


# ---------------------------------------------------------------------- gaps


def _drawn(
    time: FloatArray, power: FloatArray, edges: FloatArray, until_s: float, max_gap_s: float | None
) -> _Drawn:
    """The energy a device drew in each epoch, interpolating linearly between its readings.

    Before its first usable reading and after its last one, power is assumed to be constant, but for
    no longer than the time between two readings.
    """
    read = np.flatnonzero(np.isfinite(power))
    if not len(read):
        return _Drawn(np.full(len(edges) - 1, math.nan), np.array([[edges[0], until_s]]))
    knots_s = np.concatenate([edges[:1], time[read], [until_s]])
    knots_W = np.concatenate([power[read[:1]], power[read], power[read[-1:]]])
    gaps, held_s = _gaps(time, read, np.diff(knots_s), max_gap_s)
    begins_s, ends_s = knots_s[gaps] + held_s, knots_s[gaps + 1]
    knots_s = np.insert(knots_s, gaps + 1, begins_s)
    knots_W = np.insert(knots_W, gaps + 1, knots_W[gaps])
    missing_s = np.zeros(len(knots_s))
    missing_s[gaps + np.arange(len(gaps)) + 2] = ends_s - begins_s
    energy_J = np.diff(cumulative_energy(knots_s, knots_W, edges).energy_J)
    is_missing = np.diff(np.interp(edges, knots_s, np.cumsum(missing_s))) > _ROUNDING_S
    energy_J = np.where(is_missing, math.nan, energy_J)
    return _Drawn(energy_J, np.stack([begins_s, ends_s], axis=1))


def _gaps(
    time: FloatArray, read: NDArray[np.intp], step_s: FloatArray, max_gap_s: float | None
) -> tuple[NDArray[np.intp], FloatArray]:
    """Find the steps between usable readings that are too long to be bridged.

    Args:
        time: shape (n,), times of all readings.
        read: shape (m,), indices of the readings with known power.
        step_s: shape (m + 1,), steps between these readings and to the ends of the log.
        max_gap_s: a longer step is a gap; None for the default rule, under which it must also be
            long compared with the steps nearby.

    Returns:
        The indices of the gaps, and how long the reading before each is held: until the next was
        due.
    """
    every_s = np.diff(time)
    usual_s = lower_median(every_s)
    least_s = max(MAX_GAP_S, GAP_TIMES * usual_s) if max_gap_s is None else max_gap_s
    gaps = np.flatnonzero(step_s > least_s)
    # In a long run the monitor stores readings further and further apart: use the nearby ones.
    padded = np.pad(every_s, _AROUND, constant_values=math.nan)
    before = np.append(0, read)[gaps][:, None] + np.arange(_AROUND)
    after = np.append(read, len(time) - 1)[gaps][:, None] + np.arange(_AROUND, 2 * _AROUND)
    nearby_s = np.sort(padded[np.concatenate([before, after], axis=1)], axis=1)  # NaN comes last
    known = np.count_nonzero(np.isfinite(nearby_s), axis=1)
    middle_s = nearby_s[np.arange(len(gaps)), np.maximum(known - 1, 0) // 2]
    held_s = np.where(known > 0, middle_s, usual_s)
    if max_gap_s is None:
        is_gap = step_s[gaps] > GAP_TIMES * held_s
        gaps, held_s = gaps[is_gap], held_s[is_gap]
    # There is no reading to hold before the first.
    return gaps, np.where(gaps > 0, np.minimum(held_s, least_s), 0.0)


def _doubts_of_gaps(drawn: Mapping[str, _Drawn]) -> list[str]:
    """Warnings about epochs that are NaN, with the reason."""
    doubts = []
    for name, of_it in drawn.items():
        unknown = int(np.isnan(of_it.energy_J).sum())
        if unknown:
            longest = of_it.gaps_s[np.argmax(np.diff(of_it.gaps_s, axis=1))]
            more = len(of_it.gaps_s) - 1
            doubts.append(
                f"{unknown} of {len(of_it.energy_J)} epochs are NaN, as power of {name} is not "
                f"known from {longest[0]:.10g} s to {longest[1]:.10g} s"
                f"{f', and in {more} more gap(s)' if more else ''}: max_gap_s= sets how long a gap "
                "is bridged"
            )
    return doubts


def _with_gaps(
    meta: Mapping[str, Any],
    entries: Mapping[str, Device],
    drawn: Mapping[str, _Drawn],
    end_s: float,
) -> dict[str, Any]:
    """The meta, with the devices (if it names none) and the unmeasured time of each device."""
    facts = {"devices": list(entries.values()), **meta}
    gaps = {name: of_it.gaps_s for name, of_it in drawn.items() if len(of_it.gaps_s)}
    if isinstance(facts["devices"], list):
        facts["devices"] = [
            entry | {"missing_s": float(np.diff(gaps[entry["device"]]).sum())}
            if isinstance(entry, dict) and entry.get("device") in gaps
            else entry
            for entry in facts["devices"]
        ]
    # A gap after the last epoch makes the total unknown too.
    if any((of_it[:, 1] > end_s + _ROUNDING_S).any() for of_it in gaps.values()):
        facts.setdefault("total_J", None)
    return facts
