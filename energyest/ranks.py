"""One trace from those of all processes (ranks) of a training.

Rank 0's folder is the training's; in it is a folder for each other rank, `rank1`, `rank2`, ...,
which is a trace by itself. Here they are added up. No clock, thread or network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyest import storage
from energyest.errors import TraceError
from energyest.integration import FloatArray

_FOLDER = re.compile(r"rank([1-9]\d{0,4})")
# Energies of a row, and the kind of device that they are of; None for all kinds together.
_ENERGIES = {
    "energy_J": None,
    "validation_energy_J": None,
    "gpu_energy_J": "gpu",
    "cpu_energy_J": "cpu",
    "ram_energy_J": "ram",
}
# What else adds up: each rank has its share of the samples.
_COUNTS = ("samples", "flops")
#: The columns that are sums over the ranks; all others are those of the lowest rank.
SUMMED = (*_ENERGIES, *_COUNTS)


class Record(NamedTuple):
    """What one rank recorded, or all of them together: the parts of a trace.

    Attributes:
        meta: facts on the run and its devices.
        epochs: name -> values of the epochs, shape (epochs,).
        power: name -> values of the readings, shape (readings,).
    """

    meta: Mapping[str, Any]
    epochs: Mapping[str, NDArray[Any]]
    power: Mapping[str, NDArray[Any]]

    @classmethod
    def of_rows(cls, meta: Mapping[str, Any], rows: Iterable[Mapping[str, float]]) -> Record:
        """A record without readings."""
        return cls(meta, storage.columns_from_rows(rows), {})

    @property
    def rank(self) -> int:
        """Number of the process; 0 where there is but one."""
        return _whole(self.meta.get("rank"), 0)

    @property
    def world_size(self) -> int:
        """How many processes the training had."""
        return _whole(self.meta.get("world_size"), 1)

    @property
    def devices(self) -> list[dict[str, Any]]:
        """What it measured."""
        devices = self.meta.get("devices")
        return [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []

    def __len__(self) -> int:
        return len(self.epochs.get("epoch", ()))


def folder_of(folder: Path, rank: int) -> Path:
    """Where a rank's part of the trace in a folder is."""
    return folder / f"rank{rank}" if rank else folder


def read_ranks(folder: Path, ranks: Sequence[int] | None = None) -> Record:
    """Read a trace folder, with those of other ranks that are in it.

    Args:
        folder: of a trace; or one with folders of ranks alone, as on the disk of a machine that
            rank 0 did not run on.
        ranks: those to add up; by default all that the training had.

    Raises:
        TraceError: there is no trace, or one of those asked for is missing.
    """
    subfolders = _subfolders(folder)
    own: Record | None = None
    if not subfolders or (folder / storage.EPOCHS_FILE).exists():
        own = Record(*storage.read_folder(folder))
    records = {} if own is None else {own.rank: own}
    if own is None or own.rank == 0:
        records |= {
            rank: Record(*storage.read_folder(subfolder))
            for rank, subfolder in subfolders.items()
            if ranks is None or rank in ranks
        }
    run_id = records[min(records)].meta.get("run_id")
    records = {rank: one for rank, one in records.items() if one.meta.get("run_id") == run_id}
    if ranks is None:
        # One rank's own folder is that rank's trace; a sum that was saved is the whole already.
        if own is not None and (own.rank > 0 or own.world_size == 1 or "ranks" in own.meta):
            return own
        return merge(records)
    missing = sorted(set(ranks) - set(records))
    if missing or not ranks:
        names = ", ".join(map(str, missing))
        raise TraceError(f"{folder} holds no trace of rank {names}; it has {sorted(records)}")
    return merge({rank: records[rank] for rank in ranks}, expected=set(ranks))


def merge(records: Mapping[int, Record], expected: set[int] | None = None) -> Record:
    """The sum of what ranks recorded; times, steps and metrics are those of the lowest of them.

    Row for row, their rows are the same epochs. Where a rank has left no record of an epoch, or
    none at all, or failed to measure it, the energy of that epoch is not known: NaN. A GPU that
    several ranks share is counted with the first of them.

    Args:
        records: rank -> its record; at least one.
        expected: the ranks that there have to be; by default all that the training had.
    """
    order = sorted(records)
    base = records[order[0]]
    if expected is None:
        expected = set(range(max(base.world_size, order[-1] + 1)))
    missing = sorted(expected - set(order))
    counted = _counted(records)
    epochs = dict(base.epochs)
    for name, kind in _ENERGIES.items():
        parts = [_aligned(records[rank], base, name) for rank in order if _has(counted[rank], kind)]
        if parts and name in epochs:
            epochs[name] = np.sum(parts, axis=0) if not missing else np.full(len(base), math.nan)
    for name in _COUNTS:
        if name in epochs:
            epochs[name] = np.sum([_aligned(records[r], base, name) for r in order], axis=0)
    if "energy_J" in epochs and "duration_s" in epochs:
        with np.errstate(divide="ignore", invalid="ignore"):
            power_W = epochs["energy_J"] / epochs["duration_s"]
        epochs["mean_power_W"] = np.where(np.isfinite(power_W), power_W, math.nan)
    power = [_readings(records[rank], base, rank) for rank in order if records[rank].power]
    readings = {
        name: np.concatenate([part[name] for part in power])
        for name in (storage.POWER_COLUMNS if power else ())
    }
    return Record(_meta(records, counted, missing), epochs, readings)


