"""PRE as published: regression of power or epoch energy on ten numbers known before training.

del Rey et al., arXiv 2307.05520. The features are standardised and go into one of four regressors,
whose settings are those of 100 random draws that do best in a 5-fold cross-validation. Unlike in
the authors' own evaluation, the standardisation is learnt inside each fold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.checks import check_count, is_number
from energyest.estimators.regression.serialize import (
    as_floats,
    check_keys,
    from_numbers,
    settle,
    to_numbers,
)

FEATURES = (
    "batch_size",
    "image_height",
    "image_width",
    "ram_GB",
    "training_samples",
    "validation_samples",
    "GFLOPs",
    "cuda_cores",
    "gpu_memory_GB",
    "gpu_power_limit_W",
)
Regressor = Literal["linear", "ridge", "kernel_ridge", "svr"]

# What each regressor draws at random, and the scale (the mean) of its exponential distribution.
_SEARCHED: dict[str, dict[str, float]] = {
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
# Rows of predictions by centres of the kernel that are held in memory at once.
_MOST_CELLS = 1 << 22


@dataclass(frozen=True, eq=False)
class Linear:
    """A weighted sum of the standardised features.

    Attributes:
        coefficients: shape (10,).
        intercept: what is added.
    """

    coefficients: FloatArray
    intercept: float

    def __post_init__(self) -> None:
        settle(self, "coefficients", (len(FEATURES),))
        settle(self, "intercept", ())

    def values(self, standardised: FloatArray) -> FloatArray:
        """What is predicted for each row of standardised features."""
        return standardised @ self.coefficients + self.intercept


@dataclass(frozen=True, eq=False)
class Kernel:
    """A sum of Gaussian bells around rows of the fit: exp(-gamma × squared distance).

    Attributes:
        centres: shape (centres, 10), standardised.
        weights: shape (centres,), the height of each bell.
        gamma: how narrow the bells are.
        intercept: what is added: what is left far from all centres. Kernel ridge has none, that is
            0, so far from its rows it predicts next to nothing.
    """

    centres: FloatArray
    weights: FloatArray
    gamma: float
    intercept: float

    def __post_init__(self) -> None:
        settle(self, "centres", (None, len(FEATURES)))
        settle(self, "weights", (len(self.centres),))
        settle(self, "gamma", ())
        settle(self, "intercept", ())
        if self.gamma <= 0:
            raise EstimateError(f"gamma={self.gamma!r} of a PRE model must be positive")

    def values(self, standardised: FloatArray) -> FloatArray:
        """What is predicted for each row of standardised features."""
        result = np.empty(len(standardised))
        step = max(1, _MOST_CELLS // max(1, self.centres.size))
        for start in range(0, len(standardised), step):
            rows = standardised[start : start + step, np.newaxis]
            distances = ((rows - self.centres) ** 2).sum(axis=2)
            result[start : start + step] = np.exp(-self.gamma * distances) @ self.weights
        return result + self.intercept


@dataclass(frozen=True, eq=False)
class Published:
    """A fitted PRE model as plain numbers: it predicts and is stored without scikit-learn.

    Attributes:
        regressor: `linear`, `ridge`, `kernel_ridge` or `svr`.
        mean: shape (10,), mean of each feature in the rows of the fit.
        scale: shape (10,), their standard deviations; 1 for a feature that did not vary.
        function: from the standardised features to the target.
        best_params: the settings that the search chose, by scikit-learn's names; empty for linear.
        cross_validation: `r2`, `mape` (1 is 100 %) and `rmse` (in the unit of the target), each a
            mean over the folds. The settings were chosen by the same folds, so that these are
            somewhat too good; and they say nothing of a GPU or a model that no row has.
    """

    regressor: str
    mean: FloatArray
    scale: FloatArray
    function: Linear | Kernel
    best_params: dict[str, float]
    cross_validation: dict[str, float]

    def __post_init__(self) -> None:
        searched = _searched(self.regressor)
        settle(self, "mean", (len(FEATURES),))
        settle(self, "scale", (len(FEATURES),))
        if np.any(self.scale <= 0):
            raise EstimateError("scale of a PRE model must be positive throughout")
        if not isinstance(self.function, _function_of(self.regressor)):
            raise EstimateError(
                f"a {self.regressor} PRE model cannot have a function of the type "
                f"{type(self.function).__name__}"
            )
        _settle_numbers(self, "best_params", searched)
        _settle_numbers(self, "cross_validation", _SCORING)

    def predict(self, features: ArrayLike) -> FloatArray:
        """The target of each row, in the unit of the fit.

        Args:
            features: shape (rows, 10), in the order and the units of `FEATURES`.

        Returns:
            Shape (rows,).

        Raises:
            EstimateError: another shape, or a feature that is no finite number.
        """
        return self.function.values((check_features(features) - self.mean) / self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text alone, for JSON; `from_dict` is the way back."""
        return {
            "regressor": self.regressor,
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "function": to_numbers(self.function),
            "best_params": dict(self.best_params),
            "cross_validation": dict(self.cross_validation),
        }

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> Published:
        """The model that `to_dict` wrote.

        Raises:
            EstimateError: a part is missing or unknown, has a wrong shape, or is not finite.
        """
        names = {part.name for part in fields(cls)}
        check_keys(parts, names | {"features"}, "a PRE model")
        if parts["features"] != list(FEATURES):
            raise EstimateError(
                f"a PRE model must be fitted to the features {', '.join(FEATURES)}, in this order"
            )
        function = from_numbers(
            _function_of(parts["regressor"]),
            parts["function"],
            f"function of a {parts['regressor']} PRE model",
        )
        given = {name: parts[name] for name in names}
        return cls(**{**given, "function": function})


