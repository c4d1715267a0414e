"""`TableModel`: learns from a table with a few numbers a run, where no operations are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.checks import check_confidence, check_count
from energyest.estimators.cross_validation import CrossValidation, Groups, group_labels
from energyest.estimators.regression.gaussian import Gaussian
from energyest.estimators.regression.power_share import PowerShare
from energyest.estimators.regression.published import FEATURES, Published, fit_published
from energyest.estimators.regression.serialize import as_floats, check_keys
from energyest.records import safe_json

if TYPE_CHECKING:
    import pandas as pd

Regressor = Literal["linear", "ridge", "kernel_ridge", "svr", "gaussian_process", "power_share"]
Target = Literal["mean_power_W", "epoch_energy_J"]

_FORMAT = 1
_KIND = "table model"
_SHARED = ("batch_size", "GFLOPs", "gpu_power_limit_W")
# SVR searches settings that suit numbers of the size of the paper's targets: W, and kJ an epoch.
_PUBLISHED_UNIT = {"mean_power_W": 1.0, "epoch_energy_J": 1e3}


class TableModel:
    """PRE from a few numbers a run: the published regressions, and two that go beyond them.

    The published ones (`linear`, `ridge`, `kernel_ridge`, `svr`; see `fit_published`) and
    `gaussian_process` (see `Gaussian`) learn from the ten `FEATURES` of the paper. They interpolate
    between settings like those measured, and fall apart for a GPU or a model that no run has: on
    the authors' 150 public runs mean power by kernel ridge is then 84 to 86 % off.

    `power_share` is for that case, and for mean power alone: the share of the GPU's power limit
    that a training draws grows with a power of GFLOPs × batch size and ends at the limit. It needs
    three of the features, is about 12 % off on left-out GPUs and models of the same runs, and is
    the only one with an interval. Its limits: the level of one class of GPUs is not that of another
    (79 runs on an H100 and an H200 draw about 0.6 times the share that consumer GPUs draw for the
    same FLOPs, and the interval fitted to those holds a quarter of them), so fit it to runs like
    yours; and it knows nothing of precision, data loading or memory traffic (fitted to such runs of
    all precisions it is 24 % off on unseen models, and its 90 % interval holds 91 %). Where
    operations are known, `PreModel` does better.

    Args:
        regressor: "linear", "ridge", "kernel_ridge", "svr", "gaussian_process" or "power_share".
        target: "mean_power_W", mean power of the GPU over a training; or "epoch_energy_J".
        draws: settings that `ridge`, `kernel_ridge` and `svr` try at random; 100 as published.
        seed: of these draws and their folds; the same seed gives the same model.

    Attributes:
        fitted_: the fitted `Published`, `Gaussian` or `PowerShare`.

    Raises:
        EstimateError: an argument is out of its range, or `power_share` is asked for energy.
    """

    def __init__(
        self,
        regressor: Regressor = "kernel_ridge",
        target: Target = "mean_power_W",
        *,
        draws: int = 100,
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("regressor", regressor, get_args(Regressor)),
            ("target", target, get_args(Target)),
        ):
            if value not in known:
                raise EstimateError(f"{name}={value!r} must be one of {', '.join(known)}")
        if regressor == "power_share" and target != "mean_power_W":
            raise EstimateError(
                f"power_share knows mean_power_W alone, not {target}: multiply its power by the "
                "duration of an epoch, or choose another regressor"
            )
        self.regressor = regressor
        self.target = target
        self.draws = check_count(draws, "draws")
        self.seed = check_count(seed, "seed", 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a table that the model predicts from."""
        return _SHARED if self.regressor == "power_share" else FEATURES

    # ------------------------------------------------------------------ learning

    def fit(self, table: pd.DataFrame) -> TableModel:
        """Learn from finished trainings.

        Args:
            table: a row a run: the `columns`, in the units that their names say, and the target,
                positive. `power_share` takes runs for repetitions of one setting if they are alike
                in its columns, and in `model` and `gpu` where these are there.

        Returns:
            The model itself.

        Raises:
            EstimateError: a column is missing, or holds what is no finite number; the target is
                not positive; GFLOPs are not, for `power_share` and `gaussian_process`; there are
                too few runs: ten for the published regressors, two for `gaussian_process`, three
                settings for `power_share`.
        """
        features = self._features(table)
        target = _numbers(table, self.target, positive=True)
        if self.regressor == "power_share":
            batch_GFLOPs, limit_W = _load_and_limit(features)
            alike = [*_SHARED, *(name for name in ("model", "gpu") if name in table)]
            setting = table.groupby(alike, dropna=False).ngroup().to_numpy()
            self.fitted_: Published | Gaussian | PowerShare = PowerShare.fit(
                batch_GFLOPs, target / limit_W, setting
            )
        elif self.regressor == "gaussian_process":
            self.fitted_ = Gaussian.fit(features, target, seed=self.seed)
        else:
            self.fitted_ = fit_published(
                features,
                target / _PUBLISHED_UNIT[self.target],
                regressor=self.regressor,
                draws=self.draws,
                seed=self.seed,
            )
        return self

    def cross_validate(
        self, table: pd.DataFrame, groups: Groups = "model", *, confidence: float = 0.9
    ) -> CrossValidation:
        """Foretell each run by a model that was fitted without its group.

        Args:
            table: as for `fit`, with a column `model` or `gpu` to group by.
            groups: "model" or "gpu": all runs of one model or GPU are left out together; None for
                fifths at random, which put repetitions of a setting on both sides.
            confidence: probability for the interval.

        Returns:
            Its table has the rows of this one, in their order.

        Raises:
            EstimateError: there are fewer than two groups, or as `fit` of the runs that are left.
        """
        import pandas as pd  # noqa: PLC0415

        check_confidence(confidence)
        self._features(table)
        measured = _numbers(table, self.target, positive=True)
        if groups in ("model", "gpu"):
            _check_names(table, groups)
        named = {
            name: [str(value) for value in table[name]] if name in table else [""] * len(table)
            for name in ("model", "gpu")
        }
        labels = np.array(group_labels(groups, named["model"], named["gpu"]))
        found = np.full((3, len(table)), np.nan)
        for label in sorted(set(labels)):
            left = labels == label
            model = self._alike().fit(table[~left])
            found[0, left] = model.predict(table[left])
            if isinstance(model.fitted_, PowerShare):
                found[1:, left] = model.predict_interval(table[left], confidence)
        columns = {
            **named,
            f"measured_{self.target}": measured,
            f"predicted_{self.target}": found[0],
        }
        if self.regressor == "power_share":
            columns |= {f"lower_{self.target}": found[1], f"upper_{self.target}": found[2]}
        return CrossValidation(pd.DataFrame(columns, index=table.index), confidence, groups)

    # ------------------------------------------------------------------ telling

    def predict(self, table: pd.DataFrame) -> FloatArray:
        """The target of each row, of shape (n,), in W or J.

        Args:
            table: with the model's `columns`.

        Raises:
            EstimateError: the model was not fitted; a column is missing, or holds what is no
                finite number.
        """
        fitted, features = self._fitted(), self._features(table)
        if isinstance(fitted, PowerShare):
            batch_GFLOPs, limit_W = _load_and_limit(features)
            return limit_W * fitted.predict(batch_GFLOPs)
        if isinstance(fitted, Gaussian):
            return fitted.predict(features)
        return _PUBLISHED_UNIT[self.target] * fitted.predict(features)

    def predict_interval(
        self, table: pd.DataFrame, confidence: float = 0.9
    ) -> tuple[FloatArray, FloatArray]:
        """Where the mean power of a single run lies, on a GPU or with a model never seen.

        It ends at the power limit. On left-out GPUs and models of the authors' 150 public runs the
        90 % interval held 90 % and 87 % of the runs; these are ten settings, so that a setting
        more or less makes ten points.

        Args:
            table: with the model's `columns`.
            confidence: probability that the run lies within.

        Returns:
            Lower and upper end in W, each of shape (n,).

        Raises:
            EstimateError: the regressor is not `power_share`; or as `predict`.
        """
        check_confidence(confidence)
        fitted, features = self._fitted(), self._features(table)
        if not isinstance(fitted, PowerShare):
            raise EstimateError(f"{self.regressor} gives no interval: power_share does")
        batch_GFLOPs, limit_W = _load_and_limit(features)
        power_W = limit_W * fitted.predict(batch_GFLOPs)
        factor = fitted.factor(batch_GFLOPs, confidence)
        return power_W / factor, np.minimum(power_W * factor, limit_W)

    # ------------------------------------------------------------------ files

    def save(self, path: safe_json.AnyPath) -> None:
        """Write the fitted model as JSON: numbers and names, nothing that could run.

        Raises:
            EstimateError: the model was not fitted.
            OSError: the file cannot be written.
        """
        content = {
            "kind": f"energyest {_KIND}",
            "format": _FORMAT,
            "regressor": self.regressor,
            "target": self.target,
            "draws": self.draws,
            "seed": self.seed,
            "fitted": self._fitted().to_dict(),
        }
        safe_json.write_json(path, content)

    @classmethod
    def load(cls, path: safe_json.AnyPath) -> TableModel:
        """Read what `save` wrote.

        Raises:
            EstimateError: the file is no such model, is damaged, or is of a newer version.
            FileNotFoundError: there is no such file.
        """
        content = safe_json.read_json(path)
        safe_json.check_kind(content, _KIND, _FORMAT, str(path))
        settings = ("regressor", "target", "draws", "seed")
        try:
            check_keys(content, {"kind", "format", "fitted", *settings}, "a table model")
            regressor, target, draws, seed = (content[name] for name in settings)
            model = cls(regressor, target, draws=draws, seed=seed)
            model.fitted_ = _stored(model.regressor).from_dict(content["fitted"])
            if getattr(model.fitted_, "regressor", regressor) != regressor:
                raise EstimateError(f"a {regressor} model cannot hold one of another regressor")
        except EstimateError as error:
            raise EstimateError(f"{path} is damaged: {error}") from error
        return model

    # ------------------------------------------------------------------ inside

    def _alike(self) -> TableModel:
        """One of the same settings that has learnt nothing."""
        return TableModel(self.regressor, self.target, draws=self.draws, seed=self.seed)

    def _fitted(self) -> Published | Gaussian | PowerShare:
        if not hasattr(self, "fitted_"):
            raise EstimateError("this TableModel knows nothing yet: fit it, or load one")
        return self.fitted_

    def _features(self, table: pd.DataFrame) -> FloatArray:
        """The columns that the model predicts from, of shape (n, columns)."""
        if not (hasattr(table, "columns") and hasattr(table, "groupby")):
            raise EstimateError(f"the table is a {type(table).__name__}: it must be a DataFrame")
        missing = [name for name in self.columns if name not in table]
        if missing:
            raise EstimateError(f"the table lacks the columns {', '.join(missing)}")
        positive = _SHARED if self.regressor == "power_share" else ()
        return np.column_stack(
            [_numbers(table, name, positive=name in positive) for name in self.columns]
        )


