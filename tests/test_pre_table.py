"""`TableModel`: known truths, files, groups and bad input; and `power_share`'s interval."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

from energyest.errors import EstimateError
from energyest.estimators.cross_validation import CrossValidation, group_labels
from energyest.estimators.regression import table_model
from energyest.estimators.regression.features import FEATURES
from energyest.estimators.regression.table_model import Regressor, TableModel
from tests.support.run_tables import INTERCEPT, SLOPE, runs_table

REGRESSORS = get_args(Regressor)
NOT_FITTED = r"^TableModel is not fitted: call fit\(\) or load\(\) first$"


def fitted(regressor: Regressor, table: pd.DataFrame | None = None) -> TableModel:
    return TableModel(regressor, draws=4).fit(runs_table() if table is None else table)


@pytest.fixture(scope="module")
def models() -> dict[str, TableModel]:
    return {name: fitted(name) for name in REGRESSORS}


# ---------------------------------------------------------------------- known truths


def test_power_share_recovers_the_truth() -> None:
    table = runs_table()
    model = fitted("power_share", table[table["gpu"] != "C"])
    assert model.fitted_.line.params == pytest.approx([INTERCEPT, SLOPE])
    unseen = table[table["gpu"] == "C"]
    np.testing.assert_allclose(model.predict(unseen), unseen["mean_power_W"])


def test_power_share_ends_at_the_limit() -> None:
    table = runs_table(deviation=0.1)
    model = fitted("power_share", table)
    heavy = table.assign(GFLOPs=1e9)
    limit_W = table["gpu_power_limit_W"].to_numpy(float)
    np.testing.assert_array_equal(model.predict(heavy), limit_W)
    lower, upper = model.predict_interval(heavy)
    np.testing.assert_array_equal(upper, limit_W)
    assert np.all(lower < limit_W)  # the clipped prediction is no certainty


def test_power_share_needs_three_columns_alone() -> None:
    table = runs_table()
    few = table[["batch_size", "GFLOPs", "gpu_power_limit_W", "mean_power_W"]]
    np.testing.assert_allclose(fitted("power_share", few).predict(few), table["mean_power_W"])


def test_interval_is_that_of_ordinary_least_squares() -> None:
    table = runs_table(repetitions=1, deviation=0.2)
    x = np.log(table["GFLOPs"] * table["batch_size"]).to_numpy()
    y = np.log(table["mean_power_W"] / table["gpu_power_limit_W"]).to_numpy()
    predicted = sm.OLS(y, sm.add_constant(x)).fit().get_prediction(sm.add_constant(x))
    ends = predicted.conf_int(obs=True, alpha=0.2)
    low, high = fitted("power_share", table).predict_interval(table, 0.8)
    limit_W = table["gpu_power_limit_W"].to_numpy()
    np.testing.assert_allclose(low, limit_W * np.exp(ends[:, 0]))
    np.testing.assert_allclose(high, np.minimum(limit_W * np.exp(ends[:, 1]), limit_W))


def width(table: pd.DataFrame, confidence: float = 0.9, asked: pd.DataFrame | None = None) -> float:
    """Factor from the prediction down to the lower end, the mean of the rows asked."""
    model = fitted("power_share", table)
    rows = runs_table(seed=9) if asked is None else asked
    lower, _ = model.predict_interval(rows, confidence)
    return float(np.mean(model.predict(rows) / lower))


def test_interval_is_wider_for_few_runs() -> None:
    few = np.mean(
        [
            width(
                runs_table(1, deviation=0.2, seed=s).assign(GFLOPs=[0.1, 0.1, 0.5, 0.5, 2, 2, 9, 9])
            )
            for s in range(20)
        ]
    )
    many = np.mean([width(runs_table(20, deviation=0.2, seed=s)) for s in range(20)])
    assert few > 1.1 * many


def test_interval_is_wider_for_more_confidence_and_further_away() -> None:
    table = runs_table(deviation=0.1)
    assert width(table, 0.5) < width(table, 0.9) < width(table, 0.99)
    assert width(table) < width(table, asked=table.assign(GFLOPs=1e-6))


def test_three_settings_and_near_certainty_give_an_interval_all_the_same() -> None:
    table = (
        runs_table()
        .iloc[:3]
        .assign(batch_size=[1, 2, 4], GFLOPs=[1.0, 2.0, 5.0], mean_power_W=[20.0, 55.0, 40.0])
    )
    model = fitted("power_share", table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower, upper = model.predict_interval(table, 1 - 1e-9)
    assert (lower < 1e-9).all()
    assert upper == pytest.approx(table["gpu_power_limit_W"].to_numpy())


def test_repetitions_do_not_feign_certainty() -> None:
    once = runs_table(repetitions=1, deviation=0.2)
    often = pd.concat([once] * 15, ignore_index=True)
    assert width(often) == pytest.approx(width(once))
    assert width(runs_table(repetitions=15, repetition=0.3)) > 1.4


@pytest.mark.parametrize("groups", ["model", "gpu"])
def test_interval_holds_as_often_as_it_says(groups: Any) -> None:
    covered = [
        TableModel("power_share")
        .cross_validate(runs_table(5, 3, deviation=0.12, repetition=0.03, seed=seed), groups)
        .coverage
        for seed in range(15)
    ]
    assert 0.85 <= np.mean(covered) <= 0.95


def test_gaussian_process_learns_the_settings_it_saw() -> None:
    table = runs_table(8, 4, deviation=0.3, repetition=0.01)
    validated = TableModel("gaussian_process").cross_validate(table, None)
    assert validated.errors().mean() < 0.03
    assert validated.coverage is None
    # Far from all runs: their geometric mean.
    model = fitted("gaussian_process", table)
    nowhere = table.head(1).assign(**dict.fromkeys(FEATURES, 1e9))
    expected = np.exp(np.log(table["mean_power_W"]).mean())
    assert model.predict(nowhere) == pytest.approx(expected)


def test_gaussian_process_predicts_as_scikit_learn_does() -> None:
    table = runs_table(5, 2, deviation=0.2, repetition=0.05)
    model = fitted("gaussian_process", table)
    rows = table[list(FEATURES)].to_numpy(float)
    rows[:, FEATURES.index("GFLOPs")] = np.log(rows[:, FEATURES.index("GFLOPs")])
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-9)
    target = np.log(table["mean_power_W"].to_numpy())
    process = GaussianProcessRegressor(
        kernels.ConstantKernel() * kernels.RBF() + kernels.WhiteKernel(1e-2, (1e-6, 1.0)),
        normalize_y=True,
        n_restarts_optimizer=1,
        random_state=0,
    ).fit(rows, target)
    np.testing.assert_allclose(model.predict(table), np.exp(process.predict(rows)), rtol=1e-6)


# ---------------------------------------------------------------------- cross-validation


@pytest.mark.parametrize("groups", ["model", "gpu", None])
def test_cross_validation_leaves_groups_out(groups: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = runs_table(deviation=0.1).sample(frac=1, random_state=1)
    learnt: list[pd.DataFrame] = []
    fit = TableModel.fit

    def spy(self: TableModel, rows: pd.DataFrame) -> TableModel:
        learnt.append(rows)
        return fit(self, rows)

    monkeypatch.setattr(TableModel, "fit", spy)
    model = TableModel("power_share")
    validated = model.cross_validate(table, groups)
    assert not hasattr(model, "fitted_")  # the model itself has learnt nothing
    assert len(learnt) == {"model": 6, "gpu": 4, None: 5}[groups]
    assert sum(len(table) - len(rows) for rows in learnt) == len(table)
    if groups:
        assert all(table[groups].nunique() - rows[groups].nunique() == 1 for rows in learnt)
    # A row a run, in the order of the table.
    assert list(validated.table.columns) == [
        *("model", "gpu", "measured_mean_power_W", "predicted_mean_power_W"),
        *("mean_power_W_lower", "mean_power_W_upper"),
    ]
    pd.testing.assert_index_equal(validated.table.index, table.index)
    assert (validated.table["model"] == table["model"]).all()
    assert (validated.table["measured_mean_power_W"] == table["mean_power_W"]).all()
    text = str(validated)
    assert "mean_power_W" in text
    assert ("random fifths" if groups is None else f"unseen {groups}") in text
    assert "90 % interval covers" in text


def test_random_fifths_need_no_names() -> None:
    table = runs_table().drop(columns=["model", "gpu"])
    validated = TableModel("power_share").cross_validate(table, None)
    assert validated.errors().max() < 1e-9
    with pytest.raises(EstimateError, match="lacks the column gpu to group by"):
        TableModel("power_share").cross_validate(table, "gpu")


def test_a_regression_on_ten_features_falls_apart_for_an_unseen_gpu() -> None:
    table = runs_table(deviation=0.05)
    share = TableModel("power_share").cross_validate(table, "gpu").errors().mean()
    kernel = TableModel("kernel_ridge", draws=5).cross_validate(table, "gpu")
    assert kernel.errors().mean() > 3 * share
    assert "interval" not in str(kernel)


def test_cross_validation_refuses_what_it_cannot_group() -> None:
    table, model = runs_table(), TableModel("power_share")
    with pytest.raises(EstimateError, match="groups='host' must be"):
        model.cross_validate(table, "host")  # type: ignore[arg-type]
    with pytest.raises(EstimateError, match="at least two gpus"):
        model.cross_validate(table[table["gpu"] == "A"], "gpu")
    table.loc[3, "gpu"] = None
    with pytest.raises(EstimateError, match="row 3 has no gpu"):
        model.cross_validate(table, "gpu")
    with pytest.raises(EstimateError, match="confidence=1"):
        model.cross_validate(table, "model", confidence=1)


def test_validation_of_several_quantities() -> None:
    table = pd.DataFrame(
        {
            **{"model": ["a", "b"], "gpu": ["x", "x"]},
            **{"measured_energy_J": [1.0, 2.0], "predicted_energy_J": [1.1, 1.0]},
            **{"energy_J_lower": [0.5, 0.5], "energy_J_upper": [1.5, 1.5]},
            **{"measured_step_s": [1.0, 1.0], "predicted_step_s": [2.0, 1.0]},
        }
    )
    validated = CrossValidation(table, 0.9, "model")
    assert validated.quantities == ("energy_J", "step_s")
    np.testing.assert_allclose(validated.errors(), [0.1, 0.5])
    np.testing.assert_allclose(validated.errors("step_s"), [1, 0])
    assert validated.coverage == 0.5
    with pytest.raises(EstimateError, match="'watts' must be one of energy_J, step_s"):
        validated.errors("watts")


def test_labels_are_those_of_the_groups() -> None:
    assert group_labels("model", ["a", "b"], ["x", "x"]) == ["a", "b"]
    fifths = group_labels(None, [""] * 10, [""] * 10)
    assert sorted(fifths) == sorted("0011223344")
    assert fifths == group_labels(None, [""] * 10, [""] * 10)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("regressor", REGRESSORS)
def test_survives_a_file(models: dict[str, TableModel], regressor: str, tmp_path: Path) -> None:
    model, table = models[regressor], runs_table(seed=3)
    model.save(tmp_path / "model.json")
    back = TableModel.load(tmp_path / "model.json")
    np.testing.assert_array_equal(back.predict(table), model.predict(table))
    assert back.get_params() == model.get_params()
    assert (back.best_params_, back.cv_scores_) == (model.best_params_, model.cv_scores_)
    pd.testing.assert_frame_equal(back.training_, model.training_, check_dtype=False)
    if regressor == "power_share":
        np.testing.assert_array_equal(back.predict_interval(table), model.predict_interval(table))
    back.save(tmp_path / "again.json")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again == json.loads((tmp_path / "model.json").read_text())


def test_names_that_tell_settings_apart_survive_a_file(tmp_path: Path) -> None:
    """Models of equal FLOPs are settings of their own, with a name or without one."""
    table = runs_table(deviation=0.2).assign(batch_size=32, GFLOPs=2.0)
    table.loc[table["gpu"] == "A", "GFLOPs"] = 1.0
    table.loc[table["model"] == "model 2", "model"] = None
    model = fitted("power_share", table)
    assert model.fitted_.line.nobs == 6 * 4
    model.save(tmp_path / "model.json")
    back = TableModel.load(tmp_path / "model.json")
    np.testing.assert_array_equal(back.predict_interval(table), model.predict_interval(table))
    assert fitted("power_share", table.drop(columns=["model", "gpu"])).fitted_.line.nobs == 4


def test_a_file_is_loaded_without_a_search(
    models: dict[str, TableModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it searches")

    monkeypatch.setattr(table_model, "search", refuse)
    monkeypatch.setattr("scipy.optimize.minimize", refuse)
    for name, model in models.items():
        model.save(tmp_path / f"{name}.json")
        TableModel.load(tmp_path / f"{name}.json")
    with pytest.raises(AssertionError, match="it searches"):
        fitted("linear")


Damage = Callable[[dict[str, Any]], object]
DAMAGE: dict[str, tuple[Regressor, Damage, str]] = {
    "other kind": ("linear", lambda d: d.update(kind="energyest PRE model"), "no table model"),
    "older": ("linear", lambda d: d.update(format=1), "format 1; this version reads 2: fit it"),
    "part missing": ("linear", lambda d: d.pop("cv_scores"), "damaged: a table model must have"),
    "no settings": (
        "linear",
        lambda d: d.update(settings=[]),
        "exactly the parts",
    ),
    "setting unknown": ("linear", lambda d: d["settings"].update(a=1), "settings must have"),
    "regressor": ("linear", lambda d: d["settings"].update(regressor="forest"), "'forest' must"),
    "unhashable": ("linear", lambda d: d["settings"].update(regressor=["svr"]), "must be one of"),
    "target": ("power_share", lambda d: d["settings"].update(target="epoch_energy_J"), "damaged"),
    "seed": ("linear", lambda d: d["settings"].update(seed=-1), "damaged.*seed"),
    "found missing": ("svr", lambda d: d["best_params"].pop("C"), "exactly the parts C"),
    "found text": ("ridge", lambda d: d["best_params"].update(alpha="1"), "alpha='1' must lie"),
    "found large": ("svr", lambda d: d["best_params"].update(C=1e9), "C=1000000000.0 must lie"),
    "scores": ("linear", lambda d: d["cv_scores"].clear(), "exactly the parts r2, mape, rmse"),
    "no table": ("linear", lambda d: d.update(training=[]), "training must be a dict"),
    "column": ("linear", lambda d: d["training"].pop("GFLOPs"), "lacks the column GFLOPs"),
    "short": ("linear", lambda d: d["training"]["GFLOPs"].pop(), "same length"),
    "none": ("linear", lambda d: d["training"]["GFLOPs"].__setitem__(0, None), "GFLOPs in row 0"),
    "nested": ("svr", lambda d: d["training"]["GFLOPs"].__setitem__(0, [1]), "hold numbers"),
    "huge": ("linear", lambda d: d["training"]["GFLOPs"].__setitem__(0, 1e300), "1e-15 to 1e"),
    "tiny": ("linear", lambda d: d["training"]["GFLOPs"].__setitem__(1, 1e-300), "row 1 is 1e-300"),
    "names": ("power_share", lambda d: d["training"]["gpu"].__setitem__(0, "A"), "column gpu must"),
    "one setting": (
        "power_share",
        lambda d: d["training"].update(GFLOPs=[1.0] * 48, batch_size=[8] * 48),
        "damaged: power_share needs",
    ),
    "too many rows": (
        "linear",
        lambda d: d.update(training={name: v * 50 for name, v in d["training"].items()}),
        "has 2400 rows: at most 2000",
    ),
    "no rows": ("svr", lambda d: [v.clear() for v in d["training"].values()], "damaged: .* 0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_refuses_a_damaged_file(models: dict[str, TableModel], name: str, tmp_path: Path) -> None:
    regressor, damage, message = DAMAGE[name]
    file = tmp_path / "model.json"
    models[regressor].save(file)
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(EstimateError, match=message):
        TableModel.load(file)


def test_numbers_that_cannot_be_fitted_are_damage(
    models: dict[str, TableModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def singular(*_: object) -> None:
        raise np.linalg.LinAlgError("the kernel is singular")

    models["gaussian_process"].save(tmp_path / "model.json")
    monkeypatch.setattr(GaussianProcessRegressor, "fit", singular)
    with pytest.raises(EstimateError, match=r"model.json is damaged: the kernel is singular"):
        TableModel.load(tmp_path / "model.json")


def test_no_settings_take_long_to_fit(tmp_path: Path) -> None:
    """Those of this file would take the solver of SVR some million iterations."""
    draw = np.random.default_rng(0).uniform
    table = pd.DataFrame(draw(1, 2, (200, 11)), columns=[*FEATURES, "mean_power_W"])
    file = tmp_path / "model.json"
    TableModel("svr", draws=1).fit(table).save(file)
    content = json.loads(file.read_text())
    content["best_params"] = {"C": 1e5, "epsilon": 1e-9, "gamma": 1e-3}
    file.write_text(json.dumps(content))
    with pytest.warns(ConvergenceWarning):
        model = TableModel.load(file)
    assert model.fitted_["model"].n_iter_ == 100_000


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"kind": "energyest table', "null"])
def test_refuses_a_file_of_something_else(text: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    file.write_text(text)
    with pytest.raises(EstimateError):
        TableModel.load(file)
    with pytest.raises(FileNotFoundError):
        TableModel.load(tmp_path / "none.json")


def test_what_is_not_fitted_neither_predicts_nor_is_saved(tmp_path: Path) -> None:
    model = TableModel("power_share")
    for act in (model.predict, model.predict_interval):
        with pytest.raises(EstimateError, match=NOT_FITTED):
            act(runs_table())
    with pytest.raises(EstimateError, match=NOT_FITTED):
        model.save(tmp_path / "model.json")


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regressor": "forest"}, "regressor='forest' must be one of linear, ridge"),
        ({"target": "joules"}, "target='joules' must be one of"),
        ({"regressor": "power_share", "target": "epoch_energy_J"}, "only predicts mean_power_W"),
        ({"draws": 0}, "draws=0"),
        ({"folds": 1}, "folds=1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"seed": 2**32}, r"below 2\*\*32"),
    ],
)
def test_refuses_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        TableModel(**options).fit(runs_table())


@pytest.mark.parametrize("regressor", ["power_share", "gaussian_process"])
@pytest.mark.parametrize("GFLOPs", [0.0, -1.0, np.nan])
def test_refuses_flops_that_were_not_counted(
    models: dict[str, TableModel], regressor: Any, GFLOPs: float
) -> None:
    table = runs_table()
    table.loc[2, "GFLOPs"] = GFLOPs
    with pytest.raises(EstimateError, match="GFLOPs in row 2"):
        TableModel(regressor).fit(table)
    with pytest.raises(EstimateError, match="GFLOPs in row 2"):
        models[regressor].predict(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["GFLOPs", "ram_GB"]), "lacks the columns ram_GB, GFLOPs"),
        (lambda t: t.drop(columns="mean_power_W"), "lacks the column mean_power_W"),
        (lambda t: t.assign(mean_power_W=0.0), "mean_power_W in row 0 is 0: .* positive"),
        (lambda t: t.assign(cuda_cores=np.inf), "cuda_cores in row 0 is inf"),
        (lambda t: t.assign(ram_GB="16"), "column ram_GB must hold numbers"),
        (lambda t: t.assign(ram_GB=[None] * len(t)), "column ram_GB must hold numbers"),
        (lambda t: t.assign(ram_GB=pd.array([1, None] * 24)), "ram_GB in row 1 is nan"),
        (lambda t: t.assign(cuda_cores=-1e16), "cuda_cores in row 0 is -1e\\+16"),
        (lambda t: pd.concat([t] * 50), "has 2400 rows: at most 2000"),
        (lambda t: t.head(9), "9 rows are too few for folds=5: at least 10"),
        (lambda t: t.head(0), "too few"),
        (lambda t: t.to_dict("records"), "is a list: it must be a DataFrame"),
        (lambda t: pd.concat([t, t[["GFLOPs"]]], axis=1), "more than one column GFLOPs"),
    ],
)
def test_refuses_a_bad_table(change: Callable[[pd.DataFrame], Any], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        TableModel("linear").fit(change(runs_table()))


def test_refuses_too_little_for_a_line_or_a_process() -> None:
    table = runs_table(repetitions=5)
    with pytest.raises(EstimateError, match=r"at least 3 settings .*: there are 2"):
        fitted("power_share", table.head(10))
    with pytest.raises(EstimateError, match="differ in GFLOPs"):
        fitted("power_share", table.assign(GFLOPs=1.0, batch_size=8))
    with pytest.raises(EstimateError, match="two runs or more"):
        fitted("gaussian_process", table.head(1))
    with pytest.raises(EstimateError, match=r"at least 3 settings .*: there are 0"):
        fitted("power_share", table.head(0))


def test_only_power_share_gives_an_interval(models: dict[str, TableModel]) -> None:
    for name in set(REGRESSORS) - {"power_share"}:
        with pytest.raises(EstimateError, match=f"{name} has no interval"):
            models[name].predict_interval(runs_table())


def test_many_groups_are_left_out_several_at_a_time() -> None:
    models = [f"net{index % 30:02}" for index in range(90)]
    labels = group_labels("model", models, ["x"] * 90)
    assert len(set(labels)) == 10
    # All runs of a model lie in one part, and every part holds three models.
    assert len(set(zip(models, labels, strict=True))) == 30
    assert {labels.count(label) for label in labels} == {9}
