"""The folder of a Lightning training's trace, and the place of this process and monitor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.adapters.processes import Place, default_folder

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer


def folder_for(trainer: Trainer, wanted: Path | None) -> Path | None:
    """The folder for the trace of a training; None to keep it in memory, as in a `fast_dev_run`.

    Args:
        trainer: the Trainer; by default, the folder is in its `log_dir`.
        wanted: the folder given by the user, if any.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    if wanted is not None:
        return wanted
    return default_folder(_log_dir(trainer) or trainer.default_root_dir)


def place_of(trainer: Trainer, monitor: Callback, kind: type[Callback]) -> Place:
    """The place of a monitor among the ranks and among the callbacks of class `kind`."""
    alike = [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]
    number = next((i for i, callback in enumerate(alike) if callback is monitor), 0)
    return Place(trainer.global_rank, trainer.local_rank, trainer.world_size, str(number))


def _log_dir(trainer: Trainer) -> str | None:
    """The Trainer's `log_dir`, without its collective call, which needs a monitor on every rank."""
    if trainer.world_size == 1:
        return trainer.log_dir
    if not trainer.loggers:
        return trainer.default_root_dir
    logger: Any = trainer.loggers[0]
    names = {kind.__name__ for kind in type(logger).__mro__}
    has_own = names & {"TensorBoardLogger", "CSVLogger"}
    directory = logger.log_dir if has_own else logger.save_dir
    return None if directory is None else str(directory)
