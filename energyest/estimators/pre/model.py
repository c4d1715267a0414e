"""`PreModel`: learns from finished trainings to estimate trainings that have not started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from energyest.checks import check_confidence
from energyest.errors import EstimateError
from energyest.estimators.cross_validation import (
    FOLDS,
    CrossValidation,
    Groups,
    group_labels,
    parts,
)
from energyest.estimators.not_fitted import check_fitted
from energyest.estimators.pre.fitted import FittedPreModel, packaged
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.roofline_model import Pair, RooflineModel
from energyest.estimators.pre.training_data import TrainedRun, runs_of
from energyest.records import safe_json
from energyest.records.trace import EnergyTrace

# With fewer runs than this, folds say little about the required width of an interval.
_FEWEST_TO_CALIBRATE = 20
# Assumed errors if there are too few runs to leave models out: half of them within one expected
# deviation, nine in ten within two and a half.
_NO_FOLDS = np.linspace(0.0, 2.8, 29)


def core_of(
    runs: Sequence[TrainedRun],
    *,
    start: RooflineModel | None = None,
    calibrated: bool = True,
    begin: RooflineModel | None = None,
) -> RooflineModel:
    """The physical model, fitted to trainings; other arguments as for `RooflineModel.fit`.

    Runs without a step have a part in the parameters of single operations alone.

    Raises:
        EstimateError: no run has a step.
    """
    trained = [run for run in runs if run.has_step]
    if not trained:
        raise EstimateError("no run has a step_s: the time of a step cannot be learnt from them")
    return RooflineModel.fit(
        [run.pair for run in trained],
        np.array([run.step_s for run in trained]),
        np.array([run.power_W for run in trained]),
        hosts=[run.host for run in trained],
        timed=[run.timed for run in runs if run.operations_s],
        start=start,
        calibrated=calibrated,
        begin=begin,
    )


def _group(run: TrainedRun, groups: Groups) -> str:
    """Name of the group that a run belongs to."""
    return run.gpu.name if groups == "gpu" else run.model


class PreModel(BaseEstimator):
    """The model behind `estimate_pre`: fitted to finished trainings, stored as plain numbers.

    It consists of a physical formula with fitted parameters and a Gaussian process on the residuals
    of the formula, in logarithms. Its interval reflects the errors on models that were left out of
    the fit, and widens away from the measurements. It follows scikit-learn's conventions, but
    learns from trainings instead of arrays.

    Args:
        start: starting point of the fit: "packaged" for the model that comes with the package, to
            which you can add a few runs of your own; or None for general guesses, which requires
            hundreds of runs.

    Attributes:
        fitted_: the physical model, the errors that its interval is based on, and the GPUs in the
            training data.

    Examples:
        >>> from energyest.estimators import PreModel
        >>> model = PreModel().fit(traces)  # recorded by `EnergyMonitor`
        >>> path = model.save('ours.json')
        >>> PreModel.load('ours.json')
        PreModel()
    """

    def __init__(self, *, start: Literal["packaged"] | None = "packaged") -> None:
        self.start = start

    # ------------------------------------------------------------------ fitting

    def fit(self, data: pd.DataFrame | Sequence[EnergyTrace] | Sequence[TrainedRun]) -> PreModel:
        """Fit the model to finished trainings.

        Args:
            data: see `runs_of`: traces of `EnergyMonitor`, or a table with the columns `workload`,
                `gpu`, `step_s`, `power_W` and optionally `model`.

        Returns:
            The model itself.

        Raises:
            EstimateError: `start` is unknown; no run has a power; or as `runs_of`.
        """
        self._check_settings()
        runs = runs_of(data)
        if not any(run.has_power for run in runs):
            raise EstimateError(
                "no run has both step_s and power_W: power cannot be learnt from them"
            )
        core = self._fitted(runs)
        measured = {run.gpu.name for run in runs if run.has_power}
        if self.start is not None:
            measured |= set(packaged().gpus)
        gpus = tuple(sorted(measured))
        self.fitted_ = FittedPreModel(core, self._deviations(runs, core), gpus)
        return self

    def cross_validate(
        self,
        data: pd.DataFrame | Sequence[EnergyTrace] | Sequence[TrainedRun],
        groups: Groups = "model",
        *,
        confidence: float = 0.9,
    ) -> CrossValidation:
        """Predict each run with a model that was fitted without the run's group.

        With `start="packaged"`, this is only a fair test for runs of your own: the packaged model
        was fitted to those of `benchmarks/data/sweep.jsonl.gz`.

        Args:
            data: as for `fit`.
            groups: "model" or "gpu" to leave out all runs of one model or GPU together (with more
                than ten groups, a tenth of them at a time); None for random fifths, which shows how
                well settings similar to the measured ones are predicted.
            confidence: coverage probability of the interval.

        Raises:
            EstimateError: there are fewer than two groups, the confidence is invalid, or as `fit`.
        """
        self._check_settings()
        check_confidence(confidence, EstimateError)
        runs = runs_of(data)
        # Those without a power are never predicted, but learnt from with the other groups.
        asked = [run for run in runs if run.has_power]
        others = [run for run in runs if not run.has_power]
        labels = group_labels(groups, [run.model for run in asked], [run.gpu.name for run in asked])
        rows = []
        for label in sorted(set(labels)):
            left = [run for run, other in zip(asked, labels, strict=True) if other == label]
            kept = [run for run, other in zip(asked, labels, strict=True) if other != label]
            names = {_group(run, groups) for run in left} if groups else set()
            kept += [run for run in others if _group(run, groups) not in names]
            fitted = clone(self).fit(kept).fitted_
            predicted = fitted.predict([run.pair for run in left])
            factors = np.exp(fitted.half_width(predicted, confidence))
            for i, run in enumerate(left):
                rows.append(
                    {
                        "model": run.model,
                        "gpu": run.gpu.name,
                        "measured_energy_J": run.energy_J,
                        "predicted_energy_J": predicted.energy_J[i],
                        "energy_J_lower": predicted.energy_J[i] / factors[i],
                        "energy_J_upper": predicted.energy_J[i] * factors[i],
                        "measured_step_s": run.step_s,
                        "predicted_step_s": predicted.step_s[i],
                        "measured_power_W": run.power_W,
                        "predicted_power_W": predicted.power_W[i],
                    }
                )
        return CrossValidation(pd.DataFrame(rows), confidence, groups)

    def _check_settings(self) -> None:
        if self.start not in ("packaged", None):
            raise EstimateError(f"start={self.start!r} must be 'packaged' or None")

    def _fitted(
        self, runs: Sequence[TrainedRun], begin: RooflineModel | None = None
    ) -> RooflineModel:
        return core_of(
            runs,
            start=None if self.start is None else packaged().core,
            calibrated=self._can_calibrate(runs),
            begin=begin,
        )

    @staticmethod
    def _can_calibrate(runs: Sequence[TrainedRun]) -> bool:
        models = [run.model for run in runs if run.has_power]
        return len(models) >= _FEWEST_TO_CALIBRATE and len(set(models)) >= FOLDS

    def _deviations(self, runs: Sequence[TrainedRun], core: RooflineModel) -> Array:
        """Errors on left-out models, leaving out a fifth of them at a time."""
        if not self._can_calibrate(runs):
            return _NO_FOLDS if self.start is None else packaged().deviations
        fold_of = parts([run.model for run in runs if run.has_power], FOLDS)
        found = []
        for fold in range(FOLDS):
            kept = [run for run in runs if fold_of.get(run.model) != fold]
            left = [run for run in runs if fold_of.get(run.model) == fold and run.has_power]
            predicted = self._fitted(kept, core).predict([run.pair for run in left])
            off = np.log(predicted.energy_J / np.array([run.energy_J for run in left]))
            found.append(np.abs(off) / predicted.deviation_energy)
        return np.sort(np.concatenate(found))

    # ------------------------------------------------------------------ predicting

    def predict(self, pairs: Sequence[Pair]) -> Predictions:
        """Predict steps of workloads on GPUs.

        Raises:
            NotFittedError: the model was not fitted; it is an EstimateError too.
            EstimateError: a GPU lacks a precision, or a workload has no operations.
        """
        check_fitted(self)
        return self.fitted_.predict(pairs)

    # ------------------------------------------------------------------ files

    def save(self, path: safe_json.AnyPath) -> None:
        """Write the fitted model as JSON: only numbers and names, no executable code.

        Raises:
            NotFittedError: the model was not fitted; it is an EstimateError too.
            OSError: the file cannot be written, or exists and was not written by `save`.
        """
        check_fitted(self)
        safe_json.write_json(path, self.fitted_.to_dict())

    @classmethod
    def load(cls, path: safe_json.AnyPath) -> PreModel:
        """Read a model written by `save`.

        Raises:
            EstimateError: the file is not such a model, is damaged, or has another version.
            FileNotFoundError: the file does not exist.
        """
        model = cls()
        model.fitted_ = FittedPreModel.from_dict(safe_json.read_json(path), str(path))
        return model
