"""A Gaussian process on the paper's ten features, stored as plain numbers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.regression.published import (
    FEATURES,
    Kernel,
    check_features,
    merged_kernel,
)
from energyest.estimators.regression.serialize import check_keys, from_numbers, settle, to_numbers

_GFLOPS = FEATURES.index("GFLOPs")


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Mean of a Gaussian process for the logarithm of the target.

    Where kernel ridge searches its settings at random, these are those of the greatest marginal
    likelihood: no draw has to hit them. GFLOPs, which span orders of magnitude, are taken as
    logarithms. Far from all runs it predicts their geometric mean.

    Attributes:
        mean: shape (10,), mean of each feature in the rows of the fit.
        scale: shape (10,), their standard deviations; 1 for a feature that did not vary.
        function: from the standardised features to the logarithm of the target.
    """

    mean: FloatArray
    scale: FloatArray
    function: Kernel

    def __post_init__(self) -> None:
        settle(self, "mean", (len(FEATURES),))
        settle(self, "scale", (len(FEATURES),))
        if np.any(self.scale <= 0):
            raise EstimateError("scale of a PRE model must be positive throughout")

    @classmethod
    def fit(cls, features: FloatArray, target: FloatArray, *, seed: int = 0) -> Gaussian:
        """Fit it with scikit-learn: a constant × RBF, and noise, by marginal likelihood.

        Args:
            features: shape (n, 10), in the order and the units of `FEATURES`.
            target: shape (n,), positive.
            seed: of the search's second start.

        Raises:
            EstimateError: a feature is not finite, GFLOPs are not positive, or there are fewer
                than two runs.
        """
        # Late, as it takes a second to load and nothing but a fit needs it.
        from sklearn.exceptions import (  # noqa: PLC0415
            ConvergenceWarning,
        )
        from sklearn.gaussian_process import (  # noqa: PLC0415
            GaussianProcessRegressor,
            kernels,
        )

        rows = _with_log(features)
        if len(rows) < 2:
            raise EstimateError(f"a Gaussian process needs two runs or more: there are {len(rows)}")
        mean, scale = rows.mean(axis=0), rows.std(axis=0)
        scale[scale < 1e-12 * np.maximum(1, np.abs(mean))] = 1.0
        middle, deviation = float(np.log(target).mean()), float(np.log(target).std()) or 1.0
        process = GaussianProcessRegressor(
            kernels.ConstantKernel() * kernels.RBF() + kernels.WhiteKernel(1e-2, (1e-6, 1.0)),
            n_restarts_optimizer=1,
            random_state=seed,
        )
        with warnings.catch_warnings():
            # Runs that hardly differ, or without noise: the best setting is then the bound.
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit((rows - mean) / scale, (np.log(target) - middle) / deviation)
        found = process.kernel_.get_params()
        weights = deviation * found["k1__k1__constant_value"] * process.alpha_
        gamma = 0.5 / found["k1__k2__length_scale"] ** 2
        return cls(mean, scale, merged_kernel(process.X_train_, weights, gamma, middle))

    def predict(self, features: FloatArray) -> FloatArray:
        """The target of each row, of shape (n,), in the unit of the fit."""
        return np.exp(self.function.values((_with_log(features) - self.mean) / self.scale))

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text alone, for JSON; `from_dict` is the way back."""
        return {
            "features": list(FEATURES),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "function": to_numbers(self.function),
        }

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> Gaussian:
        """What `to_dict` wrote.

        Raises:
            EstimateError: a part is missing or unknown, has a wrong shape, or is not finite.
        """
        check_keys(parts, {part.name for part in fields(cls)} | {"features"}, "a Gaussian process")
        if parts["features"] != list(FEATURES):
            raise EstimateError(f"a Gaussian process must have the features {', '.join(FEATURES)}")
        return cls(
            parts["mean"],
            parts["scale"],
            from_numbers(Kernel, parts["function"], "function of a Gaussian process"),
        )


def _with_log(features: FloatArray) -> FloatArray:
    rows = check_features(features)
    if np.any(rows[:, _GFLOPS] <= 0):
        row = int(np.argmax(rows[:, _GFLOPS] <= 0))
        raise EstimateError(f"GFLOPs in row {row} is {rows[row, _GFLOPS]:g}: it must be positive")
    rows[:, _GFLOPS] = np.log(rows[:, _GFLOPS])
    return rows
