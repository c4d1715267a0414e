"""One trace from those of all processes (ranks) of a training.

Rank 0's folder is the training's; in it is a folder for each other rank, `rank1`, `rank2`, ...,
which is a trace by itself. Here they are added up. No clock, thread or network.
"""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyest.errors import TraceError
from energyest.integration import FloatArray
from energyest.records import storage

log = logging.getLogger("energyest")

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
        TraceError: there is no trace that can be read, or one of those asked for is missing.
    """
    try:
        return _read(folder, ranks)
    except OSError as error:  # no permission, or a name that no file can have
        name = reprlib.repr(str(folder))
        raise TraceError(f"cannot read the trace at {name}: {error.strerror}") from error


def missing_text(meta: Mapping[str, Any]) -> str:
    """Which ranks have left no record, by the meta of a trace; empty if all have."""
    missing = meta.get("missing_ranks")
    if not isinstance(missing, list) or not missing:
        return ""
    few = ", ".join(str(rank) for rank in missing[:5])
    more = f", ... ({len(missing)} in all)" if len(missing) > 5 else ""
    return f"rank {few}{more} has left no record: what all drew is not known"


def _read(folder: Path, ranks: Sequence[int] | None) -> Record:
    subfolders = _subfolders(folder)
    own: Record | None = None
    if not subfolders or (folder / storage.EPOCHS_FILE).exists():
        own = Record(*storage.read_folder(folder))
        # One rank's own folder is that rank's trace; a sum that was saved is the whole already.
        is_whole = own.world_size == 1 or "ranks" in own.meta
        if is_whole or own.rank > 0:
            if ranks is not None and (set(ranks) != {own.rank} or "ranks" in own.meta):
                raise TraceError(f"{folder} cannot be taken apart into ranks {sorted(ranks)}")
            return own
    records = {} if own is None else {0: own}
    for rank, subfolder in subfolders.items():
        if ranks is None or rank in ranks:
            records[rank] = Record(*storage.read_folder(subfolder))
    first = records[min(records)] if records else None
    records = {
        rank: one
        for rank, one in records.items()
        if first is not None and one.meta.get("run_id") == first.meta.get("run_id")
    }
    if ranks is None:
        whole = merge(records)
        missing = missing_text(whole.meta)
        if missing:
            present = reprlib.repr(sorted(records))
            log.warning(
                "energyest: %s: %s; load_trace(..., ranks=%s) adds up the others",
                folder,
                missing,
                present,
            )
        return whole
    lacking = sorted(set(ranks) - set(records))
    if lacking or not ranks:
        names = ", ".join(map(str, lacking))
        raise TraceError(f"{folder} holds no trace of rank {names}; it has {sorted(records)}")
    return merge({rank: records[rank] for rank in ranks}, expected=set(ranks))


def merge(records: Mapping[int, Record], expected: set[int] | None = None) -> Record:
    """The sum of what ranks recorded; times, steps and metrics are those of the lowest of them.

    Row for row, their rows are the same epochs. Where a rank has left no record of an epoch, or
    none at all, or failed to measure it, the energy of that epoch is not known: NaN. A GPU that
    several ranks share is counted with the first of them; where that cannot be done, as each of
    them measured others beside it, the sum is not known.

    Args:
        records: rank -> its record; at least one.
        expected: the ranks that there have to be; by default all that the training had.
    """
    order = sorted(records)
    base = records[order[0]]
    if expected is None:
        expected = set(range(max(base.world_size, order[-1] + 1)))
    missing = sorted(expected - set(order))
    counted, twice = _counted(records)
    epochs = dict(base.epochs)
    for name, kind in _ENERGIES.items():
        parts = [records[rank] for rank in order if _has(counted[rank], kind)]
        if parts:
            epochs[name] = _sum(parts, base, name, known=not (missing or twice))
    for name in _COUNTS:
        if name in epochs:
            epochs[name] = _sum(list(records.values()), base, name, known=not missing)
    if "energy_J" in epochs and "duration_s" in epochs:
        with np.errstate(divide="ignore", invalid="ignore"):
            power_W = epochs["energy_J"] / epochs["duration_s"]
        epochs["mean_power_W"] = np.where(np.isfinite(power_W), power_W, math.nan)
    power = [_readings(records[rank], base, rank) for rank in order if records[rank].power]
    readings = {
        name: np.concatenate([part[name] for part in power])
        for name in (storage.POWER_COLUMNS if power else ())
    }
    return Record(_meta(records, counted, missing, twice=twice), epochs, readings)


def _subfolders(folder: Path) -> dict[int, Path]:
    """The folders of ranks in a trace folder; a link is none, nor is a folder without a trace."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        name = _FOLDER.fullmatch(path.name)
        has_trace = any((path / file).exists() for file in (storage.META_FILE, storage.EPOCHS_FILE))
        if name is not None and has_trace and not path.is_symlink():
            found[int(name[1])] = path
    return dict(sorted(found.items()))


