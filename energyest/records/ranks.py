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
from energyest.records.devices import KINDS, Device, energy_column, summed_columns
from energyest.records.meta import read_count, read_list
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

# A number of processes that no training reaches.
_MOST_RANKS = 10**5
_ENERGIES = ("energy_J", "validation_energy_J", *map(energy_column, KINDS))
# Columns that cover the devices of another one.
_DEVICES_OF = {"validation_energy_J": "energy_J", "total_J": "energy_J"}
# Other columns that add up: each rank has its share of the samples.
_COUNTS = ("samples", "flops")
#: The columns that are summed over ranks; all others are taken from the lowest rank.
SUMMED = (*_ENERGIES, *_COUNTS)


def merge(records: Mapping[int, EnergyTrace], expected: set[int] | None = None) -> EnergyTrace:
    """Sum the records of ranks; times, steps and metrics are taken from the lowest rank.

    Rows are matched by epoch. If a rank left no record of an epoch, or no record at all, or failed
    to measure it, the energy of that epoch is unknown: NaN. A GPU that several ranks share is
    counted once, with the lowest of them; and so is a GPU that a device of another rank contains,
    with that device. If that is impossible, because the rank also measured other devices, the sum
    is unknown.

    Args:
        records: rank -> its record; at least one.
        expected: the ranks that must be present; by default, all that the training had.
    """
    order = sorted(records)
    base = records[order[0]]
    if expected is None:
        expected = set(range(max(world_size(base), order[-1] + 1)))
    missing = sorted(expected - set(order))
    counted = _Counted(records)
    epochs = dict(base.epoch_columns)
    alike = _have_same_rows(list(records.values()), base)
    for name in _ENERGIES:
        parts = [records[rank] for rank in counted.ranks(name)]
        if parts:
            known = not missing and counted.is_known(name)
            epochs[name] = _sum(parts, base, name, known=known, alike=alike)
    for name in _COUNTS:
        every = list(records.values())
        epochs[name] = _sum(every, base, name, known=not missing, alike=alike)
    with np.errstate(divide="ignore", invalid="ignore"):
        power_W = epochs["energy_J"] / epochs["duration_s"]
    epochs["mean_power_W"] = np.where(np.isfinite(power_W), power_W, math.nan)
    readings: dict[str, NDArray[Any]] = {}
    if any(len(record.power_columns["device"]) for record in records.values()):
        power = [_readings(records[rank], base, rank) for rank in order]
        readings = {n: np.concatenate([part[n] for part in power]) for n in storage.POWER_COLUMNS}
    return EnergyTrace(epochs, readings, _meta(records, counted, missing))


class _Counted:
    """Which ranks a sum adds up, so that each joule counts once.

    A record holds the rank's energies, not those of each device, so a rank counts as a whole or not
    at all. It does not count if lower ranks measured all its devices, or if devices of other ranks,
    such as the node that holds them all, contain them. If this is true of only some of its devices,
    the sum is unknown.
    """

    def __init__(self, records: Mapping[int, EnergyTrace]) -> None:
        #: The devices of each rank that were not all measured by lower ranks.
        self.devices: dict[int, list[Device]] = {}
        entries: list[Device] = []
        # For each column and rank, the places in `entries` of the devices that its record sums.
        self._own: dict[str, dict[int, set[int]]] = {}
        seen: set[str] = set()
        first: list[int] = []
        for rank in sorted(records):
            meta, devices = records[rank].meta, records[rank].devices
            begin = len(entries)
            again = {str(d["uuid"]) for d in devices if d.get("uuid")} & seen
            is_again = [str(d.get("uuid")) in again for d in devices]
            first += [begin + place for place, known in enumerate(is_again) if not known]
            seen.update(str(d["uuid"]) for d in devices if d.get("uuid"))
            self.devices[rank] = [] if again and all(is_again) else devices
            entries += [
                {**d, "device": _name(d.get("device"), rank), "host": meta.get("host")}
                for d in devices
            ]
            for name, places in summed_columns(devices).items():
                self._own.setdefault(name, {})[rank] = {begin + at for at in places}
        summed = summed_columns([entries[place] for place in first])
        self._all = {name: {first[at] for at in summed[name]} for name in summed}

    def ranks(self, name: str) -> list[int]:
        """The ranks whose values of an energy column are added up."""
        of_all = self._all[_DEVICES_OF.get(name, name)]
        return [rank for rank, own in self._places(name).items() if own & of_all]

    def is_known(self, name: str) -> bool:
        """Whether their sum counts each joule once."""
        of_all = self._all[_DEVICES_OF.get(name, name)]
        return all(own <= of_all or not own & of_all for own in self._places(name).values())

    def _places(self, name: str) -> dict[int, set[int]]:
        return self._own[_DEVICES_OF.get(name, name)]


def _have_same_rows(records: Sequence[EnergyTrace], base: EnergyTrace) -> bool:
    """Whether all records have rows of the same epochs, none from before a resume."""
    if any(len(one) != len(base) for one in records) or any(map(_earlier_rows, records)):
        return False
    epochs = np.array([one.column("epoch") for one in records])
    return bool((epochs == base.column("epoch")).all())


def _sum(
    parts: Sequence[EnergyTrace], base: EnergyTrace, name: str, *, known: bool, alike: bool
) -> FloatArray:
    """The sum of a column in the rows of the base; NaN if it is not `known`.

    Args:
        parts: the records to sum.
        base: the record of the lowest rank.
        name: the column.
        known: whether the sum can be known.
        alike: whether all have the same rows; then there is no need to match them.
    """
    if known and parts and alike:
        total: FloatArray = np.array([_column(part, name) for part in parts]).sum(axis=0)
        return total
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
    column = record.epoch_columns.get(name)
    return np.full(len(record), math.nan) if column is None else column


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
    counted: _Counted,
    missing: Sequence[int],
) -> dict[str, Any]:
    meta = dict(records[min(records)].meta)
    meta["devices"] = [
        {
            **{**device, "device": _name(device.get("device"), rank), "rank": rank},
            **{n: records[rank].meta[n] for n in ("host",) if n in records[rank].meta},
        }
        for rank, devices in counted.devices.items()
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
    earlier = {rank for rank, one in records.items() if _earlier_rows(one)}
    known = not missing and counted.is_known("total_J")
    totals = [one.meta.get("total_J") for rank, one in records.items()
              if rank in earlier.union(counted.ranks("total_J"))]  # fmt: skip
    _put(meta, "total_J", totals if known else [])
    for name in ("components", "interrupted_epoch"):
        if isinstance(meta.get(name), dict):
            meta[name] = dict(meta[name])
            parts = {rank: _like(one.meta.get(name), meta[name]) for rank, one in records.items()}
            for key in _ENERGIES:
                values = [parts[rank].get(key) for rank in counted.ranks(key)]
                _put(meta[name], key, values if not missing and counted.is_known(key) else [])
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
