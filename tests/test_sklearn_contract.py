"""`PreModel` and `TableModel` keep what scikit-learn expects of an estimator."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from energyest.errors import EstimateError
from energyest.estimators import PreModel, TableModel
from energyest.estimators.pre.fitted import packaged
from tests.support.run_tables import runs_table

MODELS: dict[type[BaseEstimator], dict[str, Any]] = {
    PreModel: {"start": None},
    TableModel: {
        "regressor": "svr",
        "target": "epoch_energy_J",
        "draws": 7,
        "folds": 3,
        "seed": 5,
    },
}
each_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


# Those of scikit-learn's own checks that do not fit to arrays, which both models refuse; the second
# half came with scikit-learn 1.6.
CHECKS = [
    "check_no_attributes_set_in_init",
    "check_get_params_invariance",
    "check_set_params",
    "check_parameters_default_constructible",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_mixin_order",
]


@each_model
@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_checks(kind: type[BaseEstimator], check: str) -> None:
    if not hasattr(estimator_checks, check):
        pytest.skip("this scikit-learn does not have it yet")
    getattr(estimator_checks, check)(kind.__name__, kind())


@each_model
def test_settings_go_in_and_come_out(kind: type[BaseEstimator]) -> None:
    settings = MODELS[kind]
    model = kind(**settings)
    assert model.get_params() == settings
    assert clone(model).get_params() == settings
    assert kind().set_params(**settings).get_params() == settings
    assert kind().get_params().keys() == settings.keys()  # all of them differ from the defaults
    for name, value in settings.items():
        assert f"{name}={value!r}" in repr(model)
    with pytest.raises(ValueError, match="Invalid parameter 'depth'"):
        model.set_params(depth=3)


@each_model
def test_a_constructor_takes_anything_and_fit_refuses_it(kind: type[BaseEstimator]) -> None:
    for name in MODELS[kind]:
        model = kind(**{name: "nonsense"})
        assert getattr(model, name) == "nonsense"
        for learn in (model.fit, model.cross_validate):
            with pytest.raises(EstimateError, match=f"{name}='nonsense'"):
                learn(runs_table())
        with pytest.raises(NotFittedError):
            model.predict(runs_table())


@each_model
def test_what_is_not_fitted_says_so(kind: type[BaseEstimator], tmp_path: Any) -> None:
    for ask in (kind().predict, kind().save):
        for error in (NotFittedError, EstimateError):
            with pytest.raises(error) as raised:
                ask(tmp_path)
            message = f"{kind.__name__} is not fitted: call fit() or load() first"
            assert str(raised.value) == message
    assert not list(tmp_path.iterdir())


def test_a_fit_changes_no_setting_and_a_clone_forgets_it() -> None:
    model, table = TableModel("ridge", draws=3, seed=5), runs_table()
    before, columns = model.get_params(), list(table)
    assert model.fit(table) is model
    assert model.get_params() == before
    assert list(table) == columns
    learnt = {name for name in vars(model) if name not in before}
    assert learnt == {"fitted_", "training_", "best_params_", "cv_scores_"}
    assert not {name for name in vars(clone(model)) if name not in before}
    copied = pickle.loads(pickle.dumps(model))
    assert (copied.predict(table) == model.predict(table)).all()


def test_a_fit_that_fails_leaves_what_was_learnt() -> None:
    model, table = TableModel("linear").fit(runs_table()), runs_table()
    expected = model.predict(table)
    with pytest.raises(EstimateError, match="too few"):
        model.fit(table.head(3))
    assert (model.predict(table) == expected).all()


def test_a_pre_model_learns_one_thing() -> None:
    model = PreModel()
    model.fitted_ = packaged()
    assert set(vars(model)) == {"start", "fitted_"}
    assert not hasattr(clone(model), "fitted_")


def test_estimating_before_training_does_without_scikit_learn() -> None:
    script = (
        "import sys; from energyest import estimate_pre; from energyest.tradeoff import advise\n"
        "from energyest.estimators.pre.fitted import packaged; packaged()\n"
        "import energyest.estimators\n"
        "assert 'sklearn' not in sys.modules\n"
        "energyest.estimators.PreModel\n"
        "assert 'sklearn' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
