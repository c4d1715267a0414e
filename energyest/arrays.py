"""What a caller's arrays have to be, with errors that say which value breaks which rule."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.checks import Error
from energyest.errors import TraceError

FloatArray = NDArray[np.float64]

# All of these raise TraceError, unless told otherwise.


def as_vector(values: ArrayLike, name: str, error: Error = TraceError) -> FloatArray:
    """Numbers, of one dimension; NaN and infinity are allowed."""
    try:
        raw = np.asarray(values)
        # They would become counts of nanoseconds.
        if raw.dtype.kind in "mM":
            raise TypeError("it holds dates or times of the clock: give seconds since some start")
        # Text that looks like numbers would become numbers.
        if raw.dtype.kind in "cSU" or (raw.dtype == object and any(map(_is_text, raw.flat))):
            kind = "complex numbers" if raw.dtype.kind == "c" else "text"
            raise TypeError(f"it holds {kind}")
        if np.ma.is_masked(values):
            raise TypeError("it is masked")
        vector = np.array(raw, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise error(f"{name} must hold numbers: {cause}") from cause
    if vector.ndim != 1:
        raise error(f"{name} must have one dimension, not shape {vector.shape}")
    return vector


def as_finite(values: ArrayLike, name: str) -> FloatArray:
    """Finite numbers, of one dimension."""
    vector = as_vector(values, name)
    refuse(~np.isfinite(vector), vector, name, "must be finite")
    return vector


def check_stored(vector: FloatArray, name: str) -> None:
    """What was read back may lack values, but not hold any that cannot be."""
    refuse(np.isinf(vector) | (vector < 0), vector, name, "must be finite and not negative")


def check_increasing(vector: FloatArray, name: str, *, strictly: bool) -> None:
    """No value is less than the one before it or, `strictly`, as large."""
    if not len(vector):
        return
    step = np.append(1.0, np.diff(vector))
    rule = "must increase" if strictly else "must not go backwards"
    refuse(step <= 0 if strictly else step < 0, vector, name, rule)


def check_same_length(**vectors: FloatArray) -> None:
    """All of these, given by their names, have as many values."""
    if len({len(v) for v in vectors.values()}) > 1:
        sizes = " and ".join(f"{name} has {len(v)}" for name, v in vectors.items())
        raise TraceError(f"{sizes} values: they must have the same length")


def refuse(wrong: NDArray[np.bool_], vector: FloatArray, name: str, rule: str) -> None:
    """Name the first value that is wrong, if there is one, and the rule."""
    if wrong.any():
        first = int(np.argmax(wrong))
        raise TraceError(f"{name}[{first}] is {vector[first]:g}: {name} {rule}")


def ratio(energy: FloatArray, duration: FloatArray) -> FloatArray:
    """Energy ÷ duration; NaN where the duration is 0."""
    return np.divide(energy, duration, out=np.full_like(energy, math.nan), where=duration > 0)


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)
