"""The paper's regressions and a Gaussian process, as scikit-learn pipelines.

del Rey et al., arXiv 2307.05520: the features are standardised and passed to one of four
regressors, whose settings are the best of 100 random draws in a 5-fold cross-validation. Unlike in
the authors' own evaluation, the standardisation is fitted within each fold.
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

# Settings drawn at random for each published regressor: means of exponential distributions.
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
#: The scores that `search` returns for each regressor.
SCORES = {regressor: tuple(_SCORING) if regressor in _DRAWN else () for regressor in SETTINGS}
#: Bounds of any setting. With a smaller alpha, the kernel of repeated rows is singular.
LEAST_SETTING, MOST_SETTING = 1e-9, 1e5
# The authors' runs take at most 600 iterations of SVR; without a limit, arbitrary settings would
# take minutes.
_MOST_ITERATIONS = 100_000


def make_pipeline(regressor: str, settings: Mapping[str, float]) -> Any:
    """The regressor with these settings, not yet fitted; see `SETTINGS`."""
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
    """A Gaussian process (constant × RBF + noise) on the logarithm of the target.

    It uses the logarithm of GFLOPs, which span orders of magnitude. Far from all rows, it predicts
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
    """Find the settings of a regressor.

    Ridge draws alpha ~ Exp(0.1); kernel ridge (RBF) alpha and gamma ~ Exp(0.01); SVR (RBF)
    C ~ Exp(300), epsilon ~ Exp(1), gamma ~ Exp(0.01), where Exp is parametrised by its mean. The
    draw with the best mean R² over the folds is used. The Gaussian process uses the settings with
    the largest marginal likelihood instead of draws.

    Args:
        regressor: a key of `SETTINGS` other than "power_share".
        features: shape (rows, 10), in the order and the units of `FEATURES`.
        target: shape (rows,), of the magnitude of the paper's targets: W, or kJ per epoch.
        draws: number of settings to try.
        folds: number of parts of the shuffled rows, each of which is left out in turn.
        seed: seed of the draws, of the shuffling, and of the second start of the Gaussian process.

    Returns:
        The settings, and the mean scores over the folds: `r2`, `mape` (1 is 100 %) and `rmse` (in
        the unit of the target). The settings were chosen with the same folds, so the scores are
        slightly optimistic, and they do not apply to GPUs or models that no row has.

    Raises:
        EstimateError: there are too few rows.
    """
    if regressor == "gaussian_process":
        return _most_likely(features, target, seed), {}
    # R² is not defined on a fold of a single row.
    if len(features) < 2 * folds:
        raise EstimateError(
            f"{len(features)} rows are too few for folds={folds}: at least {2 * folds} are needed, "
            "two per fold"
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
    # In scikit-learn, higher scores are better, so errors are negative; R² has no lower bound.
    means = {
        name: float(found.cv_results_[f"mean_test_{name}"][found.best_index_]) for name in _SCORING
    }
    scores = {"r2": means["r2"], "mape": -means["mape"], "rmse": -means["rmse"]}
    return _plain({name: found.best_params_[f"model__{name}"] for name in drawn}), scores


def _most_likely(features: FloatArray, target: FloatArray, seed: int) -> dict[str, float]:
    if len(features) < 2:
        raise EstimateError(f"a Gaussian process needs two runs or more, not {len(features)}")
    process = _gaussian_process({}, n_restarts_optimizer=1, random_state=seed)
    with warnings.catch_warnings():
        # If runs hardly differ or have no noise, the best setting is at its bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(features, target)
    found = process.regressor_["model"].kernel_.get_params()
    return _plain({name: found[name] for name in SETTINGS["gaussian_process"]})


def _plain(settings: Mapping[str, float]) -> dict[str, float]:
    """Settings as plain numbers, clipped: rounding or an extreme draw may exceed the bounds."""
    return {
        name: float(np.clip(value, LEAST_SETTING, MOST_SETTING)) for name, value in settings.items()
    }
