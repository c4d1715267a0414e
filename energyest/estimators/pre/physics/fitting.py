"""Parameters of a model by least squares on logarithms, held near what is likely beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.physics.parameters import Guess
from energyest.estimators.pre.physics.roofline import Parameters

# How much a parameter's own deviation counts beside one measurement's.
_PRIOR = 0.6
# Relative errors beyond this count less than squared: some runs are off for reasons of their own.
_ROBUST = 0.15
_MOST_EVALUATIONS = 25


def fit_parameters(
    predict: Callable[[Parameters], Array],
    measured: Array,
    guesses: dict[str, Guess],
    *,
    hold: bool = False,
    begin: Parameters | None = None,
) -> Parameters:
    """Parameters that bring a prediction close to what was measured, as factors.

    Args:
        predict: from parameters to predictions, of shape (n,), positive.
        measured: of shape (n,), positive.
        guesses: for each parameter a first guess, and the deviation of its logarithm.
        hold: keep to the guesses even where all of a few measurements are far off: they may be off
            for a reason of their own. Else the measurements, being many, win.
        begin: where to begin the search, if not at the guesses: it ends sooner from nearby.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - it takes a moment to load

    names = list(guesses)
    start = np.log([guesses[name][0] for name in names])
    deviations = np.array([guesses[name][1] for name in names])
    logs = np.log(measured)

    def named(x: Array) -> Parameters:
        return dict(zip(names, np.exp(x).tolist(), strict=True))

    def residuals(x: Array) -> Array:
        # What is tried may be absurd: numbers that overflow are no answer, and are left again.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            off = np.log(predict(named(x))) - logs
        if hold:  # as the loss below makes them, so that the guesses alone count squared
            off = np.sign(off) * _ROBUST * np.sqrt(2 * (np.hypot(1, off / _ROBUST) - 1))
        return np.concatenate([off, _PRIOR * (x - start) / deviations])

    found = least_squares(
        residuals,
        start if begin is None else np.log([begin.get(name, guesses[name][0]) for name in names]),
        loss="linear" if hold else "soft_l1",
        f_scale=_ROBUST,
        max_nfev=_MOST_EVALUATIONS,
        ftol=1e-3,
    )
    return named(found.x)
