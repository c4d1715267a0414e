"""`TableModel`'s published regressions: against scikit-learn's own search, and known truths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import expon
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from energyest.estimators import TableModel
from energyest.estimators.regression.features import FEATURES

SLOPES = np.arange(1.0, 11.0)
SIZES = np.array([32, 128, 128, 16, 3e4, 1e4, 3, 6e3, 10, 250])
# Each regressor, and the means of the exponential distributions of its settings in the paper.
PUBLISHED: dict[str, tuple[Any, dict[str, float]]] = {
    "linear": (LinearRegression(), {}),
    "ridge": (Ridge(), {"alpha": 0.1}),
    "kernel_ridge": (KernelRidge(kernel="rbf"), {"alpha": 0.01, "gamma": 0.01}),
    "svr": (SVR(kernel="rbf"), {"C": 300, "epsilon": 1, "gamma": 0.01}),
}


def draw_features(rows: int, seed: int = 0) -> np.ndarray:
    """Columns of very different size, as real ones are."""
    return np.random.default_rng(seed).uniform(0.5, 2.0, (rows, 10)) * SIZES


def linear_truth(features: np.ndarray) -> np.ndarray:
    return 50 + features / SIZES @ SLOPES


def smooth_truth(features: np.ndarray) -> np.ndarray:
    """Saturates with the FLOPs, and scales with the power limit."""
    return features[:, 9] * (0.3 + 0.7 * np.tanh(features[:, 6] / 3 - 1) ** 2)


def table_of(features: np.ndarray, target: np.ndarray | None = None) -> pd.DataFrame:
    table = pd.DataFrame(features, columns=list(FEATURES))
    return table if target is None else table.assign(mean_power_W=target)


def fitted(features: np.ndarray, target: np.ndarray, regressor: Any, **settings: int) -> TableModel:
    return TableModel(regressor, **settings).fit(table_of(features, target))


def pipeline_of(model: TableModel) -> Pipeline:
    """Scikit-learn's own pipeline with the settings that were found."""
    regressor = PUBLISHED[model.regressor][0].set_params(**model.best_params_)
    return Pipeline([("scaler", StandardScaler()), ("model", regressor)])


@pytest.mark.parametrize("regressor", PUBLISHED)
def test_predicts_as_the_pipeline_does(regressor: str) -> None:
    features = np.concatenate([draw_features(30), np.repeat(draw_features(5, 2), 4, axis=0)])
    model = fitted(features, smooth_truth(features), regressor, draws=8)
    pipeline = pipeline_of(model).fit(features, smooth_truth(features))
    elsewhere = np.concatenate([features, draw_features(300, seed=1), 3 * draw_features(5)])
    predicted = model.predict(table_of(elsewhere))
    np.testing.assert_allclose(predicted, pipeline.predict(elsewhere), rtol=1e-9, atol=1e-9)
    assert model.predict(table_of(elsewhere[:0])).shape == (0,)


@pytest.mark.parametrize("regressor", PUBLISHED)
def test_searches_as_published(regressor: str) -> None:
    """The whole search, written out once more from the paper's distributions."""
    features = draw_features(30)
    target = smooth_truth(features)
    estimator, means = PUBLISHED[regressor]
    folds = KFold(4, shuffle=True, random_state=3)
    search = RandomizedSearchCV(
        Pipeline([("scaler", StandardScaler()), ("model", estimator)]),
        {f"model__{key}": expon(scale=mean) for key, mean in means.items()},
        n_iter=10 if means else 1,
        cv=folds,
        scoring="r2",
        random_state=3,
    ).fit(features, target)
    model = fitted(features, target, regressor, draws=10, folds=4, seed=3)
    assert model.best_params_ == {key: search.best_params_[f"model__{key}"] for key in means}
    assert model.cv_scores_["r2"] == pytest.approx(search.best_score_)
    mape, rmse = [], []
    for train, test in folds.split(features):
        off = pipeline_of(model).fit(features[train], target[train]).predict(features[test])
        off -= target[test]
        mape.append(np.mean(np.abs(off) / target[test]))
        rmse.append(np.sqrt(np.mean(off**2)))
    assert model.cv_scores_["mape"] == pytest.approx(np.mean(mape))
    assert model.cv_scores_["rmse"] == pytest.approx(np.mean(rmse))


