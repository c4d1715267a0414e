"""The callback's file in the folder of a Trainer's checkpoint.

It is a separate file because the Trainer restores a callback's state by creating a new callback
without its arguments, and fails if a checkpoint does not hold that state.
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
    """Store in a checkpoint what is needed to resume.

    Args:
        folder: folder of the checkpoint.
        number: number of this callback among those of the Trainer.
        position: the position of the training and its cost so far.

    Raises:
        OSError: the file cannot be written, or its name is in use.
    """
    head = {"kind": f"energyest {_KIND}", "format": _FORMAT}
    write_json(_path(folder, number), {**head, **_without_nan(state_of(position))})


def load(folder: Path, number: str) -> Position | None:
    """Return what `save` stored in a checkpoint; None if there is nothing.

    Raises:
        TraceError: the file is damaged.
    """
    path = _path(folder, number)
    try:
        state = read_json(path)
        check_kind(state, _KIND, _FORMAT, str(path))
    except FileNotFoundError:
        return None
    except EstimateError as error:
        raise TraceError(f"the energy record in the checkpoint is damaged: {error}") from error
    return position_of(state)


def _without_nan(state: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(state, dict):
        return {name: _without_nan(value) for name, value in state.items()}
    if isinstance(state, list):
        return [_without_nan(value) for value in state]
    return None if isinstance(state, float) and not math.isfinite(state) else state


def _path(folder: Path, number: str) -> Path:
    return folder / ("energyest.json" if number == "0" else f"energyest{number}.json")
