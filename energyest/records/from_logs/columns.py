"""Columns of a log as numbers; those that are none are refused with the code that converts them."""

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

# Text that is a time of the clock, such as 2026/03/01 or 02:30.
_CLOCK = re.compile(r"\d[-/:]\d")
_TO_SECONDS = (
    "start = pd.to_datetime(times).min(); "
    'seconds = (pd.to_datetime(times) - start) / pd.Timedelta("1s"), where times are those of the '
    "readings; of the epochs' ends, take off the same start"
)
_SPAN_TO_SECONDS = 'seconds = pd.to_timedelta(times) / pd.Timedelta("1s")'
# What stands behind a number of nvidia-smi. Its words for a reading that failed become NaN.
_UNITS = {"power_W": " W", "utilization": " %"}


class LogColumns(NamedTuple):
    """What a trace is made of.

    Attributes:
        epochs: columns of the epochs.
        power: columns of the readings.
        meta: facts on the run.
        doubts: what is unlikely in them, to be said in warnings.
    """

    epochs: dict[str, FloatArray]
    power: dict[str, NDArray[Any]]
    meta: Mapping[str, Any]
    doubts: list[str]


def as_numbers(values: ArrayLike, name: str) -> FloatArray:
    """Numbers of one dimension; NaN and infinity are allowed.

    Raises:
        TraceError: they are not; if they are times of the clock or text with units, it names the
            code that converts them.
    """
    try:
        return as_vector(values, name)
    except TraceError as error:
        how = _how_to_convert(values, name)
        if not how:
            raise
        raise TraceError(f"{error}; in pandas: {how}") from error


def as_measured(values: ArrayLike, name: str) -> FloatArray:
    """Numbers of 0 or more, of one dimension, or NaN where nothing was measured."""
    vector = as_numbers(values, name)
    rule = "must be finite, or NaN where it was not measured"
    refuse(np.isinf(vector), vector, name, rule)
    refuse(vector < 0, vector, name, "must not be negative")
    return vector


def lower_median(vector: FloatArray) -> float:
    """The middle value, of an even number the lower of the two; NaN if there is none.

    Of two steps of which one is a gap, it is the other.
    """
    if not len(vector):
        return math.nan
    middle = (len(vector) - 1) // 2
    return float(np.partition(vector, middle)[middle])


def _how_to_convert(values: object, name: str) -> str:
    """The code that makes numbers of a log's column; empty if it is of no kind that logs have."""
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
