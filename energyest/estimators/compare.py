"""`compare_estimators`: all estimators on one training, next to the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.checks import check_confidence, check_count, check_positive
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_epochs, check_trace
from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.pre.from_trace import estimate_pre_of
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.horizon import find_horizon
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

# The setting of STEP that the paper evaluates.
_PAPER_START, _PAPER_WINDOW = 10, 5
#: Number of epochs that this setting needs.
PAPER_EPOCHS = _PAPER_START + _PAPER_WINDOW
Planned = Iterable[PlannedChange | Mapping[str, Any]]


def compare_estimators(
    trace: EnergyTrace,
    epochs: float | None = None,
    *,
    steps: int | None = None,
    observed: int | None = None,
    confidence: float = 0.9,
    duration_s: float | None = None,
    measured_duration: bool = False,
    planned: Planned | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> pd.DataFrame:
    """Estimate one training with every estimator; see `score_estimators` for many trainings.

    All estimate the energy of the epochs for all devices in the trace. Estimators see only the
    observed epochs. PRE needs none, but covers only the GPU: if the trace includes processors and
    memory, their mean power in the observed epochs is added, so that all methods are compared with
    the same measurement.

    Args:
        trace: the epochs measured so far, or those of a finished run.
        epochs: number of epochs of the whole training; by default the plan that the monitor
            recorded.
        steps: instead of `epochs`: see `estimate_step`.
        observed: show the estimators only the first `observed` epochs; for a finished run, this
            shows how far off each would have been.
        confidence: coverage probability of the intervals of STEP and PRE.
        duration_s: duration of the whole training in seconds, if known.
        measured_duration: give the estimators the duration of the finished run, as the paper does,
            although it is not known in advance.
        planned: planned changes, for STEP; by default those that the monitor recorded.
        tdp_W: see `estimate_mlco2`.
        utilization: see `estimate_green_algorithms`.
        ram_GB: see `estimate_green_algorithms`.

    Returns:
        One row per method, with `energy_J, energy_lower_J, energy_upper_J, duration_s, note`; if
        the trace holds all `epochs` epochs, also `error_J` and `error`, a share of their measured
        energy. A method that cannot be applied has NaN, and `note` says why.

    Raises:
        EstimateError: more than `epochs` epochs were measured and `observed` does not limit them;
            an argument is invalid; or `measured_duration` is set, but the trace holds no durations
            or `duration_s` is given as well.

    Examples:
        >>> from energyest import EnergyTrace, compare_estimators
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030], duration_s=[30, 24, 24, 24])
        >>> table = compare_estimators(trace, epochs=100)
        >>> table['energy_J'].dropna().round(-3)
        method
        STEP                403000.0
        STEP, power form    403000.0
        first epoch         510000.0
        Name: energy_J, dtype: float64
    """
    from energyest.frames import ResultTable  # noqa: PLC0415  (brings pandas)

    # An invalid argument is an error, not a note in each row.
    check_trace(trace)
    check_confidence(confidence, EstimateError)
    if tdp_W is not None:
        check_positive(tdp_W, "tdp_W", EstimateError)
    if duration_s is not None:
        check_positive(duration_s, "duration_s", EstimateError)
    seen = (
        trace
        if observed is None
        else trace.head(check_count(observed, "observed", EstimateError, least=0))
    )
    epochs = find_horizon(seen, epochs, steps, None).epochs
    if math.isinf(epochs):
        raise EstimateError("the training is planned in time, not in epochs: pass epochs=")
    epochs = check_epochs(seen, epochs)
    planned = [*planned] if isinstance(planned, Iterator) else planned
    planned_changes(seen, planned)
    if measured_duration:
        if duration_s is not None:
            raise EstimateError("pass either duration_s or measured_duration=True, not both")
        duration_s = measured_sum(trace, epochs, "duration_s")
        if not duration_s > 0:
            raise EstimateError(
                f"measured_duration=True needs the durations of all {epochs} epochs, which the "
                "trace does not hold"
            )
    methods = _methods(
        seen,
        epochs,
        planned,
        step={"confidence": confidence, "duration_s": duration_s},
        board={"tdp_W": tdp_W, "duration_s": duration_s},
        machine={"utilization": utilization, "ram_GB": ram_GB},
    )
    rows = {name: _row(method) for name, method in methods.items()}
    table: pd.DataFrame = ResultTable.from_dict(rows, orient="index")
    table.index.name = "method"
    measured_J = measured_sum(trace, epochs, "energy_J")
    if math.isfinite(measured_J):
        error_J = table["energy_J"] - measured_J
        table.insert(4, "error_J", error_J)
        table.insert(5, "error", error_J / measured_J)
    return table


def _methods(
    seen: EnergyTrace,
    epochs: float,
    planned: Planned | None,
    *,
    step: dict[str, Any],
    board: dict[str, Any],
    machine: dict[str, Any],
) -> dict[str, Callable[[], Estimate]]:
    """All estimators by name, with the options of STEP, of the GPU and of the machine."""
    return {
        "STEP": lambda: estimate_step(seen, epochs, planned=planned, **step),
        "STEP, power form": lambda: estimate_step(
            seen, epochs, form="power", planned=planned, **step
        ),
        f"STEP, paper (start {_PAPER_START}, window {_PAPER_WINDOW})": lambda: _as_in_the_paper(
            seen, epochs, **step
        ),
        "STEP, paper, power form": lambda: _as_in_the_paper(seen, epochs, form="power", **step),
        "PRE": lambda: estimate_pre_of(seen, epochs, confidence=step["confidence"]),
        "first epoch": lambda: estimate_first_epoch(seen, epochs),
        "Green Algorithms": lambda: estimate_green_algorithms(seen, epochs, **board, **machine),
        "MLCO2": lambda: estimate_mlco2(seen, epochs, **board),
        "FLOPs": lambda: estimate_flops(seen, epochs, tdp_W=board["tdp_W"]),
    }


def _as_in_the_paper(seen: EnergyTrace, epochs: float, **given: Any) -> Estimate:
    if len(seen) < PAPER_EPOCHS:
        raise EstimateError(
            f"it needs the first {PAPER_EPOCHS} epochs: {PAPER_EPOCHS - len(seen)} more are needed"
        )
    return estimate_step(seen, epochs, start=_PAPER_START, window=_PAPER_WINDOW, **given)


def _row(method: Callable[[], Estimate]) -> dict[str, float | str]:
    estimate, note = None, ""
    try:
        estimate = method()
    except NotStableError as error:
        note = error.reason
    except EstimateError as error:
        note = str(error)
    columns = {
        "energy_J": "energy_J",
        "energy_lower_J": "lower_J",
        "energy_upper_J": "upper_J",
        "duration_s": "duration_s",
    }
    values = {column: getattr(estimate, name, None) for column, name in columns.items()}
    return {**{n: math.nan if v is None else v for n, v in values.items()}, "note": note}


def measured_sum(trace: EnergyTrace, epochs: float, column: str) -> float:
    """The sum of a column over all `epochs`; NaN if the trace does not hold it."""
    values = trace.column(column)[: math.ceil(epochs)]
    return float(np.sum(values)) if trace.epochs_done >= epochs else math.nan
