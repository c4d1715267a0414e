"""Checks of arguments that several estimators take; each returns the value to go on with."""

from __future__ import annotations

import math
import sys
from numbers import Real
from typing import TypeGuard

import numpy as np

from energyest.errors import EstimateError
from energyest.records.trace import EnergyTrace


def check_trace(trace: object) -> None:
    """Refuse what is no trace, such as its table of epochs."""
    if not isinstance(trace, EnergyTrace):
        raise EstimateError(
            f"trace is a {type(trace).__name__}: it must be an EnergyTrace, for example from "
            "EnergyTrace.from_epochs or load_trace"
        )


def check_epochs(trace: EnergyTrace, epochs: float) -> float:
    """Refuse a number of epochs that is none, or that is smaller than what was measured."""
    check_trace(trace)
    if not (is_number(epochs) and math.isfinite(epochs) and epochs > 0):
        raise EstimateError(f"epochs={epochs!r} must be a number above 0")
    number = whole(float(epochs))
    # Of an epoch that the end of the training breaks off, the part was measured.
    if math.ceil(number) < len(trace):
        raise EstimateError(
            f"epochs={number} is fewer than the {len(trace)} epochs measured: ask for at least as "
            f"many, or estimate from trace.head({math.ceil(number)})"
        )
    return number


def whole(number: float) -> float:
    """The number as an `int` if it is a whole one."""
    return int(number) if number.is_integer() else number


def lacks_durations(what: str) -> EstimateError:
    """The error to raise where a trace holds no durations and `what` needs them."""
    return EstimateError(
        f"{what} needs the durations of the epochs, and the trace does not hold them"
    )


def check_count(value: int, name: str, least: int = 1) -> int:
    """Refuse what is not a whole number of `least` or more."""
    counts = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (counts and value >= least):
        raise EstimateError(f"{name}={value!r} must be a whole number of {least} or more")
    return int(value)


def check_positive(value: float, name: str) -> float:
    """Refuse what is not a positive, finite number."""
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise EstimateError(f"{name}={value!r} must be positive and finite")
    return float(value)


def check_confidence(confidence: float) -> float:
    """Refuse what is no probability between 0 and 1."""
    # Closer to 1 than this, the quantile of any distribution is a matter of rounding.
    if not (is_number(confidence) and 0 < confidence <= 1 - 1e-9):
        raise EstimateError(f"confidence={confidence!r} must lie between 0 and 1")
    return float(confidence)


def positive_or_none(value: object) -> float | None:
    """What a trace's meta says, if it is a positive, finite number."""
    return float(value) if is_number(value) and math.isfinite(value) and value > 0 else None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number of Python or numpy that a float can hold, no truth value."""
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        return False
    return isinstance(value, Real) and not isinstance(value, bool)