def _stored(regressor: Regressor) -> type[Published] | type[Gaussian] | type[PowerShare]:
    """What a model of a regressor is stored as."""
    if regressor == "power_share":
        return PowerShare
    if regressor == "gaussian_process":
        return Gaussian
    return Published


def _load_and_limit(shared: FloatArray) -> tuple[FloatArray, FloatArray]:
    """GFLOPs × batch size, and the power limit in W, from the columns `_SHARED`."""
    batch_size, GFLOPs, limit_W = shared.T
    return batch_size * GFLOPs, limit_W


def _numbers(table: pd.DataFrame, name: str, *, positive: bool) -> FloatArray:
    """A column as floats; the message of what it refuses names the row by its place."""
    if name not in table:
        raise EstimateError(f"the table lacks the column {name}")
    values = as_floats(table[name].to_numpy(), f"column {name}")
    if values.ndim != 1:
        raise EstimateError(f"the table has more than one column {name}")
    bad = ~np.isfinite(values) | (positive & (values <= 0))
    if bad.any():
        row = int(np.argmax(bad))
        must = "positive and finite" if positive else "finite"
        raise EstimateError(f"{name} in row {row} is {values[row]:g}: it must be {must}")
    return values


def _check_names(table: pd.DataFrame, name: str) -> None:
    """Refuse a column of names that is not there, or not in every row."""
    if name not in table:
        raise EstimateError(f"the table lacks the column {name} to group by")
    lacking = table[name].isna().to_numpy()
    if lacking.any():
        raise EstimateError(f"row {int(np.argmax(lacking))} has no {name} to group by")
