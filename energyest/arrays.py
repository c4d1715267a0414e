"""Checks of a caller's arrays, with errors that name the value and the rule it breaks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.checks import Error
from energyest.errors import TraceError

FloatArray = NDArray[np.float64]

# All of these raise TraceError unless another error is passed.


def as_vector(values: ArrayLike, name: str, error: Error = TraceError) -> FloatArray:
    """A one-dimensional array of numbers; NaN and infinity are allowed."""
    try:
        raw = np.asarray(values)
        # These would become counts of nanoseconds.
        if raw.dtype.kind in "mM":
            raise TypeError("it holds dates or clock times: give seconds since some start")
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
    """A one-dimensional array of finite numbers."""
    vector = as_vector(values, name)
    refuse(~np.isfinite(vector), vector, name, "must be finite")
    return vector


def check_stored(vector: FloatArray, name: str) -> None:
    """Check values read from a file: they may be NaN, but not infinite or negative."""
    refuse(np.isinf(vector) | (vector < 0), vector, name, "must be finite and not negative")


def check_increasing(vector: FloatArray, name: str, *, strictly: bool) -> None:
    """Check that no value is less than the one before it, or, if `strictly`, equal to it."""
    if not len(vector):
        return
    step = np.append(1.0, np.diff(vector))
    rule = "must increase" if strictly else "must not go backwards"
    refuse(step <= 0 if strictly else step < 0, vector, name, rule)


def check_same_length(**vectors: FloatArray) -> None:
    """Check that all of these vectors, passed by name, have the same length."""
    if len({len(v) for v in vectors.values()}) > 1:
        sizes = " and ".join(f"{name} has {len(v)}" for name, v in vectors.items())
        raise TraceError(f"{sizes} values: they must have the same length")


def refuse(wrong: NDArray[np.bool_], vector: FloatArray, name: str, rule: str) -> None:
    """Raise an error that names the first wrong value and the rule, if a value is wrong."""
    if wrong.any():
        first = int(np.argmax(wrong))
        raise TraceError(f"{name}[{first}] is {vector[first]:g}: {name} {rule}")


def ratio(energy: FloatArray, duration: FloatArray) -> FloatArray:
    """Energy divided by duration; NaN where the duration is 0."""
    return np.divide(energy, duration, out=np.full_like(energy, math.nan), where=duration > 0)


def _is_text(value: object) -> bool:
    return isinstance(value, str | bytes)
