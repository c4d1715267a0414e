"""Checks of arguments that several estimators share: the trace and the number of epochs."""

from __future__ import annotations

import math

from energyest.checks import check_positive
from energyest.errors import EstimateError
from energyest.records.trace import EnergyTrace


def check_trace(trace: object) -> None:
    """Raise an error for anything but a trace, such as its table of epochs."""
    if not isinstance(trace, EnergyTrace):
        raise EstimateError(
            f"trace is a {type(trace).__name__}: it must be an EnergyTrace, for example from "
            "EnergyTrace.from_epochs or load_trace"
        )


def check_epochs(trace: EnergyTrace, epochs: float) -> float:
    """Return a number of epochs; raise an error if it is invalid or less than was measured."""
    check_trace(trace)
    number = whole(check_positive(epochs, "epochs", EstimateError))
    # If training ends within an epoch, a part of that epoch was measured.
    if math.ceil(number) < len(trace):
        raise EstimateError(
            f"epochs={number} is less than the {len(trace)} epochs measured: pass a larger number, "
            f"or estimate from trace.head({math.ceil(number)})"
        )
    return number


def whole(number: float) -> float:
    """The number, as an `int` if it is whole."""
    return int(number) if number.is_integer() else number


def lacks_durations(what: str) -> EstimateError:
    """The error to raise if a trace holds no durations and `what` needs them."""
    return EstimateError(f"{what} needs the durations of the epochs, which the trace does not hold")