def _subfolders(folder: Path) -> dict[int, Path]:
    """The folders of ranks in a trace folder."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        name = _FOLDER.fullmatch(path.name)
        if name is not None and storage.inside(folder, path.name).is_dir():
            found[int(name[1])] = path
    return dict(sorted(found.items()))


def _counted(records: Mapping[int, Record]) -> dict[int, list[dict[str, Any]]]:
    """The devices of each rank, without a GPU that a rank before it has measured."""
    seen: set[str] = set()
    counted = {}
    for rank in sorted(records):
        devices = records[rank].devices
        uuids = [str(d["uuid"]) for d in devices if d.get("uuid")]
        # A rank has its energies, not each device's: it counts as a whole or not at all.
        twice = bool(devices) and len(uuids) == len(devices) and seen.issuperset(uuids)
        counted[rank] = [] if twice else devices
        seen.update(uuids)
    return counted


def _has(devices: Sequence[Mapping[str, Any]], kind: str | None) -> bool:
    return any(kind is None or device.get("kind") == kind for device in devices)


def _aligned(record: Record, base: Record, name: str) -> FloatArray:
    """A column in the rows of the base; what it does not reach is NaN."""
    values = np.full(len(base), math.nan)
    # Rows from before a resumption are in rank 0's record alone, and of all ranks already.
    first = max(0, _earlier_rows(base) - _earlier_rows(record))
    values[:first] = 0.0
    column = record.epochs.get(name, np.full(len(record), math.nan))[: len(base) - first]
    values[first : first + len(column)] = column
    return values


def _earlier_rows(record: Record) -> int:
    return min(_whole(record.meta.get("earlier_rows"), 0), len(record))


def _readings(record: Record, base: Record, rank: int) -> dict[str, NDArray[Any]]:
    """Readings in the times of the base; devices bear the number of their rank."""
    count = len(record.power["device"])
    power = {n: record.power.get(n, np.full(count, math.nan)) for n in storage.POWER_COLUMNS}
    first = _earlier_rows(base)
    if record is not base and len(base) > first and len(record):
        # Clocks of machines differ; but all ranks began their first epoch together.
        shift_s = _start_s(base, first) - _start_s(record, 0)
        power["time_s"] = power["time_s"] + (shift_s if math.isfinite(shift_s) else 0.0)
    power["device"] = np.array([_name(name, rank) for name in power["device"]], dtype=object)
    return power


def _start_s(record: Record, row: int) -> float:
    return float(record.epochs["start_s"][row]) if "start_s" in record.epochs else math.nan


def _name(device: object, rank: int) -> str:
    return f"{device}@rank{rank}" if rank else str(device)


def _meta(
    records: Mapping[int, Record],
    counted: Mapping[int, Sequence[Mapping[str, Any]]],
    missing: Sequence[int],
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
    # Totals are known if each of them is; a trace without a total adds up its rows.
    summed = [records[rank].meta for rank, devices in counted.items() if devices and not missing]
    _put(meta, "total_J", [one.get("total_J") for one in summed])
    for name in ("components", "interrupted_epoch"):
        if isinstance(meta.get(name), dict):
            meta[name] = dict(meta[name])
            alike = [p for one in summed if (p := _like(one.get(name), meta[name])) is not None]
            for key in _ENERGIES:
                parts = [part[key] for part in alike if part.get(key) is not None]
                _put(meta[name], key, parts if len(alike) == len(summed) else [])
    return meta


def _like(part: object, other: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """A part of a meta if it is one, and of the same epoch."""
    same = isinstance(part, dict) and part.get("epoch") == other.get("epoch")
    return part if same and isinstance(part, dict) else None


def _put(target: dict[str, Any], name: str, values: Sequence[Any]) -> None:
    """A sum of numbers; where one of them is none, the name is left out."""
    target.pop(name, None)
    if values and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        target[name] = math.fsum(values)


def _whole(value: object, otherwise: int) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**5
    return value if usable and isinstance(value, int) else otherwise
