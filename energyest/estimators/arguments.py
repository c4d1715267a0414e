"""Arguments that several estimators take, a trace and a number of epochs, and their checks."""

from __future__ import annotations

import math

from energyest.checks import check_positive
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
    number = whole(check_positive(epochs, "epochs", EstimateError))
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
