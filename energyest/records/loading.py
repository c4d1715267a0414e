"""`load_trace`: read a trace from its folder, summing all processes (ranks).

Rank 0's folder is the trace folder of the training. It holds a folder for each other rank
(`rank1`, `rank2`, ...), each of which is a trace of its own.
"""

from __future__ import annotations

import logging
import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from energyest.arrays import as_finite, check_increasing, check_stored
from energyest.checks import number_or_nan
from energyest.errors import TraceError
from energyest.records import storage
from energyest.records.devices import (
    Device,
    accelerators_of,
    devices_of,
    rows_of_devices,
    unread_devices,
)
from energyest.records.epoch_table import check_rows, check_totals
from energyest.records.meta import read_list, read_object
from energyest.records.ranks import merge, rank_of, world_size
from energyest.records.trace import EnergyTrace

log = logging.getLogger("energyest")

Needs = Callable[[Mapping[str, Any]], bool]
# One of these makes a folder a trace.
_FILES = (storage.META_FILE, storage.EPOCHS_FILE)
_FOLDER = re.compile(r"rank([1-9]\d{0,4})")


def load_trace(folder: str | Path, *, ranks: Sequence[int] | None = None) -> EnergyTrace:
    """Read the trace of a run that has finished, is still running, or was killed.

    A training in several processes is read as the sum of all of them. The folders of the other
    ranks lie in rank 0's folder, and each is a trace of its own. If a rank is missing, or did not
    record an epoch, the energy is NaN.

    Args:
        folder: the trace's folder.
        ranks: the processes to sum; by default, all that the training had.

    Raises:
        TraceError: the folder is missing, is not a trace, is damaged (other than by a truncated
            last line), was written by a newer version, or holds values that no training can have.

    Examples:
        >>> from energyest import load_trace
        >>> trace = load_trace('lightning_logs/resnet18-h200-0/energy')
        >>> trace
        EnergyTrace(12 epochs, 1.395 kJ, NVIDIA H200, Intel(R) Xeon(R) Processor, memory)
    """
    trace = _noted(read_ranks(Path(folder), ranks))
    for name in ("power_W", "energy_J"):
        check_stored(trace.power_columns[name], f"{folder}: {name} of the readings")
    for device, rows in rows_of_devices(trace.power_columns["device"]).items():
        name = f"{folder}: time_s of {device}"
        time_s = as_finite(trace.power_columns["time_s"][rows], name)
        check_increasing(time_s, name, strictly=False)
    return trace


def load_summary(folder: Path) -> tuple[EnergyTrace, bool]:
    """Read a trace as `load_trace` does, but its readings only where its meta does not suffice.

    Returns:
        The trace, whose readings may be left out; and whether they were needed.

    Raises:
        TraceError: as `load_trace`.
    """
    needed: list[bool] = []

    def needs(meta: Mapping[str, Any]) -> bool:
        needed.append(needs_readings(meta))
        return needed[-1]

    trace = _noted(read_ranks(folder, needs=needs))
    return trace, any(needed)


def needs_readings(meta: Mapping[str, Any]) -> bool:
    """Whether the total or the utilisation of a process are known from its readings only."""
    ended = "total_J" in meta and meta.get("status") != "running"
    return not ended or not all("utilization" in one for one in accelerators_of(devices_of(meta)))


def _noted(trace: EnergyTrace) -> EnergyTrace:
    """The trace, with a note on the devices of which nothing was recorded before the cut-off."""
    unread = [
        str(device.get("device"))
        for device in unread_devices(trace.meta, trace.power_columns["device"])
    ]
    if not unread or "total_J" in trace.meta:
        return trace
    note = f"nothing is known about {', '.join(unread)}: the run was cut off before it was recorded"
    meta = {**trace.meta, "notes": [*read_list(trace.meta, "notes"), note]}
    return EnergyTrace(trace.epoch_columns, trace.power_columns, meta)


def folder_of(folder: Path, rank: int) -> Path:
    """The folder of a rank's part of a trace."""
    return folder / f"rank{rank}" if rank else folder


def missing_text(meta: Mapping[str, Any]) -> str:
    """Say which ranks left no record, according to a trace's meta; empty if all did."""
    missing = read_list(meta, "missing_ranks")
    if not missing:
        return ""
    few = ", ".join(str(rank) for rank in missing[:5])
    more = f", ... ({len(missing)} in all)" if len(missing) > 5 else ""
    return f"rank {few}{more} has left no record: the total energy is not known"


