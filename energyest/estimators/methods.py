"""Every estimator on one training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.checks import check_epochs, check_positive
from energyest.estimators.pre.from_trace import estimate_pre_of
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

# The setting of STEP that the paper evaluates.
_PAPER_START, _PAPER_WINDOW = 10, 5
Planned = Iterable[PlannedChange | Mapping[str, Any]]


@dataclass(frozen=True)
class Given:
    """What estimators are told beside the trace."""

    confidence: float
    duration_s: float | Literal["measured"] | None
    planned: Planned | None
    tdp_W: float | None
    utilization: float | None
    ram_GB: float | None


def table_of(trace: EnergyTrace, seen: EnergyTrace, epochs: float, given: Given) -> pd.DataFrame:
    """One row a method, as `compare_estimators` gives it for one training.

    Args:
        trace: all that was measured, to hold the estimates against.
        seen: what the estimators see of it.
        epochs: number of epochs of the whole training.
        given: what they are told beside the trace.

    Raises:
        EstimateError: what is given is out of its range.
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    # What is wrong with the arguments is an error, not a note in each row.
    epochs = check_epochs(seen, epochs)
    planned_changes(seen, given.planned)
    duration_s = given.duration_s
    if duration_s == "measured":
        duration_s = measured(trace, epochs, "duration_s")
        if not duration_s > 0:
            raise EstimateError(
                f"duration_s='measured' needs the durations of all {epochs} epochs, and the trace "
                "does not hold them"
            )
    elif duration_s is not None:
        duration_s = check_positive(duration_s, "duration_s")
    rows = {name: _row(method) for name, method in _methods(seen, epochs, duration_s, given)}
    table: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "method"
    measured_J = measured(trace, epochs, "energy_J")
    if math.isfinite(measured_J):
        error_J = table["energy_J"] - measured_J
        table.insert(4, "error_J", error_J)
        table.insert(5, "error_pct", 100 * error_J / measured_J)
    return table


def _methods(
    seen: EnergyTrace, epochs: float, duration_s: float | None, given: Given
) -> Iterator[tuple[str, Callable[[], Estimate]]]:
    def step(**setting: Any) -> Callable[[], Estimate]:
        return lambda: estimate_step(
            seen, epochs, confidence=given.confidence, duration_s=duration_s, **setting
        )

    def paper(**setting: Any) -> Callable[[], Estimate]:
        def estimate() -> Estimate:
            if len(seen) < _PAPER_START + _PAPER_WINDOW:
                needed = _PAPER_START + _PAPER_WINDOW
                raise EstimateError(
                    f"it needs the first {needed} epochs: {needed - len(seen)} more are needed"
                )
            return step(start=_PAPER_START, window=_PAPER_WINDOW, **setting)()

        return estimate

    board: dict[str, Any] = {"tdp_W": given.tdp_W, "duration_s": duration_s}
    room: dict[str, Any] = {"utilization": given.utilization, "ram_GB": given.ram_GB}
    yield "STEP", step(planned=given.planned)
    yield "STEP, power form", step(form="power", planned=given.planned)
    yield f"STEP, paper (start {_PAPER_START}, window {_PAPER_WINDOW})", paper()
    yield "STEP, paper, power form", paper(form="power")
    yield "PRE", lambda: estimate_pre_of(seen, epochs, confidence=given.confidence)
    yield "first epoch", lambda: estimate_first_epoch(seen, epochs)
    yield "Green Algorithms", lambda: estimate_green_algorithms(seen, epochs, **board, **room)
    yield "MLCO2", lambda: estimate_mlco2(seen, epochs, **board)
    yield "FLOPs", lambda: estimate_flops(seen, epochs, tdp_W=given.tdp_W)


def _row(method: Callable[[], Estimate]) -> dict[str, float | str]:
    estimate, note = None, ""
    try:
        estimate = method()
    except NotStableError as error:
        note = error.reason
    except EstimateError as error:
        note = str(error)
    values = {
        name: math.nan if estimate is None else getattr(estimate, name)
        for name in ("energy_J", "lower_J", "upper_J", "duration_s")
    }
    return {**{n: math.nan if v is None else v for n, v in values.items()}, "note": note}


def measured(trace: EnergyTrace, epochs: float, column: str) -> float:
    """The sum over all `epochs`; NaN where the trace does not hold it."""
    values = trace.column(column)[: math.ceil(epochs)]
    return float(np.sum(values)) if len(trace) >= epochs else math.nan
