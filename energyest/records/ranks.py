"""The sum of the records of a training's processes (ranks), as one trace."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.records import storage
from energyest.records.devices import Device, kind_of
from energyest.records.meta import read_count, read_list
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# A number of processes that no training reaches.
_MOST_RANKS = 10**5
# The energy columns and the kind of device each covers; None for all kinds together.
_ENERGIES = {
    "energy_J": None,
    "validation_energy_J": None,
    "gpu_energy_J": "gpu",
    "cpu_energy_J": "cpu",
    "ram_energy_J": "ram",
}
# Other columns that add up: each rank has its share of the samples.
_COUNTS = ("samples", "flops")
#: The columns that are summed over ranks; all others are taken from the lowest rank.
SUMMED = (*_ENERGIES, *_COUNTS)


def merge(records: Mapping[int, EnergyTrace], expected: set[int] | None = None) -> EnergyTrace:
    """Sum the records of ranks; times, steps and metrics are taken from the lowest rank.

    Rows are matched by epoch. If a rank left no record of an epoch, or no record at all, or failed
    to measure it, the energy of that epoch is unknown: NaN. A GPU that several ranks share is
    counted once, with the lowest of them. If that is impossible, because these ranks also measured
    other devices, the sum is unknown.

    Args:
        records: rank -> its record; at least one.
        expected: the ranks that must be present; by default, all that the training had.
    """
    order = sorted(records)
    base = records[order[0]]
    if expected is None:
        expected = set(range(max(world_size(base), order[-1] + 1)))
    missing = sorted(expected - set(order))
    counted, twice = _counted(records)
    epochs = dict(base.epoch_columns)
    for name, kind in _ENERGIES.items():
        parts = [records[rank] for rank in order if _has(counted[rank], kind)]
        if parts:
            epochs[name] = _sum(parts, base, name, known=not (missing or twice))
    for name in _COUNTS:
        epochs[name] = _sum(list(records.values()), base, name, known=not missing)
    with np.errstate(divide="ignore", invalid="ignore"):
        power_W = epochs["energy_J"] / epochs["duration_s"]
    epochs["mean_power_W"] = np.where(np.isfinite(power_W), power_W, math.nan)
    power = [_readings(records[rank], base, rank) for rank in order]
    readings = {
        name: np.concatenate([part[name] for part in power]) for name in storage.POWER_COLUMNS
    }
    return EnergyTrace(epochs, readings, _meta(records, counted, missing, twice=twice))


def _counted(records: Mapping[int, EnergyTrace]) -> tuple[dict[int, list[Device]], bool]:
    """The devices of each rank that are counted, and whether a device is counted twice.

    A rank whose devices were all measured by lower ranks is not counted. A record holds the rank's
    energies, not those of each device, so a rank counts as a whole or not at all.
    """
    seen: set[str] = set()
    counted = {}
    twice = False
    for rank in sorted(records):
        devices = records[rank].devices
        uuids = {str(d["uuid"]) for d in devices if d.get("uuid")}
        again = seen & uuids
        is_repeated = bool(again) and all(str(d.get("uuid")) in again for d in devices)
        counted[rank] = [] if is_repeated else devices
        twice |= bool(again) and not is_repeated
        seen |= uuids
    return counted, twice


def _has(devices: Sequence[Device], kind: str | None) -> bool:
    return any(kind is None or kind_of(device) == kind for device in devices)


def _sum(parts: Sequence[EnergyTrace], base: EnergyTrace, name: str, *, known: bool) -> FloatArray:
    """The sum of a column in the rows of the base; NaN if it is not `known`."""
    # Rows from before a resume are only in rank 0's record, already summed over all ranks.
    first = _earlier_rows(base)
    earlier = _column(base, name)[:first]
    later = np.zeros(len(base) - first) if known else np.full(len(base) - first, math.nan)
    for part in parts:
        rows = slice(_earlier_rows(part), _earlier_rows(part) + len(later))
        values = _column(part, name)[rows]
        same = _column(part, "epoch")[rows] == _column(base, "epoch")[first:][: len(values)]
        later[: len(values)] += np.where(same, values, math.nan)
        later[len(values) :] = math.nan  # this rank did not get that far
    return np.concatenate([earlier, later])


def _column(record: EnergyTrace, name: str) -> FloatArray:
    return record.epoch_columns.get(name, np.full(len(record), math.nan))


def _earlier_rows(record: EnergyTrace) -> int:
    return min(read_count(record.meta, "earlier_rows") or 0, len(record))


def _readings(record: EnergyTrace, base: EnergyTrace, rank: int) -> dict[str, NDArray[Any]]:
    """Readings on the base's clock, with the rank's number added to device names."""
    power = {name: record.power_columns[name] for name in storage.POWER_COLUMNS}
    first = _earlier_rows(base)
    if record is not base and len(base) > first and len(record):
        # The clocks of machines differ, but all ranks end an epoch together. (Its start may lie in
        # an earlier part of the run.)
        shift_s = float(_column(base, "end_s")[first] - _column(record, "end_s")[0])
        power["time_s"] = power["time_s"] + (shift_s if math.isfinite(shift_s) else 0.0)
    power["device"] = np.array([_name(name, rank) for name in power["device"]], dtype=object)
    return power


def _name(device: object, rank: int) -> str:
    return f"{device}@rank{rank}" if rank else str(device)


def _meta(
    records: Mapping[int, EnergyTrace],
    counted: Mapping[int, Sequence[Device]],
    missing: Sequence[int],
    *,
    twice: bool,
) -> dict[str, Any]:
    meta = dict(records[min(records)].meta)
    meta["devices"] = [
        {**device, "device": _name(device.get("device"), rank), "rank": rank}
        for rank, devices in counted.items()
        for device in devices
    ]
    meta["ranks"] = [
        {"rank": rank, **{name: one.meta.get(name) for name in ("host", "status", "total_J")}}
        for rank, one in records.items()
    ]
    meta["missing_ranks"] = list(missing)
    meta["notes"] = [
        f"rank {rank}: {note}" if rank else note
        for rank, one in records.items()
        for note in read_list(one.meta, "notes")
    ]
    # A total is known if each rank's is; a trace without a total sums its rows.
    known = not (missing or twice)
    summed = {
        rank: one.meta for rank, one in records.items() if counted[rank] or _earlier_rows(one)
    }
    _put(meta, "total_J", [one.get("total_J") for one in summed.values()] if known else [])
    for name in ("components", "interrupted_epoch"):
        if isinstance(meta.get(name), dict):
            meta[name] = dict(meta[name])
            parts = {rank: _like(one.get(name), meta[name]) for rank, one in summed.items()}
            for key, kind in _ENERGIES.items():
                values = [part.get(key) for r, part in parts.items() if _has(counted[r], kind)]
                _put(meta[name], key, values if known else [])
    # The other values of an interrupted row are known for one rank only.
    if isinstance(meta.get("interrupted_epoch"), dict):
        for key in ("mean_power_W", *_COUNTS):
            meta["interrupted_epoch"].pop(key, None)
    return meta


def _like(part: object, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a meta if it is an object for the same epoch; else an empty object."""
    return part if isinstance(part, dict) and part.get("epoch") == other.get("epoch") else {}


def _put(target: dict[str, Any], name: str, values: Sequence[Any]) -> None:
    """Store the sum of the values; leave the name out if one of them is not a number."""
    target.pop(name, None)
    if values and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        target[name] = sum(values)  # fsum raises where it overflows


def rank_of(trace: EnergyTrace) -> int:
    """Number of the process that recorded a trace; 0 if there was only one."""
    return read_count(trace.meta, "rank", _MOST_RANKS) or 0


def world_size(trace: EnergyTrace) -> int:
    """Number of processes in the training."""
    return read_count(trace.meta, "world_size", _MOST_RANKS) or 1
