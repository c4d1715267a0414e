"""The paper's regressions and a Gaussian process, as scikit-learn pipelines.

del Rey et al., arXiv 2307.05520: the features are standardised and go into one of four regressors,
whose settings are the best of 100 random draws in a 5-fold cross-validation. Unlike in the authors'
own evaluation, the standardisation is learnt inside each fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import expon
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.regression.features import FEATURES

# What each published regressor draws at random, and the mean of its exponential distribution.
_DRAWN: dict[str, dict[str, float]] = {
    "linear": {},
    "ridge": {"alpha": 0.1},
    "kernel_ridge": {"alpha": 0.01, "gamma": 0.01},
    "svr": {"C": 300.0, "epsilon": 1.0, "gamma": 0.01},
}
_SCORING = {
    "r2": "r2",
    "mape": "neg_mean_absolute_percentage_error",
    "rmse": "neg_root_mean_squared_error",
}
_GFLOPS = FEATURES.index("GFLOPs")
#: The settings that `search` finds for each regressor, by scikit-learn's names.
SETTINGS: dict[str, tuple[str, ...]] = {
    **{regressor: tuple(drawn) for regressor, drawn in _DRAWN.items()},
    "gaussian_process": ("k1__k1__constant_value", "k1__k2__length_scale", "k2__noise_level"),
    "power_share": (),
}
#: The scores that it gives.
SCORES = {regressor: tuple(_SCORING) if regressor in _DRAWN else () for regressor in SETTINGS}
#: Bounds of any setting. With a smaller alpha the kernel of repeated rows is singular.
LEAST_SETTING, MOST_SETTING = 1e-9, 1e5
# The authors' runs take 600 of SVR's iterations at most; without an end, settings that were made up
# take minutes.
_MOST_ITERATIONS = 100_000


def make_pipeline(regressor: str, settings: Mapping[str, float]) -> Any:
    """The regressor with these settings, still to be fitted; see `SETTINGS`."""
    if regressor == "gaussian_process":
        return _gaussian_process(settings, optimizer=None)
    model = {
        "linear": LinearRegression(),
        "ridge": Ridge(),
        "kernel_ridge": KernelRidge(kernel="rbf"),
        "svr": SVR(kernel="rbf", max_iter=_MOST_ITERATIONS),
    }[regressor].set_params(**settings)
    return Pipeline([("scaler", StandardScaler()), ("model", model)])


def _gaussian_process(settings: Mapping[str, float], **fit: Any) -> Any:
    """A constant × RBF, and noise, on the logarithm of the target.

    GFLOPs, which span orders of magnitude, are taken as logarithms. Far from all rows it predicts
    their geometric mean.
    """
    kernel = kernels.ConstantKernel() * kernels.RBF() + kernels.WhiteKernel(1e-2, (1e-6, 1.0))
    steps = [
        ("log", FunctionTransformer(_with_log_GFLOPs)),
        ("scaler", StandardScaler()),
        ("model", GaussianProcessRegressor(kernel.set_params(**settings), normalize_y=True, **fit)),
    ]
    return TransformedTargetRegressor(
        Pipeline(steps), func=np.log, inverse_func=np.exp, check_inverse=False
    )


def _with_log_GFLOPs(features: FloatArray) -> FloatArray:
    rows: FloatArray = features.copy()
    rows[:, _GFLOPS] = np.log(rows[:, _GFLOPS])
    return rows


def search(
    regressor: str, features: FloatArray, target: FloatArray, *, draws: int, folds: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Find a regressor's settings.

    Ridge draws alpha ~ Exp(0.1); kernel ridge (RBF) alpha and gamma ~ Exp(0.01); SVR (RBF)
    C ~ Exp(300), epsilon ~ Exp(1), gamma ~ Exp(0.01). The number in Exp is the mean. The draw with
    the best mean R² over the folds is kept. The Gaussian process takes the settings of the greatest
    marginal likelihood: no draw has to hit them.

    Args:
        regressor: a key of `SETTINGS`, but not "power_share".
        features: shape (rows, 10), in the order and the units of `FEATURES`.
        target: shape (rows,), of the size of the paper's: W, or kJ an epoch.
        draws: how many settings are tried.
        folds: parts of the shuffled rows that are left out in turn.
        seed: of the draws and the shuffling, and of the process's second start.

    Returns:
        The settings, and the scores over the folds: `r2`, `mape` (1 is 100 %) and `rmse` (in the
        unit of the target), each a mean. The settings were chosen by the same folds, so these are
        somewhat too good; and they say nothing of a GPU or a model that no row has.

    Raises:
        EstimateError: too few rows.
    """
    if regressor == "gaussian_process":
        return _most_likely(features, target, seed), {}
    # R² is not defined on a fold of a single row.
    if len(features) < 2 * folds:
        raise EstimateError(
            f"{len(features)} rows are too few for folds={folds}: at least {2 * folds} are needed, "
            "two in each fold"
        )
    drawn = _DRAWN[regressor]
    found = RandomizedSearchCV(
        make_pipeline(regressor, {}),
        {f"model__{name}": expon(scale=mean) for name, mean in drawn.items()},
        n_iter=draws if drawn else 1,
        cv=KFold(folds, shuffle=True, random_state=seed),
        scoring=_SCORING,
        refit="r2",
        random_state=seed,
        error_score="raise",
    ).fit(features, target)
    # For scikit-learn more is better, so that errors are negative; R² may be anything up to 1.
    means = {
        name: float(found.cv_results_[f"mean_test_{name}"][found.best_index_]) for name in _SCORING
    }
    scores = {"r2": means["r2"], "mape": -means["mape"], "rmse": -means["rmse"]}
    return _plain({name: found.best_params_[f"model__{name}"] for name in drawn}), scores


def _most_likely(features: FloatArray, target: FloatArray, seed: int) -> dict[str, float]:
    if len(features) < 2:
        raise EstimateError(f"a Gaussian process needs two runs or more: there are {len(features)}")
    process = _gaussian_process({}, n_restarts_optimizer=1, random_state=seed)
    with warnings.catch_warnings():
        # Runs that hardly differ, or without noise: the best setting is then the bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(features, target)
    found = process.regressor_["model"].kernel_.get_params()
    return _plain({name: found[name] for name in SETTINGS["gaussian_process"]})


def _plain(settings: Mapping[str, float]) -> dict[str, float]:
    """Settings as plain numbers; one may lie beyond its bound by rounding, or by a freak draw."""
    return {
        name: float(np.clip(value, LEAST_SETTING, MOST_SETTING)) for name, value in settings.items()
    }
