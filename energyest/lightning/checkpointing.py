"""What the monitor keeps in a Lightning checkpoint.

Under a key of its own in the checkpoint, and not as a callback's state: that would have to be told
apart from the state of a second monitor, and a training that goes on without one would be warned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from energyest.checks import is_count, short
from energyest.errors import TraceError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.tracking.continuation import Position

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

_KEY = "energyest"
# More epochs or batches than any training has.
_MOST = 10**12


def save(
    trainer: Trainer,
    monitor: Callback,
    kind: type[Callback],
    position: Position,
    checkpoint: dict[str, Any],
) -> None:
    """Put into a checkpoint what is needed to go on from it: plain numbers, text, lists.

    Args:
        trainer: whose callback the monitor is.
        monitor: whose run it is.
        kind: the class of monitors, of which a Trainer may have several.
        position: where the training is, and what it has cost.
        checkpoint: of the Trainer.
    """
    checkpoint.setdefault(_KEY, {})[number_of(trainer, monitor, kind)] = {
        "run": position.earlier.state_dict(),
        "epoch": position.epoch,
        "batches": position.batches,
    }


def load(
    trainer: Trainer, monitor: Callback, kind: type[Callback], checkpoint: Mapping[str, Any]
) -> Position | None:
    """What `save` put into a checkpoint; None if there is nothing.

    Raises:
        TraceError: there is something else.
    """
    try:
        state = checkpoint.get(_KEY, {}).get(number_of(trainer, monitor, kind))
        if state is None:
            return None
        epoch, batches = state["epoch"], state["batches"]
        if not all(is_count(value) and value <= _MOST for value in (epoch, batches)):
            raise ValueError(f"epoch {short(epoch)} and batch {short(batches)} are no position")
        return Position(RunCheckpoint.from_state_dict(state["run"]), epoch, batches)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TraceError(f"the checkpoint's record of energy is damaged: {error}") from error


def number_of(trainer: Trainer, monitor: Callback, kind: type[Callback]) -> str:
    """Which of the Trainer's monitors, callbacks of that kind, it is."""
    alike = [c for c in trainer.callbacks if isinstance(c, kind)]  # type: ignore[attr-defined]
    return str(next((i for i, callback in enumerate(alike) if callback is monitor), 0))
