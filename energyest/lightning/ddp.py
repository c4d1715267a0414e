"""Where a Lightning training is recorded, and how its processes make one run of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.distributed.rank_exchange import shared_store
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
    log_dir = trainer.log_dir or trainer.default_root_dir  # collective: on every rank, always
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if wanted is not None:
        return wanted
    if is_address(log_dir):
        log.warning("energyest: %s is not on this machine: the trace goes to ./energy", log_dir)
        return Path("energy")
    return Path(log_dir) / "energy"


def begin(trainer: Trainer, make: MakeSession, folder: Path | None) -> Session:
    """The session of this process, as a part of the run of all.

    Rank 0 finds a free folder; the others record into folders in it. That is told by a collective
    call, which every rank makes, as it does for the Trainer's `log_dir`; it is the only one.

    Args:
        trainer: knows the processes.
        make: makes the session.
        folder: where rank 0 is to write the trace; None to keep all in memory.
    """
    rank, world_size = trainer.global_rank, trainer.world_size
    meta: dict[str, Any] = {"rank": rank, "world_size": world_size}
    if world_size == 1:
        return make(folder, meta)
    session: Session | None = None
    first: tuple[Path | None, str | None] = None, None
    try:
        if rank == 0:
            session = make(folder, meta)
            first = session.folder, session.run_id
    finally:  # the others wait for it, even if this one has failed
        first = trainer.strategy.broadcast(first)
    if session is None:
        claimed, run_id = first
        if folder is not None:
            folder = folder_of(claimed or folder, rank)
        session = make(folder, meta if run_id is None else {**meta, "run_id": run_id})
    store = shared_store()
    if store is not None:
        session.join(store, rank=rank, world_size=world_size)
    elif rank == 0:
        log.warning(
            "energyest: the %d processes cannot reach each other through torch.distributed: this "
            "trace and its projection are those of rank 0; load_trace adds up all of them",
            world_size,
        )
    return session
