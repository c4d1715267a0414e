"""PRE as published: against scikit-learn's own pipeline, and what is made of bad input."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
from scipy.stats import expon
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from energyest.errors import EstimateError
from energyest.estimators.regression import published
from energyest.estimators.regression.published import FEATURES, Published, Regressor, fit_published

REGRESSORS = get_args(Regressor)
SLOPES = np.arange(1.0, 11.0)


def draw_features(rows: int, seed: int = 0) -> np.ndarray:
    """Columns of very different size, as real ones are."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2.0, (rows, 10)) * [32, 128, 128, 16, 3e4, 1e4, 3, 6e3, 10, 250]


def linear_truth(features: np.ndarray) -> np.ndarray:
    return 50 + features / [32, 128, 128, 16, 3e4, 1e4, 3, 6e3, 10, 250] @ SLOPES


def smooth_truth(features: np.ndarray) -> np.ndarray:
    """Saturates with the FLOPs, and scales with the power limit."""
    return features[:, 9] * (0.3 + 0.7 * np.tanh(features[:, 6] / 3 - 1) ** 2)


def pipeline_of(model: Published) -> Pipeline:
    """Scikit-learn's own pipeline with the settings that were chosen."""
    regressor = {
        "linear": LinearRegression,
        "ridge": Ridge,
        "kernel_ridge": lambda **params: KernelRidge(kernel="rbf", **params),
        "svr": lambda **params: SVR(kernel="rbf", **params),
    }[model.regressor](**model.best_params)
    return Pipeline([("scaler", StandardScaler()), ("model", regressor)])


@pytest.fixture(scope="module")
def models() -> dict[str, Published]:
    features = draw_features(40)
    target = smooth_truth(features)
    return {name: fit_published(features, target, regressor=name, draws=8) for name in REGRESSORS}