def read_ranks(
    folder: Path, ranks: Sequence[int] | None = None, *, needs: Needs = lambda _: True
) -> EnergyTrace:
    """Read a trace folder and the folders of other ranks in it.

    Args:
        folder: a trace folder; or one that holds only folders of ranks, as on the disk of a
            machine on which rank 0 did not run.
        ranks: the ranks to sum; by default, all that the training had.
        needs: whether the readings of a process are to be read, given its meta.

    Raises:
        TraceError: there is no readable trace, or one of `ranks` is missing.
    """
    try:
        return _read(folder, ranks, needs)
    except OSError as error:  # no permission, or an invalid file name
        name = reprlib.repr(str(folder))
        raise TraceError(f"cannot read the trace at {name}: {error.strerror}") from error


def _read(folder: Path, ranks: Sequence[int] | None, needs: Needs) -> EnergyTrace:
    subfolders = _subfolders(folder)
    own: EnergyTrace | None = None
    if not subfolders or (folder / storage.EPOCHS_FILE).exists():
        own = _read_one(folder, needs)
        # The folder of a single rank is that rank's trace; a saved sum is complete already.
        is_whole = world_size(own) == 1 or "ranks" in own.meta
        if is_whole or rank_of(own) > 0:
            if ranks is not None and (set(ranks) != {rank_of(own)} or "ranks" in own.meta):
                raise TraceError(f"{folder} cannot be split into ranks {sorted(ranks)}")
            return own
    records = {} if own is None else {0: own}
    for rank, subfolder in subfolders.items():
        if ranks is None or rank in ranks:
            records[rank] = _read_one(subfolder, needs)
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
                "energyest: %s: %s; load_trace(..., ranks=%s) sums the others",
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


def _read_one(folder: Path, needs: Needs) -> EnergyTrace:
    """The trace of one process, after checking that its numbers are possible."""
    trace = EnergyTrace(*storage.read_folder(folder, needs))
    meta, rows, devices, what = trace.meta, trace.epoch_columns, trace.devices, f"{folder}: "
    check_rows(rows, what)
    energy_J, duration_s = (number_or_nan(meta.get(name)) for name in ("total_J", "duration_s"))
    check_totals(energy_J, duration_s, rows, len(devices), what)
    check_spent(meta, devices, what)
    cut = read_object(meta, "interrupted_epoch")
    if cut:
        cut = {name: np.array([number_or_nan(value)]) for name, value in cut.items()}
        check_rows(cut, f"{what}interrupted_epoch: ")
    return trace


def check_spent(meta: Mapping[str, Any], devices: Sequence[Device], what: str) -> None:
    """Refuse energies and times of a meta that no training can have.

    Args:
        meta: the meta, which may say anything.
        devices: its devices.
        what: whose meta it is; messages begin with it.

    Raises:
        TraceError: one is negative or infinite.
    """
    components = read_object(meta, "components")
    values = [*components.values(), meta.get("earlier_total_J"), meta.get("carried_J")]
    for device in devices:
        values += (device.get("energy_J"), device.get("missing_s"))
    if all(0 <= value < math.inf for value in map(number_or_nan, values) if not math.isnan(value)):
        return
    names = [*(f"components: {name}" for name in components), "earlier_total_J", "carried_J"]
    names += [f"{d.get('device')}: {name}" for d in devices for name in ("energy_J", "missing_s")]
    for name, value in zip(names, values, strict=True):
        check_stored(np.array([number_or_nan(value)]), f"{what}{name}")


def _exists(path: str) -> bool:
    """Whether there is such a file; an error if nobody may know."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _subfolders(folder: Path) -> dict[int, Path]:
    """The folders of ranks in a trace folder; links and folders without a trace do not count."""
    if not folder.is_dir():
        return {}
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _FOLDER.fullmatch(entry.name)
            if name is None or not entry.is_dir(follow_symlinks=False):
                continue
            if any(_exists(f"{entry.path}{os.sep}{file}") for file in _FILES):
                found[int(name[1])] = folder / entry.name
    return dict(sorted(found.items()))
