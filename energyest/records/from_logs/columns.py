"""Columns of a log as numbers; the error for other columns names the code that converts them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.arrays import FloatArray, as_vector, refuse
from energyest.errors import TraceError

# Text that looks like a date or clock time, such as 2026/03/01 or 02:30.
_CLOCK = re.compile(r"\d[-/:]\d")
_TO_SECONDS = (
    "start = pd.to_datetime(times).min(); "
    'seconds = (pd.to_datetime(times) - start) / pd.Timedelta("1s"), where times are those of the '
    "readings; of the epochs' ends, take off the same start"
)
_SPAN_TO_SECONDS = 'seconds = pd.to_timedelta(times) / pd.Timedelta("1s")'
# The unit behind a number in nvidia-smi's output. Its words for a failed reading become NaN.
_UNITS = {"power_W": " W", "utilization": " %"}


class LogColumns(NamedTuple):
    """The parts of a trace.

    Attributes:
        epochs: columns of the epochs.
        power: columns of the readings.
        meta: facts about the run.
        doubts: texts of warnings about unlikely values.
    """

    epochs: dict[str, FloatArray]
    power: dict[str, NDArray[Any]]
    meta: Mapping[str, Any]
    doubts: list[str]


def as_numbers(values: ArrayLike, name: str) -> FloatArray:
    """A one-dimensional array of numbers; NaN and infinity are allowed.

    Raises:
        TraceError: the values are something else; for clock times and text with units, the message
            names the code that converts them.
    """
    try:
        return as_vector(values, name)
    except TraceError as error:
        how = _how_to_convert(values, name)
        if not how:
            raise
        raise TraceError(f"{error}; in pandas: {how}") from error


def as_measured(values: ArrayLike, name: str) -> FloatArray:
    """A one-dimensional array of numbers of 0 or more, or NaN where nothing was measured."""
    vector = as_numbers(values, name)
    rule = "must be finite, or NaN where it was not measured"
    refuse(np.isinf(vector), vector, name, rule)
    refuse(vector < 0, vector, name, "must not be negative")
    return vector


def lower_median(vector: FloatArray) -> float:
    """The median; for an even number of values, the lower of the two middle ones; NaN for none.

    If one of two steps is a gap, this is the other step.
    """
    if not len(vector):
        return math.nan
    middle = (len(vector) - 1) // 2
    return float(np.partition(vector, middle)[middle])


def _how_to_convert(values: object, name: str) -> str:
    """The code that converts a log's column to numbers; empty if there is none to suggest."""
    raw = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=object)
    items = [] if raw.dtype.kind in "mM" else list(raw.flat)
    if raw.dtype.kind == "m" or any(isinstance(item, timedelta) for item in items):
        return _SPAN_TO_SECONDS
    texts = [item for item in items if isinstance(item, str)]
    is_clock = any(isinstance(item, date) for item in items) or any(map(_CLOCK.search, texts))
    if raw.dtype.kind == "M" or is_clock:
        return _TO_SECONDS
    if not texts:
        return ""
    unit = _UNITS.get(name, "")
    bare = f'.str.removesuffix("{unit}")' if unit else ""
    share = " / 100" if unit == " %" else ""
    return f'pd.to_numeric(pd.Series({name}).astype(str){bare}, errors="coerce"){share}'