def _counted(records: Mapping[int, Record]) -> tuple[dict[int, list[dict[str, Any]]], bool]:
    """The devices of each rank that are counted, and whether one is so twice.

    Not counted is a rank whose devices were all measured by ranks before it. It has its energies,
    not each device's: it counts as a whole or not at all.
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


def _has(devices: Sequence[Mapping[str, Any]], kind: str | None) -> bool:
    return any(kind is None or device.get("kind") == kind for device in devices)


def _sum(parts: Sequence[Record], base: Record, name: str, *, known: bool) -> FloatArray:
    """The sum of a column in the rows of the base; NaN where it is not `known`."""
    # Rows from before a resumption are in rank 0's record alone, and of all ranks already.
    first = _earlier_rows(base)
    earlier = _column(base, name)[:first]
    later = np.zeros(len(base) - first) if known else np.full(len(base) - first, math.nan)
    for part in parts:
        rows = slice(_earlier_rows(part), _earlier_rows(part) + len(later))
        values = _column(part, name)[rows]
        same = _column(part, "epoch")[rows] == _column(base, "epoch")[first:][: len(values)]
        later[: len(values)] += np.where(same, values, math.nan)
        later[len(values) :] = math.nan  # it did not come so far
    return np.concatenate([earlier, later])


def _column(record: Record, name: str) -> FloatArray:
    return record.epochs.get(name, np.full(len(record), math.nan))


def _earlier_rows(record: Record) -> int:
    return min(_whole(record.meta.get("earlier_rows"), 0), len(record))


def _readings(record: Record, base: Record, rank: int) -> dict[str, NDArray[Any]]:
    """Readings in the times of the base; devices bear the number of their rank."""
    count = len(record.power["device"])
    power = {n: record.power.get(n, np.full(count, math.nan)) for n in storage.POWER_COLUMNS}
    first = _earlier_rows(base)
    if record is not base and len(base) > first and len(record):
        # Clocks of machines differ; but all ranks came to the end of an epoch together. (Its start
        # may lie in an earlier part of the run.)
        shift_s = float(_column(base, "end_s")[first] - _column(record, "end_s")[0])
        power["time_s"] = power["time_s"] + (shift_s if math.isfinite(shift_s) else 0.0)
    power["device"] = np.array([_name(name, rank) for name in power["device"]], dtype=object)
    return power


def _name(device: object, rank: int) -> str:
    return f"{device}@rank{rank}" if rank else str(device)


def _meta(
    records: Mapping[int, Record],
    counted: Mapping[int, Sequence[Mapping[str, Any]]],
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
        for note in _notes(one)
    ]
    # Totals are known if each of them is; a trace without a total adds up its rows.
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
    # What else is known of a row that was cut off, is so of one rank alone.
    if isinstance(meta.get("interrupted_epoch"), dict):
        for key in ("mean_power_W", *_COUNTS):
            meta["interrupted_epoch"].pop(key, None)
    return meta


def _notes(record: Record) -> list[Any]:
    notes = record.meta.get("notes")
    return notes if isinstance(notes, list) else []


def _like(part: object, other: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a meta if it is one, and of the same epoch; else an empty one."""
    return part if isinstance(part, dict) and part.get("epoch") == other.get("epoch") else {}


def _put(target: dict[str, Any], name: str, values: Sequence[Any]) -> None:
    """A sum of numbers; where one of them is none, the name is left out."""
    target.pop(name, None)
    if values and all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        target[name] = sum(values)  # fsum raises where it overflows


def _whole(value: object, otherwise: int) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**5
    return value if usable and isinstance(value, int) else otherwise
