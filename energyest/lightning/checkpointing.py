"""The monitor's state in a Lightning checkpoint.

It has a key of its own in the checkpoint. As a callback's state, it could be confused with the
state of a second monitor, and Lightning would warn when a training resumes without a monitor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from energyest.adapters.positions import position_of, state_of
from energyest.errors import TraceError
from energyest.tracking.continuation import Position

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

_KEY = "energyest"


def save(position: Position, number: str, checkpoint: dict[str, Any]) -> None:
    """Store in a checkpoint what is needed to resume: plain numbers, text and lists.

    Args:
        position: the position of the training and its cost so far.
        number: number of this monitor among those of the Trainer.
        checkpoint: the Trainer's checkpoint.
    """
    checkpoint.setdefault(_KEY, {})[number] = state_of(position)


def load(number: str, checkpoint: Mapping[str, Any]) -> Position | None:
    """Return what `save` stored in a checkpoint; None if there is nothing.

    Raises:
        TraceError: the stored state is damaged.
    """
    try:
        state = checkpoint.get(_KEY, {}).get(number)
    except AttributeError as error:
        raise TraceError(f"the energy record in the checkpoint is damaged: {error}") from error
    return None if state is None else position_of(state)


def save_last(trainer: Trainer) -> None:
    """Save a training that is stopped, if the Trainer saves checkpoints but has not done so here.

    If checkpoints are saved only every few epochs, or only for a better metric, the work since the
    last one would be lost. Every rank has to call this, as `Trainer.save_checkpoint` requires.
    """
    makers: list[Any] = [
        callback
        for callback in trainer.checkpoint_callbacks
        if getattr(callback, "dirpath", None) is not None
    ]
    saved = (getattr(callback, "_last_global_step_saved", None) for callback in makers)
    if makers and trainer.global_step not in saved:
        name = f"budget-epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(f"{makers[0].dirpath}/{name}")
