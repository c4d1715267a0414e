"""The state of a run in a trainer's checkpoint, as plain numbers, text and lists."""

from __future__ import annotations

from typing import Any

from energyest.checks import is_count, short
from energyest.errors import TraceError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.tracking.continuation import Position

# More epochs or batches than any training has.
_MOST = 10**12


def state_of(position: Position) -> dict[str, Any]:
    """The state needed to resume from a position."""
    return {
        "run": position.earlier.state_dict(),
        "epoch": position.epoch,
        "batches": position.batches,
    }


def position_of(state: Any) -> Position:
    """Restore a position from `state_of`; the state is not trusted.

    Raises:
        TraceError: the state is damaged.
    """
    try:
        epoch, batches = state["epoch"], state["batches"]
        if not all(is_count(value) and value <= _MOST for value in (epoch, batches)):
            raise ValueError(f"epoch {short(epoch)}, batch {short(batches)} is not a position")
        return Position(RunCheckpoint.from_state_dict(state["run"]), epoch, batches)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TraceError(f"the energy record in the checkpoint is damaged: {error}") from error
