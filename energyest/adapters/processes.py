"""The folder of a training, and the joining of its processes into one run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from energyest.distributed import meeting
from energyest.distributed.rank_exchange import shared_store
from energyest.distributed.store_connection import Store
from energyest.records.loading import folder_of
from energyest.tracking.checks import is_address
from energyest.tracking.session import Session

log = logging.getLogger("energyest")

# Creates the session of this process, given its folder and facts for its meta.
MakeSession = Callable[[Path | None, Mapping[str, Any]], Session]


class Place(NamedTuple):
    """Identifies a monitor among those of a training.

    Attributes:
        rank: rank of this process in the training.
        local_rank: rank of this process on its machine.
        world_size: number of processes.
        number: number of this monitor among those of the trainer, as text.
    """

    rank: int
    local_rank: int
    world_size: int
    number: str


def default_folder(directory: str | Path) -> Path:
    """The folder of a trace if the user gives none.

    Args:
        directory: where the trainer writes; if it is not on this machine, the working directory is
            used instead.
    """
    if is_address(directory):
        log.warning("energyest: %s is not on this machine; the trace is in ./energy", directory)
        return Path("energy")
    return Path(directory) / "energy"


def begin(make: MakeSession, folder: Path | None, place: Place, monitor: str) -> Session:
    """Create the session of this process as part of the run of all processes.

    Rank 0 finds a free folder; the others write to folders inside it. If the monitor of a rank does
    not respond within seconds, a warning names the rank, and the others stop waiting for it.

    Args:
        make: creates the session.
        folder: where rank 0 writes the trace; None to keep all traces in memory.
        place: rank of this process and number of this monitor.
        monitor: class of the monitor, for warnings.
    """
    rank, world_size = place.rank, place.world_size
    meta: dict[str, Any] = {"rank": rank, "world_size": world_size}
    if world_size == 1:
        return make(folder, meta)
    store = shared_store()
    if rank == 0:
        session = _begin_first(store, place, lambda: make(folder, meta), monitor)
    else:
        run = None if store is None else meeting.ask(store, place.number, rank)
        if store is not None and run is None:
            log.warning(
                "energyest: rank 0 has no %s, or it does not respond: rank %d records "
                "independently. Use the same callbacks on every rank",
                monitor,
                rank,
            )
            store = None
        run = run or {}
        if folder is not None:
            folder = folder_of(Path(run["folder"]) if run.get("folder") else folder, rank)
        run_id = run.get("run_id")
        session = make(folder, meta if run_id is None else {**meta, "run_id": run_id})
    if store is not None:
        session.join(store, rank=rank, world_size=world_size)
    return session


def _begin_first(
    store: Store | None, place: Place, make: Callable[[], Session], monitor: str
) -> Session:
    """Create the session of rank 0 and announce it to the others, even if creating it fails."""
    session: Session | None = None
    try:
        session = make()
    finally:
        if store is not None:
            folder = None if session is None else session.folder
            run = {
                "folder": None if folder is None else str(folder),
                "run_id": None if session is None else session.run_id,
            }
            absent = meeting.invite(store, place.number, place.world_size, run)
            if absent:
                log.warning(
                    "energyest: no %s responded from rank %s: its power is not measured, and the "
                    "total of all ranks is unknown. Use the same callbacks on every rank",
                    monitor,
                    ", ".join(map(str, absent)),
                )
    if store is None:
        log.warning(
            "energyest: the %d processes cannot reach each other through torch.distributed. This "
            "trace and its projection cover rank 0 only; load_trace adds up all ranks",
            place.world_size,
        )
    return session