def fit_published(
    features: ArrayLike,
    target: ArrayLike,
    *,
    regressor: Regressor,
    draws: int = 100,
    folds: int = 5,
    seed: int = 0,
) -> Published:
    """Fit PRE as published (arXiv 2307.05520).

    The published targets are mean power in W, to be multiplied by the duration, and mean energy of
    an epoch in kJ, to be multiplied by the epochs. The unit is up to the caller, but not without
    effect for `svr`: the scales of its `C` and `epsilon` are meant for numbers of that size.

    Args:
        features: shape (rows, 10), in the order and the units of `FEATURES`.
        target: shape (rows,).
        regressor: `linear`; `ridge` with alpha ~ Exp(0.1); `kernel_ridge` (RBF) with alpha and
            gamma ~ Exp(0.01); `svr` (RBF) with C ~ Exp(300), epsilon ~ Exp(1), gamma ~ Exp(0.01).
            The number in Exp is the mean.
        draws: how many settings are tried; the one with the best mean R² over the folds is kept.
        folds: parts of the shuffled rows that are left out in turn.
        seed: of the draws and the shuffling; the same seed gives the same model.

    Raises:
        EstimateError: too few rows for that many folds, or an argument of a wrong shape or value.
    """
    searched = _searched(regressor)
    check_count(draws, "draws")
    check_count(folds, "folds", 2)
    check_count(seed, "seed", 0)
    table = check_features(features)
    values = as_floats(target, "target")
    if values.shape != table.shape[:1]:
        raise EstimateError(
            f"target has the shape {values.shape}: it must be ({len(table)},), a number for each "
            "row of features"
        )
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise EstimateError(f"target in row {row} is {values[row]}: it must be finite")
    # R² is not defined on a fold of a single row.
    if len(table) < 2 * folds:
        raise EstimateError(
            f"{len(table)} rows are too few for folds={folds}: at least {2 * folds} are needed, "
            "two in each fold"
        )
    # Late, as they take a second to load and nothing but a fit needs them.
    from scipy.stats import expon  # noqa: PLC0415
    from sklearn.model_selection import (  # noqa: PLC0415
        KFold,
        RandomizedSearchCV,
        cross_validate,
    )

    pipeline = _pipeline(regressor)
    splits = KFold(folds, shuffle=True, random_state=seed)
    if searched:
        search = RandomizedSearchCV(
            pipeline,
            {f"model__{name}": expon(scale=scale) for name, scale in searched.items()},
            n_iter=draws,
            cv=splits,
            scoring=_SCORING,
            refit="r2",
            random_state=seed,
            n_jobs=1,
            error_score="raise",
        ).fit(table, values)
        fitted = search.best_estimator_
        scores = {
            name: search.cv_results_[f"mean_test_{name}"][search.best_index_] for name in _SCORING
        }
        best = {name: search.best_params_[f"model__{name}"] for name in searched}
    else:
        fitted, best = pipeline.fit(table, values), {}
        parts = cross_validate(pipeline, table, values, cv=splits, scoring=_SCORING, n_jobs=1)
        scores = {name: parts[f"test_{name}"].mean() for name in _SCORING}
    return _plain(
        regressor,
        fitted,
        best,
        {"r2": scores["r2"], "mape": -scores["mape"], "rmse": -scores["rmse"]},
    )


