"""Every estimator on one trace, as a table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from energyest.errors import EstimateError, NotStableError
from energyest.estimators.baselines import (
    estimate_first_epoch,
    estimate_flops,
    estimate_green_algorithms,
    estimate_mlco2,
)
from energyest.estimators.checks import (
    check_confidence,
    check_count,
    check_epochs,
    check_positive,
    check_trace,
)
from energyest.estimators.estimate import Estimate
from energyest.estimators.step import estimate_step
from energyest.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd


def compare_estimators(
    trace: EnergyTrace,
    epochs: float,
    *,
    observed: int | None = None,
    confidence: float = 0.9,
    duration_s: float | None = None,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
) -> pd.DataFrame:
    """Estimate the same training with every estimator.

    Args:
        trace: the epochs measured so far, or those of a finished run.
        epochs: number of epochs of the whole training.
        observed: let the estimators see the first `observed` epochs alone; of a finished run this
            shows how far off each would have been.
        confidence: probability for the intervals of STEP.
        duration_s: duration of the whole training in seconds where it is known.
        tdp_W: see `estimate_mlco2`.
        utilization: see `estimate_green_algorithms`.
        ram_GB: see `estimate_green_algorithms`.

    Returns:
        One row a method, with `energy_J, lower_J, upper_J, duration_s, note`; where the trace
        holds all `epochs` epochs also `error_J` and `error_pct` against their measured energy.
        A method that cannot be applied has NaN, and `note` says why.

    Raises:
        EstimateError: more epochs were measured than `epochs` and `observed` does not cut them,
            or an argument is out of its range.
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    check_trace(trace)
    seen = trace if observed is None else trace.head(check_count(observed, "observed", least=0))
    # What is wrong with the arguments is an error, not a note in each row.
    epochs = check_epochs(seen, epochs)
    check_confidence(confidence)
    for name, value in (("duration_s", duration_s), ("tdp_W", tdp_W)):
        if value is not None:
            check_positive(value, name)
    methods: dict[str, Callable[[], Estimate]] = {
        "STEP": lambda: estimate_step(seen, epochs, confidence=confidence, duration_s=duration_s),
        "STEP, power form": lambda: estimate_step(
            seen, epochs, form="power", confidence=confidence, duration_s=duration_s
        ),
        "STEP, paper (start 10, window 5)": lambda: estimate_step(
            seen, epochs, start=10, window=5, confidence=confidence, duration_s=duration_s
        ),
        "first epoch": lambda: estimate_first_epoch(seen, epochs),
        "Green Algorithms": lambda: estimate_green_algorithms(
            seen,
            epochs,
            tdp_W=tdp_W,
            utilization=utilization,
            ram_GB=ram_GB,
            duration_s=duration_s,
        ),
        "MLCO2": lambda: estimate_mlco2(seen, epochs, tdp_W=tdp_W, duration_s=duration_s),
        "FLOPs": lambda: estimate_flops(seen, epochs, tdp_W=tdp_W),
    }
    rows = {name: _row(method) for name, method in methods.items()}
    table: pd.DataFrame = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "method"
    measured_J = float(np.sum(trace.column("energy_J")[: math.ceil(epochs)]))
    if len(trace) >= epochs and math.isfinite(measured_J):
        error_J = table["energy_J"] - measured_J
        table.insert(4, "error_J", error_J)
        table.insert(5, "error_pct", 100 * error_J / measured_J)
    return table


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
