"""What the monitor keeps in a Lightning checkpoint.

Under a key of its own in the checkpoint, and not as a callback's state: that would have to be told
apart from the state of a second monitor, and a training that goes on without one would be warned.
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
    """Put into a checkpoint what is needed to go on from it: plain numbers, text, lists.

    Args:
        position: where the training is, and what it has cost.
        number: which of the Trainer's monitors it is.
        checkpoint: of the Trainer.
    """
    checkpoint.setdefault(_KEY, {})[number] = state_of(position)


def load(number: str, checkpoint: Mapping[str, Any]) -> Position | None:
    """What `save` put into a checkpoint; None if there is nothing.

    Raises:
        TraceError: there is something else.
    """
    try:
        state = checkpoint.get(_KEY, {}).get(number)
    except AttributeError as error:
        raise TraceError(f"the checkpoint's record of energy is damaged: {error}") from error
    return None if state is None else position_of(state)


def save_last(trainer: Trainer) -> None:
    """A training is stopped: save it, if the Trainer makes checkpoints and has made none here.

    One that is made every so many epochs, or for a better metric alone, would lose what was paid
    for since. Every rank has to call it, as `Trainer.save_checkpoint` asks for.
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
