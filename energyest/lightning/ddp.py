"""Where a Lightning training is recorded, and how its processes make one run of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.distributed import meeting
from energyest.distributed.rank_exchange import shared_store
from energyest.distributed.store_connection import Store
from energyest.records.loading import folder_of
from energyest.tracking.checks import is_address
from energyest.tracking.session import Session

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

log = logging.getLogger("energyest")

# Makes the session of this process: in which folder, and with which facts in its meta.
MakeSession = Callable[[Path | None, Mapping[str, Any]], Session]


def folder_for(trainer: Trainer, wanted: Path | None) -> Path | None:
    """Where the trace of a training goes; None to keep it in memory, as in a trial run.

    Args:
        trainer: by default, its `log_dir` holds the folder.
        wanted: the folder that the user has asked for.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if wanted is not None:
        return wanted
    log_dir = _log_dir(trainer) or trainer.default_root_dir
    if is_address(log_dir):
        log.warning("energyest: %s is not on this machine: the trace goes to ./energy", log_dir)
        return Path("energy")
    return Path(log_dir) / "energy"


def begin(trainer: Trainer, make: MakeSession, folder: Path | None, place: str) -> Session:
    """The session of this process, as a part of the run of all.

    Rank 0 finds a free folder; the others record into folders in it. A rank whose monitor does not
    show up within seconds is named in a warning, and waited for no longer.

    Args:
        trainer: knows the processes.
        make: makes the session.
        folder: where rank 0 is to write the trace; None to keep all in memory.
        place: which of the Trainer's monitors this is.
    """
    rank, world_size = trainer.global_rank, trainer.world_size
    meta: dict[str, Any] = {"rank": rank, "world_size": world_size}
    if world_size == 1:
        return make(folder, meta)
    store = shared_store()
    if rank == 0:
        session = _begin_first(store, place, world_size, lambda: make(folder, meta))
    else:
        run = None if store is None else meeting.ask(store, place, rank)
        if store is not None and run is None:
            log.warning(
                "energyest: rank 0 has no EnergyMonitor, or one that does not answer: rank %d "
                "records on its own. Give every rank the same callbacks",
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
    store: Store | None, place: str, world_size: int, make: Callable[[], Session]
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
            absent = meeting.invite(store, place, world_size, run)
            if absent:
                log.warning(
                    "energyest: no EnergyMonitor has answered from rank %s: what it draws is not "
                    "measured, and the total of all ranks is not known. Give every rank the same "
                    "callbacks",
                    ", ".join(map(str, absent)),
                )
    if store is None:
        log.warning(
            "energyest: the %d processes cannot reach each other through torch.distributed: this "
            "trace and its projection are those of rank 0; load_trace adds up all of them",
            world_size,
        )
    return session


def _log_dir(trainer: Trainer) -> str | None:
    """The Trainer's `log_dir`, which asks all ranks: one without a monitor would not answer."""
    if trainer.world_size == 1:
        return trainer.log_dir
    if not trainer.loggers:
        return trainer.default_root_dir
    logger: Any = trainer.loggers[0]
    names = {kind.__name__ for kind in type(logger).__mro__}
    has_own = names & {"TensorBoardLogger", "CSVLogger"}
    directory = logger.log_dir if has_own else logger.save_dir
    return None if directory is None else str(directory)
