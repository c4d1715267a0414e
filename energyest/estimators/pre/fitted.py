"""What a `PreModel` has learnt, and the model that comes with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.roofline_model import Pair, Predictions, RooflineModel
from energyest.gpus import Gpu
from energyest.records import safe_json

_FORMAT = 2
_KIND = "PRE model"
# Half-width of an interval of a logarithm that says nothing; its exponential is still a number.
_MOST_HALF = 100.0


@dataclass(frozen=True, eq=False)
class FittedPreModel:
    """A fitted physical model, and how far off it is on models that it has not seen.

    It is apart from `PreModel`, which as an estimator of scikit-learn takes seconds to import:
    `estimate_pre` needs this alone.

    Attributes:
        core: the physical model.
        deviations: errors on left-out models in units of what was expected, of shape (n,), sorted.
        gpus: names of the GPUs that were learnt from.
    """

    core: RooflineModel
    deviations: Array
    gpus: tuple[str, ...]

    def predict(self, pairs: Sequence[Pair], *, factor: float | None = None) -> Predictions:
        """Steps of workloads on GPUs.

        Args:
            pairs: workloads, each with a GPU.
            factor: how many times as long as usual the machine's CPU takes, if that is known.

        Raises:
            EstimateError: a GPU lacks a precision, or a workload has no operations.
        """
        return self.core.predict(pairs, factor=factor)

    def rest_W(self, gpus: Sequence[Gpu]) -> Array:
        """What GPUs draw while they wait, of shape (n,)."""
        return np.array([self.core.power["rest"] * gpu.tdp_W for gpu in gpus])

    def half_width(self, predicted: Predictions, confidence: float) -> Array:
        """Half-width of the interval of the energy's logarithm, of shape (n,)."""
        return self._half_width(predicted.deviation_energy, confidence)

    def half_width_step(self, predicted: Predictions, confidence: float) -> Array:
        """The same of a step's length, whose errors are taken to be spread as the energy's are."""
        return self._half_width(predicted.deviation_step, confidence)

    def _half_width(self, expected: Array, confidence: float) -> Array:
        count = len(self.deviations)
        share = min(confidence * (count + 1) / count, 1.0)
        return np.minimum(expected * float(np.quantile(self.deviations, share)), _MOST_HALF)

    def beyond_measured(
        self, pairs: Sequence[Pair], predicted: Predictions
    ) -> list[tuple[str, ...]]:
        """Reasons why each prediction extrapolates; empty if it does not.

        On architectures that a fit had not seen, energies of workloads unlike those measured were
        off by 19 % in the median, others by 13 % (`benchmarks/evidence/advise_accuracy.py`).

        Args:
            pairs: workloads on GPUs, of length n.
            predicted: what `predict` gave for them; more after them does not matter.
        """
        found = []
        for (_, gpu), is_unlike in zip(pairs, predicted.is_unlike, strict=False):
            reasons = []
            if gpu.name not in self.gpus:
                reasons.append(
                    f"no training on a {gpu.name} was measured, only on {', '.join(self.gpus)}: "
                    "its data sheet is believed"
                )
            if is_unlike:
                reasons.append(
                    "no measured training is like it: what bounds its steps sets it apart from all "
                    "of them"
                )
            found.append(tuple(reasons))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Numbers and names alone, for JSON; `from_dict` is the way back."""
        return {
            "kind": f"energyest {_KIND}",
            "format": _FORMAT,
            "gpus": list(self.gpus),
            "deviations": self.deviations.tolist(),
            **self.core.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: Any, name: str) -> FittedPreModel:
        """What `to_dict` gave.

        Args:
            content: what a file holds.
            name: of the file, for messages.

        Raises:
            EstimateError: it is no such model, is damaged, or is of another version.
        """
        safe_json.check_kind(content, _KIND, _FORMAT, name)
        try:
            gpus = tuple(str(gpu) for gpu in content["gpus"])
            deviations = np.array(content["deviations"], float)
        except (KeyError, TypeError, ValueError) as error:
            raise EstimateError(f"{name} is damaged: {error!r}") from error
        in_range = (deviations >= 0) & np.isfinite(deviations)
        if deviations.ndim != 1 or not deviations.size or not in_range.all():
            raise EstimateError(f"{name} is damaged: its deviations are not what they should be")
        return cls(RooflineModel.from_dict(content), deviations, gpus)


@cache
def packaged() -> FittedPreModel:
    """The model that comes with the package."""
    name = "pre_model.json"
    return FittedPreModel.from_dict(safe_json.packaged_json(name), name)
