"""`TableModel`: learns from a table with a few numbers per run, without known operations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from energyest.arrays import FloatArray
from energyest.checks import check_confidence, check_count, is_number
from energyest.errors import EstimateError
from energyest.estimators.cross_validation import CrossValidation, Groups, group_labels
from energyest.estimators.not_fitted import check_fitted
from energyest.estimators.regression.features import (
    FEATURES,
    check_columns,
    number_column,
)
from energyest.estimators.regression.pipelines import (
    LEAST_SETTING,
    MOST_SETTING,
    SCORES,
    SETTINGS,
    make_pipeline,
    search,
)
from energyest.estimators.regression.power_share import SHARED, PowerShare
from energyest.records import safe_json

Regressor = Literal["linear", "ridge", "kernel_ridge", "svr", "gaussian_process", "power_share"]
Target = Literal["mean_power_W", "epoch_energy_J"]

_FORMAT = 2
_KIND = "table model"
# Repetitions of a setting must also agree in these columns, if present.
_NAMES = ("model", "gpu")
# SVR's search range suits numbers of the magnitude of the paper's targets: W, and kJ per epoch.
_UNIT = {"mean_power_W": 1.0, "epoch_energy_J": 1e3}
# A kernel of more rows would take gigabytes of memory, and minutes to load.
_MOST_ROWS = 2_000


class TableModel(BaseEstimator):
    """PRE from a few numbers per run: the published regressions and two further ones.

    The published ones (`linear`, `ridge`, `kernel_ridge`, `svr`) and `gaussian_process` learn from
    the ten `FEATURES` of the paper; see `pipelines.search`. They interpolate between measured
    settings. For a GPU or a model that no run has, their errors become very large: on the authors'
    150 public runs, mean power by kernel ridge is then off by 84 to 86 %.

    `power_share` is meant for that case, and predicts only mean power: the share of the GPU's power
    limit grows with a power of GFLOPs × batch size, up to the limit. It needs three of the
    features, is off by about 12 % on left-out GPUs and models of the same runs, and is the only one
    with an interval. It has two limitations. First, the level differs between classes of GPUs: 79
    runs on an H100 and an H200 draw about 0.6 times the share that consumer GPUs draw for the same
    FLOPs, and an interval fitted to the latter covers a quarter of them. Fit it to runs similar to
    yours. Second, it ignores precision, data loading and memory traffic: fitted to such runs in all
    precisions, it is off by 24 % on unseen models, and its 90 % interval covers 91 %. If operations
    are known, `PreModel` is more accurate.

    It follows scikit-learn's conventions, but takes a whole table, of which the target is a column.

    Args:
        regressor: "linear", "ridge", "kernel_ridge", "svr", "gaussian_process" or "power_share".
        target: "mean_power_W", the mean power of the GPU over a training; or "epoch_energy_J".
        draws: number of random settings that `ridge`, `kernel_ridge` and `svr` try; 100 as
            published.
        folds: number of cross-validation folds for their scores and those of `linear`.
        seed: seed of draws and folds, from 0 to 2**32 - 1; the same seed gives the same model.

    Attributes:
        fitted_: the fitted scikit-learn pipeline, or a `PowerShare`.
        best_params_: the settings that the search found, name -> number; empty for `linear` and
            `power_share`.
        cv_scores_: `r2`, `mape` (1 is 100 %) and `rmse` (in W or kJ) of a published regressor over
            its folds, see `pipelines.search`; empty for the others.
        training_: the training data, as a DataFrame.

    Examples:
        >>> from energyest.estimators import TableModel
        >>> model = TableModel('power_share').fit(table)  # the paper's columns
        >>> model.predict(table.head(2)).shape
        (2,)
    """

    def __init__(
        self,
        regressor: Regressor = "kernel_ridge",
        target: Target = "mean_power_W",
        *,
        draws: int = 100,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.regressor = regressor
        self.target = target
        self.draws = draws
        self.folds = folds
        self.seed = seed

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that the model predicts from."""
        return SHARED if self.regressor == "power_share" else FEATURES

    # ------------------------------------------------------------------ fitting

    def fit(self, table: pd.DataFrame) -> TableModel:
        """Fit the model to finished trainings.

        Args:
            table: one row per run, 2000 at most: the `columns`, in the units in their names, and
                the target, positive. `power_share` treats runs as repetitions of one setting if
                they agree in its columns, and in `model` and `gpu` if present.

        Returns:
            The model itself.

        Raises:
            EstimateError: a setting of the model is invalid; a column is missing, or holds
                something other than finite numbers from 1e-15 to 1e15 in magnitude; the target is
                not positive; GFLOPs are not positive for `power_share` or `gaussian_process`; or
                there are too many or too few runs (at least two per fold for the published
                regressors, two for `gaussian_process`, three settings for `power_share`).
        """
        self._check_settings()
        training = self._training(table)
        if self.regressor == "power_share":
            return self._refit(training, {}, {})
        settings, scores = search(
            self.regressor,
            *self._known(training),
            draws=self.draws,
            folds=self.folds,
            seed=self.seed,
        )
        return self._refit(training, settings, scores)

    def _refit(
        self, training: pd.DataFrame, settings: dict[str, float], scores: dict[str, float]
    ) -> TableModel:
        """Fit with given settings: the last step of `fit`, and the only one of `load`."""
        features, target = self._known(training)
        if self.regressor == "power_share":
            alike = [name for name in training if name != self.target]
            setting = training.groupby(alike, sort=False).ngroup().to_numpy()
            fitted: Any = PowerShare.fit(features, target, setting)
        else:
            fitted = make_pipeline(self.regressor, settings).fit(features, target)
        self.fitted_, self.training_ = fitted, training
        self.best_params_, self.cv_scores_ = settings, scores
        return self

    def cross_validate(
        self, table: pd.DataFrame, groups: Groups = "model", *, confidence: float = 0.9
    ) -> CrossValidation:
        """Predict each run with a model that was fitted without the run's group.

        Args:
            table: as for `fit`, with a column `model` or `gpu` to group by.
            groups: "model" or "gpu" to leave out all runs of one model or GPU together; None for
                random fifths, which put repetitions of a setting on both sides.
            confidence: coverage probability of the interval.

        Returns:
            The result, whose table has the rows of this one in the same order.

        Raises:
            EstimateError: there are fewer than two groups, or as `fit` for the remaining runs.
        """
        self._check_settings()
        check_confidence(confidence, EstimateError)
        measured = self._training(table)[self.target].to_numpy()
        if groups in _NAMES:
            _check_names(table, groups)
        named = {
            name: [str(value) for value in table[name]] if name in table else [""] * len(table)
            for name in _NAMES
        }
        labels = np.array(group_labels(groups, named["model"], named["gpu"]))
        found = pd.DataFrame({**named, f"measured_{self.target}": measured}, index=table.index)
        for label in sorted(set(labels)):
            left = labels == label
            model = clone(self).fit(table[~left])
            found.loc[left, f"predicted_{self.target}"] = model.predict(table[left])
            if self.regressor == "power_share":
                lower, upper = model.predict_interval(table[left], confidence)
                found.loc[left, f"{self.target}_lower"] = lower
                found.loc[left, f"{self.target}_upper"] = upper
        return CrossValidation(found, confidence, groups)

    # ------------------------------------------------------------------ predicting

    def predict(self, table: pd.DataFrame) -> FloatArray:
        """Predict the target of each row, of shape (n,), in W or J.

        Args:
            table: table with the model's `columns`.

        Raises:
            NotFittedError: the model was not fitted; it is an EstimateError too.
            EstimateError: a column is missing, or holds something other than finite numbers.
        """
        check_fitted(self)
        features = self._features(table)
        if not len(features):
            return np.empty(0)
        predicted: FloatArray = _UNIT[self.target] * self.fitted_.predict(features)
        return predicted

    def predict_interval(
        self, table: pd.DataFrame, confidence: float = 0.9
    ) -> tuple[FloatArray, FloatArray]:
        """Prediction interval of the mean power of a single run, also for unseen GPUs and models.

        It ends at the power limit. For left-out GPUs and models of the authors' 150 public runs,
        the 90 % interval covered 90 % and 87 % of the runs; these are only ten settings, so that
        one setting changes the coverage by ten percentage points.

        Args:
            table: table with the model's `columns`.
            confidence: coverage probability of the interval.

        Returns:
            Lower and upper end in W, each of shape (n,).

        Raises:
            EstimateError: the regressor is not `power_share`; or as `predict`.
        """
        check_confidence(confidence, EstimateError)
        check_fitted(self)
        if not isinstance(self.fitted_, PowerShare):
            raise EstimateError(f"{self.regressor} has no interval; only power_share has one")
        return self.fitted_.interval(self._features(table), confidence)

    # ------------------------------------------------------------------ files

    def save(self, path: safe_json.AnyPath) -> None:
        """Write the model's settings and training data as JSON, without executable code.

        Raises:
            NotFittedError: the model was not fitted; it is an EstimateError too.
            OSError: the file cannot be written, or exists and was not written by `save`.
        """
        check_fitted(self)
        content = {
            "kind": f"energyest {_KIND}",
            "format": _FORMAT,
            "settings": self.get_params(),
            "best_params": self.best_params_,
            "cv_scores": self.cv_scores_,
            "training": self.training_.to_dict("list"),
        }
        safe_json.write_json(path, content)

    @classmethod
    def load(cls, path: safe_json.AnyPath) -> TableModel:
        """Read a file written by `save`, and fit the model again with the stored settings.

        Raises:
            EstimateError: the file is not such a model, is damaged, or has another version.
            FileNotFoundError: the file does not exist.
        """
        content = safe_json.read_json(path)
        safe_json.check_kind(content, _KIND, _FORMAT, str(path))
        try:
            return cls._from_dict(content)
        # scikit-learn raises ValueError for numbers that are in range but cannot be fitted.
        except ValueError as error:
            raise EstimateError(f"{path} is damaged: {error}") from error

    @classmethod
    def _from_dict(cls, content: Mapping[str, Any]) -> TableModel:
        parts = ("settings", "best_params", "cv_scores", "training")
        _check_keys(content, ("kind", "format", *parts), "a table model")
        settings, best_params, cv_scores, training = (content[part] for part in parts)
        _check_keys(settings, cls().get_params(), "settings")
        model = cls(**settings)
        model._check_settings()
        _check_keys(best_params, SETTINGS[model.regressor], "best_params")
        _check_keys(cv_scores, SCORES[model.regressor], "cv_scores")
        for name, value in [*best_params.items(), *cv_scores.items()]:
            low, high = (LEAST_SETTING, MOST_SETTING) if name in best_params else (-np.inf, np.inf)
            if not (is_number(value) and low <= value <= high):
                raise EstimateError(f"{name}={value!r} must lie between {low:g} and {high:g}")
        if not isinstance(training, dict):
            raise EstimateError(f"training must be a dict, not a {type(training).__name__}")
        table = pd.DataFrame(training)
        for name in (name for name in _NAMES if name in table):
            number_column(table, name)
        return model._refit(model._training(table), best_params, cv_scores)

    # ------------------------------------------------------------------ inside

    def _check_settings(self) -> None:
        for name, value, known in (
            ("regressor", self.regressor, get_args(Regressor)),
            ("target", self.target, get_args(Target)),
        ):
            if value not in known:
                raise EstimateError(f"{name}={value!r} must be one of {', '.join(known)}")
        if self.regressor == "power_share" and self.target != "mean_power_W":
            raise EstimateError(
                f"power_share only predicts mean_power_W, not {self.target}: multiply its power by "
                "the duration of an epoch, or choose another regressor"
            )
        check_count(self.draws, "draws", EstimateError)
        check_count(self.folds, "folds", EstimateError, least=2)
        if check_count(self.seed, "seed", EstimateError, least=0) >= 2**32:
            raise EstimateError(f"seed={self.seed} must be below 2**32")

    def _training(self, table: pd.DataFrame) -> pd.DataFrame:
        """The training data: the columns, the target, and names as integers."""
        features = self._features(table)
        training: pd.DataFrame = pd.DataFrame(features, columns=list(self.columns))
        training[self.target] = number_column(table, self.target, positive=True)
        if len(table) > _MOST_ROWS:
            raise EstimateError(
                f"the table has {len(table)} rows: at most {_MOST_ROWS} are supported"
            )
        if self.regressor == "power_share":
            for name in (name for name in _NAMES if name in table):
                training[name] = pd.factorize(table[name], use_na_sentinel=False)[0]
        return training

    def _known(self, training: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
        """The features, and the target in the unit of the fit."""
        target = training[self.target].to_numpy(float) / _UNIT[self.target]
        return training[list(self.columns)].to_numpy(float), target

    def _features(self, table: pd.DataFrame) -> FloatArray:
        """The columns that the model predicts from, of shape (n, columns)."""
        check_columns(table, self.columns)
        positive = {"power_share": SHARED, "gaussian_process": ("GFLOPs",)}.get(self.regressor, ())
        return np.column_stack(
            [number_column(table, name, positive=name in positive) for name in self.columns]
        )


def _check_names(table: pd.DataFrame, name: str) -> None:
    """Raise an error if a column of names is missing or incomplete."""
    if name not in table:
        raise EstimateError(f"the table lacks the column {name} to group by")
    lacking = table[name].isna().to_numpy()
    if lacking.any():
        raise EstimateError(f"row {int(np.argmax(lacking))} has no {name} to group by")


def _check_keys(parts: object, names: Iterable[str], of: str) -> None:
    """Raise an error for anything but a dict with exactly these keys; `of` names it in messages."""
    if not isinstance(parts, dict) or set(parts) != set(names):
        raise EstimateError(f"{of} must have exactly the parts {', '.join(names) or '(none)'}")
