"""Where a Lightning training is recorded, and which of its processes and monitors this is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.adapters.processes import Place, default_folder

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer


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
    return default_folder(_log_dir(trainer) or trainer.default_root_dir)


def place_of(trainer: Trainer, monitor: Callback, kind: type[Callback]) -> Place:
    """Which of the training's monitors, callbacks of that kind, it is."""
    alike = [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]
    number = next((i for i, callback in enumerate(alike) if callback is monitor), 0)
    return Place(trainer.global_rank, trainer.local_rank, trainer.world_size, str(number))


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
