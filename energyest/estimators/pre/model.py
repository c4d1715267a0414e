"""`PreModel`: learns from finished trainings what one costs that has not started."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.checks import check_confidence
from energyest.estimators.cross_validation import (
    FOLDS,
    CrossValidation,
    Groups,
    group_labels,
    parts,
)
from energyest.estimators.pre.roofline import Array
from energyest.estimators.pre.roofline_model import Pair, Predictions, RooflineModel
from energyest.estimators.pre.training_data import TrainedRun, runs_of
from energyest.records import safe_json
from energyest.records.trace import EnergyTrace

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1
_KIND = "PRE model"
# With fewer runs than this, folds say little about how wide an interval has to be.
_FEWEST_TO_CALIBRATE = 20
# Half-width of an interval of a logarithm that says nothing; its exponential is still a number.
_MOST_HALF = 100.0


class PreModel:
    """The model behind `estimate_pre`: fitted to finished trainings, stored as numbers.

    A physical formula whose parameters are fitted, and a Gaussian process on what the formula
    leaves over, in logarithms. Its interval is as wide as errors on models that were left out of
    the fit have been, and wider away from what was measured.

    Args:
        start: where the fit begins: "packaged", the model that comes with the package, to which few
            runs of your own can be added; or None, general guesses, for hundreds of runs.

    Attributes:
        core_: the fitted physical model.
        deviations_: errors on left-out models in units of what was expected, of shape (n,), sorted.
        gpus_: names of the GPUs that were learnt from.
    """

    def __init__(self, *, start: Literal["packaged"] | None = "packaged") -> None:
        if start not in ("packaged", None):
            raise EstimateError(f"start={start!r} must be 'packaged' or None")
        self.start = start

    # ------------------------------------------------------------------ learning

    def fit(self, data: pd.DataFrame | Sequence[EnergyTrace] | Sequence[TrainedRun]) -> PreModel:
        """Learn from finished trainings.

        Args:
            data: see `runs_of`: traces of `EnergyMonitor`, or a table with the columns `workload`,
                `gpu`, `step_s`, `power_W`, and if there is one, `model`.

        Returns:
            The model itself.

        Raises:
            EstimateError: as `runs_of`.
        """
        runs = runs_of(data)
        self.core_ = self._fitted(runs)
        self.gpus_ = tuple(sorted({run.gpu.name for run in runs}))
        self.deviations_ = self._deviations(runs)
        return self

    def cross_validate(
        self,
        data: pd.DataFrame | Sequence[EnergyTrace] | Sequence[TrainedRun],
        groups: Groups = "model",
        *,
        confidence: float = 0.9,
    ) -> CrossValidation:
        """Foretell each run by a model that was fitted without its group.

        With `start="packaged"` that is honest for runs of your own alone: the packaged model has
        seen those of `benchmarks/data/sweep.jsonl.gz`.

        Args:
            data: as for `fit`.
            groups: "model" or "gpu": all runs of one model or GPU are left out together (of more
                than ten models, a tenth of them at a time); None for fifths at random, which shows
                how well settings like those measured are predicted.
            confidence: probability for the interval.

        Raises:
            EstimateError: there are fewer than two groups, the confidence is no probability, or as
                `fit`.
        """
        import pandas as pd  # noqa: PLC0415

        check_confidence(confidence)
        runs = runs_of(data)
        labels = group_labels(groups, [run.model for run in runs], [run.gpu.name for run in runs])
        rows = []
        for label in sorted(set(labels)):
            kept = [run for run, other in zip(runs, labels, strict=True) if other != label]
            left = [run for run, other in zip(runs, labels, strict=True) if other == label]
            model = PreModel(start=self.start).fit(kept)
            predicted = model.predict([run.pair for run in left])
            factors = np.exp(model.half_width(predicted, confidence))
            for i, run in enumerate(left):
                rows.append(
                    {
                        "model": run.model,
                        "gpu": run.gpu.name,
                        "measured_energy_J": run.energy_J,
                        "predicted_energy_J": predicted.energy_J[i],
                        "lower_energy_J": predicted.energy_J[i] / factors[i],
                        "upper_energy_J": predicted.energy_J[i] * factors[i],
                        "measured_step_s": run.step_s,
                        "predicted_step_s": predicted.step_s[i],
                        "measured_power_W": run.power_W,
                        "predicted_power_W": predicted.power_W[i],
                    }
                )
        return CrossValidation(pd.DataFrame(rows), confidence, groups)

    def _fitted(self, runs: Sequence[TrainedRun]) -> RooflineModel:
        return RooflineModel.fit(
            [run.pair for run in runs],
            np.array([run.step_s for run in runs]),
            np.array([run.power_W for run in runs]),
            hosts=[run.host for run in runs],
            start=None if self.start is None else packaged().core_,
            calibrated=self._can_calibrate(runs),
        )

    @staticmethod
    def _can_calibrate(runs: Sequence[TrainedRun]) -> bool:
        return len(runs) >= _FEWEST_TO_CALIBRATE and len({run.model for run in runs}) >= FOLDS

    def _deviations(self, runs: Sequence[TrainedRun]) -> Array:
        """Errors on models that were left out, a fifth of them at a time."""
        if not self._can_calibrate(runs):
            return _NO_FOLDS if self.start is None else packaged().deviations_
        fold_of = parts([run.model for run in runs], FOLDS)
        found = []
        for fold in range(FOLDS):
            kept = [run for run in runs if fold_of[run.model] != fold]
            left = [run for run in runs if fold_of[run.model] == fold]
            predicted = self._fitted(kept).predict([run.pair for run in left])
            off = np.log(predicted.energy_J / np.array([run.energy_J for run in left]))
            found.append(np.abs(off) / predicted.deviation_energy)
        return np.sort(np.concatenate(found))

    # ------------------------------------------------------------------ telling

    def predict(self, pairs: Sequence[Pair]) -> Predictions:
        """Steps of workloads on GPUs.

        Raises:
            EstimateError: the model was not fitted; a GPU lacks a precision.
        """
        if not hasattr(self, "core_"):
            raise EstimateError("this PreModel knows nothing yet: fit it, or load one")
        return self.core_.predict(pairs)

    def half_width(self, predicted: Predictions, confidence: float) -> Array:
        """Half-width of the interval of the energy's logarithm, of shape (n,)."""
        count = len(self.deviations_)
        share = min(confidence * (count + 1) / count, 1.0)
        half = predicted.deviation_energy * float(np.quantile(self.deviations_, share))
        return np.minimum(half, _MOST_HALF)

    def beyond_measured(
        self, pairs: Sequence[Pair], predicted: Predictions
    ) -> list[tuple[str, ...]]:
        """Why each prediction is an extrapolation, one sentence a reason; none if it is not.

        On architectures that a fit had not seen, energies of workloads unlike those measured were
        off by 19 % in the median, others by 13 % (`benchmarks/evidence/advise_accuracy.py`).

        Args:
            pairs: workloads on GPUs, of length n.
            predicted: what `predict` gave for them; more after them does not matter.
        """
        found = []
        for (_, gpu), is_unlike in zip(pairs, predicted.is_unlike, strict=False):
            reasons = []
            if gpu.name not in self.gpus_:
                reasons.append(
                    f"no training on a {gpu.name} was measured, only on {', '.join(self.gpus_)}: "
                    "its data sheet is believed"
                )
            if is_unlike:
                reasons.append(
                    "no measured training is like it: what bounds its steps sets it apart from all "
                    "of them"
                )
            found.append(tuple(reasons))
        return found

    # ------------------------------------------------------------------ files

    def save(self, path: safe_json.AnyPath) -> None:
        """Write the fitted model as JSON: numbers and names, nothing that could run.

        Raises:
            EstimateError: the model was not fitted.
            OSError: the file cannot be written.
        """
        if not hasattr(self, "core_"):
            raise EstimateError("this PreModel knows nothing yet: fit it first")
        content = {
            "kind": f"energyest {_KIND}",
            "format": _FORMAT,
            "gpus": list(self.gpus_),
            "deviations": self.deviations_.tolist(),
            **self.core_.to_dict(),
        }
        safe_json.write_json(path, content)

    @classmethod
    def load(cls, path: safe_json.AnyPath) -> PreModel:
        """Read what `save` wrote.

        Raises:
            EstimateError: the file is no such model, is damaged, or is of a newer version.
            FileNotFoundError: there is no such file.
        """
        return cls._from_dict(safe_json.read_json(path), str(path))

    @classmethod
    def _from_dict(cls, content: Any, name: str) -> PreModel:
        safe_json.check_kind(content, _KIND, _FORMAT, name)
        model = cls()
        try:
            model.gpus_ = tuple(str(gpu) for gpu in content["gpus"])
            model.deviations_ = np.array(content["deviations"], float)
        except (KeyError, TypeError, ValueError) as error:
            raise EstimateError(f"{name} is damaged: {error!r}") from error
        deviations = model.deviations_
        in_range = (deviations >= 0) & np.isfinite(deviations)
        if deviations.ndim != 1 or not deviations.size or not in_range.all():
            raise EstimateError(f"{name} is damaged: its deviations are not what they should be")
        model.core_ = RooflineModel.from_dict(content)
        return model


@cache
def packaged() -> PreModel:
    """The model that comes with the package."""
    name = "pre_model.json"
    return PreModel._from_dict(safe_json.packaged_json(name), name)


# Where there are too few runs to see how far off left-out models are: half of them within one
# expected deviation, nine in ten within two and a half.
_NO_FOLDS = np.linspace(0.0, 2.8, 29)
