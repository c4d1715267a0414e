"""Detection of the current stable level: since when has the energy per epoch been the same?"""

from __future__ import annotations

import numpy as np

from energyest.errors import EstimateError
from energyest.estimate import NotStableError
from energyest.estimators.arguments import check_trace
from energyest.estimators.step.forecast import Forecaster
from energyest.estimators.step.level import MIN_EPOCHS
from energyest.estimators.step.planned_changes import planned_changes
from energyest.estimators.step.published_method import fluss_epoch
from energyest.records.trace import EnergyTrace


def find_stable_epoch(trace: EnergyTrace, method: str = "changepoint") -> int:
    """The first epoch of the current level.

    Args:
        trace: the epochs measured so far.
        method: `"changepoint"` for the last change of level in the energy per epoch (without
            validation), from the epochs measured so far; or `"fluss"` for the paper's segmentation
            of the whole power series (extra `fluss`).

    Returns:
        The position of that epoch in the trace, counted from 0. A single transitional epoch, such
        as a cold start, is not part of the level. If the last epochs do not lie on one level, lower
        ones after a level of six or more are dips.

    Raises:
        NotStableError: the level has lasted less than `MIN_EPOCHS` epochs.
        EstimateError: the method is unknown, or there are too few readings for it.
        MissingDependencyError: the method needs a package that is not installed.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import find_stable_epoch
        >>> find_stable_epoch(EnergyTrace.from_epochs([5100, 4020, 4010, 4030, 4020]))
        1
    """
    check_trace(trace)
    if method == "fluss":
        return fluss_epoch(trace)
    if method != "changepoint":
        raise EstimateError(f"method={method!r} must be 'changepoint' or 'fluss'")
    if not np.isfinite(trace.column("energy_J")).any():
        raise NotStableError(unstable_message(trace), missing_epochs=MIN_EPOCHS)
    history = Forecaster(trace, planned_changes(trace, None))
    if history.missing_epochs:
        raise NotStableError(
            unstable_message(trace, history), missing_epochs=history.missing_epochs
        )
    return history.start


def unstable_message(trace: EnergyTrace, history: Forecaster | None = None) -> str:
    """Why there is nothing to project from yet.

    Args:
        trace: the epochs measured so far.
        history: the forecaster of the trace; None if no energy was measured.
    """
    unit, missing = trace.unit, MIN_EPOCHS
    if history is None:
        why = f"no {unit} was measured"
    else:
        missing = history.missing_epochs
        if history.has_pending_change:
            why = f"a known change came less than {MIN_EPOCHS} {unit}s ago"
        elif history.start:
            why = (
                f"the energy per {unit} changed at {unit} {history.start}, "
                f"{history.level.epochs} {unit}(s) ago"
            )
        else:
            why = f"only {history.measured_epochs} {unit}(s) were measured"
    return (
        f"not stable yet: {why}; a projection needs {MIN_EPOCHS} {unit}s at one level, so at "
        f"least {missing} more"
    )
