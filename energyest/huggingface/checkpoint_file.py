"""What the callback leaves in the folder of a Trainer's checkpoint.

A file of its own: a callback's state in the Trainer's file is restored by making a new callback
without its arguments, and a training without that callback's state in its checkpoint fails.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from energyest.adapters.positions import position_of, state_of
from energyest.errors import EstimateError, TraceError
from energyest.records.safe_json import check_kind, read_json, write_json
from energyest.tracking.continuation import Position

_KIND, _FORMAT = "checkpoint", 1


def save(folder: Path, number: str, position: Position) -> None:
    """Put into a checkpoint what is needed to go on from it.

    Args:
        folder: of the checkpoint.
        number: which of the Trainer's monitors it is.
        position: where the training is, and what it has cost.

    Raises:
        OSError: it cannot be written, or another file has its name.
    """
    head = {"kind": f"energyest {_KIND}", "format": _FORMAT}
    write_json(_path(folder, number), {**head, **_without_nan(state_of(position))})


def load(folder: Path, number: str) -> Position | None:
    """What `save` put into a checkpoint; None if there is nothing.

    Raises:
        TraceError: there is something else.
    """
    path = _path(folder, number)
    try:
        state = read_json(path)
        check_kind(state, _KIND, _FORMAT, str(path))
    except FileNotFoundError:
        return None
    except EstimateError as error:
        raise TraceError(f"the checkpoint's record of energy is damaged: {error}") from error
    return position_of(state)


def _without_nan(state: Any) -> Any:
    """JSON has no NaN: what is not known is null there."""
    if isinstance(state, dict):
        return {name: _without_nan(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_without_nan(value) for value in state]
    return None if isinstance(state, float) and not math.isfinite(state) else state


def _path(folder: Path, number: str) -> Path:
    return folder / ("energyest.json" if number == "0" else f"energyest{number}.json")