# ---------------------------------------------------------------------- the same as scikit-learn


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_predicts_as_the_pipeline_does(models: dict[str, Published], regressor: str) -> None:
    features = draw_features(40)
    pipeline = pipeline_of(models[regressor]).fit(features, smooth_truth(features))
    elsewhere = np.concatenate([features, draw_features(300, seed=1), 3 * draw_features(5)])
    np.testing.assert_allclose(
        models[regressor].predict(elsewhere), pipeline.predict(elsewhere), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_repetitions_share_a_centre_and_predict_the_same(regressor: Regressor) -> None:
    features = np.repeat(draw_features(6), 5, axis=0)
    target = smooth_truth(features) + np.random.default_rng(2).normal(0, 3, 30)
    model = fit_published(features, target, regressor=regressor, draws=3)
    if isinstance(model.function, published.Kernel):
        assert len(model.function.centres) <= 6
    np.testing.assert_allclose(
        model.predict(features),
        pipeline_of(model).fit(features, target).predict(features),
        rtol=1e-9,
    )


def test_searches_as_published() -> None:
    """The whole search, written out once more from the paper's distributions."""
    features = draw_features(30)
    target = smooth_truth(features)
    searched = {
        "ridge": (Ridge(), {"alpha": 0.1}),
        "kernel_ridge": (KernelRidge(kernel="rbf"), {"alpha": 0.01, "gamma": 0.01}),
        "svr": (SVR(kernel="rbf"), {"C": 300, "epsilon": 1, "gamma": 0.01}),
    }
    for name, (regressor, scales) in searched.items():
        search = RandomizedSearchCV(
            Pipeline([("scaler", StandardScaler()), ("model", regressor)]),
            {f"model__{key}": expon(scale=scale) for key, scale in scales.items()},
            n_iter=10,
            cv=KFold(5, shuffle=True, random_state=3),
            scoring="r2",
            random_state=3,
        ).fit(features, target)
        model = fit_published(features, target, regressor=name, draws=10, seed=3)
        assert model.best_params == {key: search.best_params_[f"model__{key}"] for key in scales}
        assert model.cross_validation["r2"] == pytest.approx(search.best_score_)


def test_the_same_seed_gives_the_same_model() -> None:
    features = draw_features(20)
    target = smooth_truth(features)
    one, same, other = (
        fit_published(features, target, regressor="svr", draws=3, seed=seed).to_dict()
        for seed in (1, 1, 2)
    )
    assert one == same != other


def test_many_rows_are_predicted_in_parts(
    models: dict[str, Published], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, features = models["kernel_ridge"], draw_features(50)
    whole = model.predict(features)
    monkeypatch.setattr(published, "_MOST_CELLS", 3 * model.function.centres.size)
    np.testing.assert_allclose(model.predict(features), whole, rtol=1e-12)
    assert model.predict(np.empty((0, 10))).shape == (0,)


# ---------------------------------------------------------------------- known truths


@pytest.mark.parametrize("regressor", ["linear", "ridge"])
def test_recovers_a_linear_truth(regressor: Regressor) -> None:
    features = draw_features(60)
    model = fit_published(features, linear_truth(features), regressor=regressor, draws=20)
    new = draw_features(20, seed=5)
    tolerance = 1e-9 if regressor == "linear" else 0.01
    np.testing.assert_allclose(model.predict(new), linear_truth(new), rtol=tolerance)
    # Per unit of the feature, the slopes are those of the truth.
    slopes = model.function.coefficients / model.scale
    expected = SLOPES / [32, 128, 128, 16, 3e4, 1e4, 3, 6e3, 10, 250]
    np.testing.assert_allclose(slopes, expected, rtol=1e-6 if regressor == "linear" else 0.05)


def test_a_smooth_truth_suits_kernels_better() -> None:
    features, new = draw_features(120), draw_features(60, seed=9)
    # Two features carry the truth; the others stay as they are within a study.
    features[:, [0, 1, 2, 3, 4, 5, 7, 8]] = new[:, [0, 1, 2, 3, 4, 5, 7, 8]] = 5.0
    target, true = smooth_truth(features), smooth_truth(new)
    rmse, r2 = {}, {}
    for regressor in REGRESSORS:
        model = fit_published(features, target, regressor=regressor, draws=25)
        rmse[regressor] = np.sqrt(np.mean((model.predict(new) - true) ** 2))
        r2[regressor] = model.cross_validation["r2"]
    for kernel in ("kernel_ridge", "svr"):
        assert rmse[kernel] < 0.5 * min(rmse["linear"], rmse["ridge"])
        assert r2[kernel] > max(r2["linear"], r2["ridge"])


def test_cross_validation_is_that_of_the_chosen_model() -> None:
    features = draw_features(30)
    target = smooth_truth(features)
    for regressor in ("linear", "kernel_ridge"):
        model = fit_published(features, target, regressor=regressor, draws=5, seed=4)
        mape, rmse = [], []
        for train, test in KFold(5, shuffle=True, random_state=4).split(features):
            off = pipeline_of(model).fit(features[train], target[train]).predict(features[test])
            off -= target[test]
            mape.append(np.mean(np.abs(off) / target[test]))
            rmse.append(np.sqrt(np.mean(off**2)))
        assert model.cross_validation["mape"] == pytest.approx(np.mean(mape))
        assert model.cross_validation["rmse"] == pytest.approx(np.mean(rmse))


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_scaling_is_learnt_inside_the_folds(
    monkeypatch: pytest.MonkeyPatch, regressor: Regressor
) -> None:
    fitted_on = []
    fit = StandardScaler.fit

    def spy(self, X, y=None, **more):
        fitted_on.append(np.array(X))
        return fit(self, X, y, **more)

    monkeypatch.setattr(StandardScaler, "fit", spy)
    features = draw_features(25)
    fit_published(features, smooth_truth(features), regressor=regressor, draws=2)
    *in_folds, last = sorted(fitted_on, key=len)
    assert {len(rows) for rows in in_folds} == {20}
    np.testing.assert_array_equal(last, features)
    # Every fold has its own rows.
    assert len({rows.tobytes() for rows in in_folds}) == 5


def test_a_feature_that_does_not_vary_has_no_effect_where_it_stays() -> None:
    features = draw_features(20)
    features[:, 0] = 32
    model = fit_published(features, linear_truth(features), regressor="linear")
    assert model.scale[0] == 1
    assert model.function.coefficients[0] == pytest.approx(0, abs=1e-9)


def test_an_svr_without_support_is_a_constant() -> None:
    features = draw_features(20)
    # Within epsilon whatever is drawn.
    target = 7 + 1e-9 * np.arange(20)
    model = fit_published(features, target, regressor="svr", draws=2)
    assert Published.from_dict(model.to_dict()).predict(draw_features(3)) == pytest.approx(7)


# ---------------------------------------------------------------------- to JSON and back


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_survives_json(models: dict[str, Published], regressor: str) -> None:
    text = json.dumps(models[regressor].to_dict(), allow_nan=False)
    back = Published.from_dict(json.loads(text))
    features = draw_features(50, seed=7)
    np.testing.assert_array_equal(back.predict(features), models[regressor].predict(features))
    assert back.to_dict() == models[regressor].to_dict()
    assert back.best_params == models[regressor].best_params


def test_predicts_without_scikit_learn(models: dict[str, Published]) -> None:
    text = json.dumps(models["kernel_ridge"].to_dict())
    script = (
        "import json, sys\n"
        "from energyest.estimators.regression.published import Published\n"
        "model = Published.from_dict(json.loads(sys.stdin.read()))\n"
        "assert model.predict([[1] * 10]).shape == (1,)\n"
        "assert not {'sklearn', 'torch', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], input=text, text=True, check=True)


def test_holds_plain_numbers_that_cannot_be_written(models: dict[str, Published]) -> None:
    for model in models.values():
        assert all(type(value) is float for value in model.best_params.values())
        assert all(type(value) is float for value in model.cross_validation.values())
        with pytest.raises(ValueError, match="read-only"):
            model.mean[0] = 1


DAMAGE = {
    "no dict": ("kernel_ridge", lambda d: [d], "must be a dict"),
    "part missing": ("linear", lambda d: d.pop("mean"), "missing: mean"),
    "part unknown": ("linear", lambda d: d.update(extra=1), "unknown: extra"),
    "regressor": ("linear", lambda d: d.update(regressor="forest"), "'forest' is unknown"),
    "regressor no text": ("linear", lambda d: d.update(regressor=["svr"]), "is unknown"),
    "features": ("linear", lambda d: d["features"].reverse(), "in this order"),
    "short mean": ("linear", lambda d: d["mean"].pop(), r"mean .* shape \(9,\)"),
    "scale nan": ("linear", lambda d: d["scale"].__setitem__(0, float("nan")), "not finite"),
    "scale 0": ("linear", lambda d: d["scale"].__setitem__(0, 0.0), "scale .* positive"),
    "text": ("linear", lambda d: d["mean"].__setitem__(0, "1.0"), "must be an array of numbers"),
    "none": ("linear", lambda d: d["mean"].__setitem__(0, None), "must be an array of numbers"),
    "no function": ("linear", lambda d: d.update(function=None), "function .* must be a dict"),
    "other function": ("linear", lambda d: d.update(regressor="svr"), "missing: centres"),
    "coefficients": (
        "ridge",
        lambda d: d["function"]["coefficients"].append(1.0),
        r"coefficients .* shape \(11,\)",
    ),
    "intercept": ("ridge", lambda d: d["function"].update(intercept=None), "intercept=None"),
    "intercept inf": ("ridge", lambda d: d["function"].update(intercept=np.inf), "intercept=inf"),
    "weights": ("svr", lambda d: d["function"]["weights"].pop(), "weights .* shape"),
    "centres": (
        "svr",
        lambda d: d["function"].update(centres=[r[:9] for r in d["function"]["centres"]]),
        r"centres .* \(any, 10\)",
    ),
    "ragged": ("svr", lambda d: d["function"]["centres"][0].pop(), "centres .* array of numbers"),
    "gamma": ("kernel_ridge", lambda d: d["function"].update(gamma=-1.0), "gamma=-1.0"),
    "gamma true": ("kernel_ridge", lambda d: d["function"].update(gamma=True), "gamma=True"),
    "best params": ("svr", lambda d: d["best_params"].pop("C"), "missing: C"),
    "best params nan": ("ridge", lambda d: d["best_params"].update(alpha=np.nan), "alpha=nan"),
    "scores": ("linear", lambda d: d["cross_validation"].clear(), "missing: mape, r2, rmse"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_refuses_what_is_damaged(models: dict[str, Published], name: str) -> None:
    regressor, damage, message = DAMAGE[name]
    parts = copy.deepcopy(models[regressor].to_dict())
    changed = damage(parts)
    with pytest.raises(EstimateError, match=message):
        Published.from_dict(changed if name == "no dict" else parts)


def test_refuses_a_function_of_the_other_kind(models: dict[str, Published]) -> None:
    linear = models["linear"]
    with pytest.raises(EstimateError, match="cannot have a function of the type Linear"):
        Published(
            "svr",
            linear.mean,
            linear.scale,
            linear.function,
            models["svr"].best_params,
            linear.cross_validation,
        )


# ---------------------------------------------------------------------- bad input


def test_refuses_too_few_rows() -> None:
    with pytest.raises(EstimateError, match="4 rows are too few for folds=5: at least 10"):
        fit_published(draw_features(4), np.ones(4), regressor="linear")
    features = draw_features(10)
    fit_published(features, linear_truth(features), regressor="linear")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regressor": "forest"}, "regressor='forest' is unknown"),
        ({"draws": 0}, "draws=0"),
        ({"folds": 1}, "folds=1"),
        ({"folds": 2.5}, "folds=2.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_refuses_bad_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        fit_published(draw_features(20), np.ones(20), **{"regressor": "ridge", **options})


def test_names_the_number_that_is_not_finite(models: dict[str, Published]) -> None:
    features, target = draw_features(20), np.ones(20)
    features[3, FEATURES.index("GFLOPs")] = np.nan
    with pytest.raises(EstimateError, match="GFLOPs in row 3 of features is nan"):
        fit_published(features, target, regressor="linear")
    with pytest.raises(EstimateError, match="GFLOPs in row 3 of features is nan"):
        models["linear"].predict(features)
    target[7] = np.inf
    with pytest.raises(EstimateError, match="target in row 7 is inf"):
        fit_published(draw_features(20), target, regressor="linear")


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (np.ones((20, 9)), np.ones(20), r"features have the shape \(20, 9\)"),
        (np.ones(10), np.ones(20), r"features have the shape \(10,\)"),
        (np.ones((20, 10)), np.ones(19), r"target has the shape \(19,\)"),
        (np.ones((20, 10)), np.ones((20, 1)), r"target has the shape \(20, 1\)"),
        ([["a"] * 10] * 20, np.ones(20), "features must be an array of numbers"),
        ([[1] * 10, [1] * 9], np.ones(2), "features must be an array of numbers"),
        (np.ones((20, 10)), [None] * 20, "target must be an array of numbers"),
    ],
)
def test_refuses_bad_shapes(features: object, target: object, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        fit_published(features, target, regressor="linear")
