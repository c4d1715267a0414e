"""Where a training is recorded, and how its processes make one run of it."""

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

# Makes the session of this process: in which folder, and with which facts in its meta.
MakeSession = Callable[[Path | None, Mapping[str, Any]], Session]


class Place(NamedTuple):
    """Which of the monitors of a training this is.

    Attributes:
        rank: of this process, among all of the training.
        local_rank: of this process, among those on its machine.
        world_size: number of processes.
        number: of this monitor, where a trainer has several, as text.
    """

    rank: int
    local_rank: int
    world_size: int
    number: str


def default_folder(directory: str | Path) -> Path:
    """Where a trace goes that the user names no folder for.

    Args:
        directory: where the trainer writes; if that is not on this machine, the working directory
            takes its place.
    """
    if is_address(directory):
        log.warning("energyest: %s is not on this machine: the trace goes to ./energy", directory)
        return Path("energy")
    return Path(directory) / "energy"


def begin(make: MakeSession, folder: Path | None, place: Place, monitor: str) -> Session:
    """The session of this process, as a part of the run of all.

    Rank 0 finds a free folder; the others record into folders in it. A rank whose monitor does not
    show up within seconds is named in a warning, and waited for no longer.

    Args:
        make: makes the session.
        folder: where rank 0 is to write the trace; None to keep all in memory.
        place: which of the training's monitors this is.
        monitor: its class, for warnings.
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
                "energyest: rank 0 has no %s, or one that does not answer: rank %d "
                "records on its own. Give every rank the same callbacks",
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
    """The session of rank 0, of which the others are told, even if it cannot be made."""
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
                    "energyest: no %s has answered from rank %s: what it draws is not "
                    "measured, and the total of all ranks is not known. Give every rank the same "
                    "callbacks",
                    monitor,
                    ", ".join(map(str, absent)),
                )
    if store is None:
        log.warning(
            "energyest: the %d processes cannot reach each other through torch.distributed: this "
            "trace and its projection are those of rank 0; load_trace adds up all of them",
            place.world_size,
        )
    return session