def test_the_same_seed_gives_the_same_model() -> None:
    features = draw_features(20)
    one, same, other = (
        fitted(features, smooth_truth(features), "svr", draws=3, seed=seed) for seed in (1, 1, 2)
    )
    assert one.best_params_ == same.best_params_
    assert one.best_params_ != other.best_params_
    np.testing.assert_array_equal(one.predict(one.training_), same.predict(one.training_))


@pytest.mark.parametrize("regressor", ["linear", "ridge"])
def test_recovers_a_linear_truth(regressor: str) -> None:
    features = draw_features(60)
    model = fitted(features, linear_truth(features), regressor, draws=20)
    new = draw_features(20, seed=5)
    tolerance = 1e-9 if regressor == "linear" else 0.01
    np.testing.assert_allclose(model.predict(table_of(new)), linear_truth(new), rtol=tolerance)
    # Per unit of the feature, the slopes equal the true ones.
    slopes = model.fitted_["model"].coef_ / model.fitted_["scaler"].scale_
    np.testing.assert_allclose(slopes, SLOPES / SIZES, rtol=1e-6 if regressor == "linear" else 0.05)


def test_a_smooth_truth_suits_kernels_better() -> None:
    features, new = draw_features(120), draw_features(60, seed=9)
    # Two features carry the truth; the others stay as they are within a study.
    features[:, [0, 1, 2, 3, 4, 5, 7, 8]] = new[:, [0, 1, 2, 3, 4, 5, 7, 8]] = 5.0
    target, true = smooth_truth(features), smooth_truth(new)
    rmse, r2 = {}, {}
    for regressor in PUBLISHED:
        model = fitted(features, target, regressor, draws=25)
        rmse[regressor] = np.sqrt(np.mean((model.predict(table_of(new)) - true) ** 2))
        r2[regressor] = model.cv_scores_["r2"]
    for kernel in ("kernel_ridge", "svr"):
        assert rmse[kernel] < 0.5 * min(rmse["linear"], rmse["ridge"])
        assert r2[kernel] > max(r2["linear"], r2["ridge"])


@pytest.mark.parametrize("regressor", PUBLISHED)
def test_scaling_is_learnt_inside_the_folds(
    monkeypatch: pytest.MonkeyPatch, regressor: str
) -> None:
    fitted_on = []
    fit = StandardScaler.fit

    def spy(self, X, y=None, **more):
        fitted_on.append(np.array(X))
        return fit(self, X, y, **more)

    monkeypatch.setattr(StandardScaler, "fit", spy)
    features = draw_features(25)
    fitted(features, smooth_truth(features), regressor, draws=2)
    in_folds = {rows.tobytes() for rows in fitted_on if len(rows) == 20}
    assert len(in_folds) == 5  # every fold has its own rows
    for rows in (rows for rows in fitted_on if len(rows) != 20):
        np.testing.assert_array_equal(rows, features)


def test_a_feature_that_does_not_vary_has_no_effect_where_it_stays() -> None:
    features = draw_features(20)
    features[:, 0] = 32
    model = fitted(features, linear_truth(features), "linear")
    assert model.fitted_["scaler"].scale_[0] == 1
    assert model.fitted_["model"].coef_[0] == pytest.approx(0, abs=1e-9)


def test_an_svr_without_support_is_a_constant() -> None:
    # Within epsilon whatever is drawn.
    model = fitted(draw_features(20), 7 + 1e-9 * np.arange(20), "svr", draws=2)
    assert model.predict(table_of(draw_features(3))) == pytest.approx(7)


@pytest.mark.parametrize("regressor", ["linear", "svr"])
def test_energies_are_fitted_in_kilojoules(regressor: Any) -> None:
    features = draw_features(20)
    energy_J = 100 * smooth_truth(features)
    in_kJ = fitted(features, energy_J / 1e3, regressor, draws=3, seed=2)
    model = TableModel(regressor, "epoch_energy_J", draws=3, seed=2)
    model.fit(table_of(features).assign(epoch_energy_J=energy_J))
    assert model.best_params_ == in_kJ.best_params_
    new = table_of(draw_features(9, seed=1))
    np.testing.assert_allclose(model.predict(new), 1e3 * in_kJ.predict(new))
