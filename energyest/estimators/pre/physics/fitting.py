"""Parameters of a model by least squares on logarithms, with priors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.physics.parameters import Guess, Parameters

# Weight of a parameter's deviation from its prior relative to one measurement.
_PRIOR = 0.6
# Relative errors beyond this count less than squared: some runs are outliers.
_ROBUST = 0.15
_MOST_EVALUATIONS = 25


def fit_parameters(
    predict: Callable[[Parameters], Array],
    measured: Array,
    guesses: dict[str, Guess],
    *,
    hold: bool = False,
    begin: Parameters | None = None,
    weights: Array | None = None,
) -> Parameters:
    """Fit parameters so that predictions match measurements in relative terms.

    Args:
        predict: maps parameters to predictions, of shape (n,), positive.
        measured: measurements, of shape (n,), positive.
        guesses: for each parameter, a first guess and the deviation of its logarithm.
        hold: whether to stay near the guesses even if a few measurements are all far off, as they
            may be outliers. Otherwise, many measurements outweigh the guesses.
        begin: starting point of the search, by default the guesses; a close one is faster.
        weights: weight of each measurement, of shape (n,), by default 1. Weighted errors count less
            than squared on their own, whatever their weight, so with weights, `hold` is implied.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - slow to import

    names = list(guesses)
    start = np.log([guesses[name][0] for name in names])
    deviations = np.array([guesses[name][1] for name in names])
    logs = np.log(measured)
    is_held = hold or weights is not None
    roots = np.sqrt(weights) if weights is not None else 1.0

    def named(x: Array) -> Parameters:
        return dict(zip(names, np.exp(x).tolist(), strict=True))

    def residuals(x: Array) -> Array:
        # The search may try absurd values, which overflow; it then turns away from them.
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            off = np.log(predict(named(x))) - logs
        if is_held:  # apply the loss below here, so that only the priors count squared
            off = np.sign(off) * _ROBUST * np.sqrt(2 * (np.hypot(1, off / _ROBUST) - 1))
        return np.concatenate([off * roots, _PRIOR * (x - start) / deviations])

    found = least_squares(
        residuals,
        start if begin is None else np.log([begin.get(name, guesses[name][0]) for name in names]),
        loss="linear" if is_held else "soft_l1",
        f_scale=_ROBUST,
        max_nfev=_MOST_EVALUATIONS,
        ftol=1e-3,
    )
    return named(found.x)
