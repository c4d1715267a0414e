"""`FittedPreModel`, the fitted part of a `PreModel`, and the model that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.roofline_model import Pair, RooflineModel
from energyest.gpus import Gpu
from energyest.records import safe_json

_FORMAT = 7
_KIND = "PRE model"
# Half-width of an uninformative interval of a logarithm; its exponential is still finite.
_MOST_HALF = 100.0


@dataclass(frozen=True, eq=False)
class FittedPreModel:
    """A fitted physical model, and its errors on models that it was not fitted to.

    It is separate from `PreModel`, a scikit-learn estimator that takes seconds to import:
    `estimate_pre` only needs this class.

    Attributes:
        core: the physical model.
        deviations: errors on left-out models divided by the expected deviation, of shape (n,),
            sorted.
        gpus: names of the GPUs in the training data.
    """

    core: RooflineModel
    deviations: Array
    gpus: tuple[str, ...]

    def predict(self, pairs: Sequence[Pair], *, factor: float | None = None) -> Predictions:
        """Predict steps of workloads on GPUs.

        Args:
            pairs: workloads, each with a GPU.
            factor: time that the machine's CPU takes ÷ time on the typical machine, if known.

        Raises:
            EstimateError: a GPU lacks a precision, or a workload has no operations.
        """
        return self.core.predict(pairs, factor=factor)

    def rest_W(self, gpus: Sequence[Gpu]) -> Array:
        """Power of waiting GPUs in W, of shape (n,)."""
        return np.array([self.core.power["rest"] * gpu.tdp_W for gpu in gpus])

    def half_width(self, predicted: Predictions, confidence: float) -> Array:
        """Half-width of the interval of the logarithm of the energy, of shape (n,)."""
        return self._half_width(predicted.deviation_energy, confidence)

    def half_width_step(self, predicted: Predictions, confidence: float) -> Array:
        """Half-width for the duration of a step, assuming the same error distribution as energy."""
        return self._half_width(predicted.deviation_step, confidence)

    def _half_width(self, expected: Array, confidence: float) -> Array:
        count = len(self.deviations)
        share = min(confidence * (count + 1) / count, 1.0)
        return np.minimum(expected * float(np.quantile(self.deviations, share)), _MOST_HALF)

    def beyond_measured(
        self, pairs: Sequence[Pair], predicted: Predictions
    ) -> list[tuple[str, ...]]:
        """Reasons why each prediction extrapolates; empty if it does not.

        For architectures that a fit had not seen, the median error of the energy was 12 % for
        workloads unlike the measured ones, as for others
        (`benchmarks/evidence/advise_accuracy.py`).

        Args:
            pairs: workloads on GPUs, of length n.
            predicted: predictions for them; further entries are ignored.
        """
        found = []
        for (_, gpu), is_unlike in zip(pairs, predicted.is_unlike, strict=False):
            reasons = []
            if gpu.name not in self.gpus:
                reasons.append(
                    f"no training on {gpu.name} was measured, only on {', '.join(self.gpus)}: its "
                    "data sheet is used"
                )
            if is_unlike:
                reasons.append("no measured training is similar in what limits its steps")
            found.append(tuple(reasons))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Numbers and names for JSON; `from_dict` restores them."""
        return {
            "kind": f"energyest {_KIND}",
            "format": _FORMAT,
            "gpus": list(self.gpus),
            "deviations": self.deviations.tolist(),
            **self.core.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Any, name: str) -> FittedPreModel:
        """Restore a model from `to_dict`.

        Args:
            content: content of a file.
            name: name of the file, for messages.

        Raises:
            EstimateError: the content is not such a model, is damaged, or has another version.
        """
        safe_json.check_kind(content, _KIND, _FORMAT, name)
        try:
            gpus = tuple(str(gpu) for gpu in content["gpus"])
            deviations = np.array(content["deviations"], float)
        except (KeyError, TypeError, ValueError) as error:
            raise EstimateError(f"{name} is damaged: {error!r}") from error
        in_range = (deviations >= 0) & np.isfinite(deviations)
        if deviations.ndim != 1 or not deviations.size or not in_range.all():
            raise EstimateError(f"{name} is damaged: its deviations are invalid")
        return cls(RooflineModel.from_dict(content), deviations, gpus)


@cache
def packaged() -> FittedPreModel:
    """The model that comes with the package."""
    name = "pre_model.json"
    return FittedPreModel.from_dict(safe_json.packaged_json(name), name)
