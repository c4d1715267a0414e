"""What models of PRE are stored as: numbers and text, each checked before it is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.checks import is_number

T = TypeVar("T")


def as_floats(values: Any, name: str) -> FloatArray:
    """An array of floats from numbers.

    Raises:
        EstimateError: they are no numbers, or no array.
    """
    try:
        array = np.array(values)
    except ValueError as error:
        raise EstimateError(f"{name} must be an array of numbers: {error}") from error
    # Text that looks like a number would otherwise be taken for one.
    if array.dtype.kind not in "iuf":
        raise EstimateError(f"{name} must be an array of numbers, not of {array.dtype}")
    return array.astype(np.float64)


def check_keys(parts: object, names: set[str], of: str) -> None:
    """Refuse what is no dict of these keys alone.

    Raises:
        EstimateError: as the name says; `of` says whose keys they are.
    """
    if not isinstance(parts, Mapping):
        raise EstimateError(f"{of} must be a dict, not a {type(parts).__name__}")
    if set(parts) != names:
        lacks, foreign = names - set(parts), set(parts) - names
        raise EstimateError(
            f"{of} must have the parts {', '.join(sorted(names))}; missing: "
            f"{', '.join(sorted(lacks)) or 'none'}; unknown: "
            f"{', '.join(sorted(map(str, foreign))) or 'none'}"
        )


def settle(model: object, name: str, shape: tuple[int | None, ...]) -> None:
    """Replace a part of a frozen model by a checked array that cannot be written, or a float.

    Args:
        model: a frozen dataclass, from its `__post_init__`.
        name: of the part.
        shape: what it must have, None for any length; () for a single number.

    Raises:
        EstimateError: it has another shape, or is not finite.
    """
    value = getattr(model, name)
    if isinstance(value, np.generic):
        value = value.item()
    if not shape:
        if not (is_number(value) and math.isfinite(value)):
            raise EstimateError(f"{name}={value!r} of a PRE model must be a finite number")
        object.__setattr__(model, name, float(value))
        return
    array = as_floats(value, f"{name} of a PRE model")
    fits = array.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise EstimateError(
            f"{name} of a PRE model has the shape {array.shape}: it must be ({wanted})"
        )
    if not np.isfinite(array).all():
        raise EstimateError(f"{name} of a PRE model holds a number that is not finite")
    array.setflags(write=False)
    object.__setattr__(model, name, array)


def to_numbers(model: Any) -> dict[str, Any]:
    """The parts of a dataclass of numbers and arrays, for JSON; `from_numbers` is the way back."""
    return {part.name: np.asarray(getattr(model, part.name)).tolist() for part in fields(model)}


def from_numbers(kind: type[T], parts: object, of: str) -> T:
    """What `to_numbers` wrote; the dataclass settles its parts itself.

    Raises:
        EstimateError: a part is missing or unknown, or the dataclass refuses it.
    """
    check_keys(parts, {part.name for part in fields(kind)}, of)  # type: ignore[arg-type]
    return kind(**parts)  # type: ignore[arg-type]