def _pipeline(regressor: str) -> Any:
    from sklearn import (  # noqa: PLC0415
        kernel_ridge,
        linear_model,
        pipeline,
        preprocessing,
        svm,
    )

    model = {
        "linear": linear_model.LinearRegression(),
        "ridge": linear_model.Ridge(),
        "kernel_ridge": kernel_ridge.KernelRidge(kernel="rbf"),
        "svr": svm.SVR(kernel="rbf"),
    }[regressor]
    return pipeline.Pipeline([("scaler", preprocessing.StandardScaler()), ("model", model)])


def _plain(
    regressor: str, fitted: Any, best: dict[str, float], scores: dict[str, float]
) -> Published:
    """All that a fitted pipeline needs to predict."""
    scaler, model = fitted["scaler"], fitted["model"]
    if regressor == "kernel_ridge":
        function: Linear | Kernel = merged_kernel(model.X_fit_, model.dual_coef_, model.gamma, 0.0)
    elif regressor == "svr":
        function = merged_kernel(
            model.support_vectors_, model.dual_coef_[0], model.gamma, model.intercept_[0]
        )
    else:
        function = Linear(model.coef_, model.intercept_)
    return Published(regressor, scaler.mean_, scaler.scale_, function, best, scores)


def merged_kernel(rows: FloatArray, weights: FloatArray, gamma: float, intercept: float) -> Kernel:
    """Bells around rows, those around the same row made one."""
    if not len(rows):
        # An SVR whose epsilon spans all targets is a constant; a bell of no height keeps the form.
        rows, weights = np.zeros((1, len(FEATURES))), np.zeros(1)
    # Repetitions of a setting share their centre: their weights add up.
    centres, which = np.unique(rows, axis=0, return_inverse=True)
    merged = np.zeros(len(centres))
    np.add.at(merged, which.ravel(), weights)
    return Kernel(centres, merged, gamma, intercept)


def _searched(regressor: object) -> dict[str, float]:
    """The settings that a regressor searches, if there is such a one."""
    if not isinstance(regressor, str) or regressor not in _SEARCHED:
        raise EstimateError(
            f"regressor={regressor!r} is unknown: it must be one of "
            f"{', '.join(get_args(Regressor))}"
        )
    return _SEARCHED[regressor]


def _function_of(regressor: object) -> type[Linear] | type[Kernel]:
    return Kernel if "gamma" in _searched(regressor) else Linear


def check_features(features: ArrayLike) -> FloatArray:
    """The ten features as floats.

    Raises:
        EstimateError: another shape than (rows, 10), or a number that is not finite.
    """
    table = as_floats(features, "features")
    if table.ndim != 2 or table.shape[1] != len(FEATURES):
        raise EstimateError(
            f"features have the shape {table.shape}: it must be (rows, {len(FEATURES)}), with the "
            f"columns {', '.join(FEATURES)}"
        )
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise EstimateError(
            f"{FEATURES[column]} in row {row} of features is {table[row, column]}: it must be "
            "finite"
        )
    return table


def _settle_numbers(model: Published, name: str, keys: Mapping[str, object]) -> None:
    """Replace named numbers of a frozen model by checked floats."""
    numbers = getattr(model, name)
    check_keys(numbers, set(keys), f"{name} of a {model.regressor} PRE model")
    for key, value in numbers.items():
        if not (is_number(value) and math.isfinite(value)):
            raise EstimateError(f"{key}={value!r} in {name} of a PRE model must be finite")
    object.__setattr__(model, name, {key: float(numbers[key]) for key in keys})
