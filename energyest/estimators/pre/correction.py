"""What measurements say beyond the formula: a Gaussian process on what it leaves over."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.physics import Array

# Features that hardly vary among the measurements are not stretched to their small spread: what
# differs a little from all of them would seem far away.
_LEAST_SCALE = 0.25
# Between how many scaled units a correction may change.
_LENGTHS = (0.7, 100.0)


@dataclass(frozen=True, eq=False)
class Correction:
    """A Gaussian process with mean 0 and a squared-exponential kernel, as plain numbers.

    Far from all measurements it corrects nothing, and its deviation is the greatest.

    Attributes:
        features: of the measurements, of shape (n, d).
        left_over: logarithm of measured ÷ computed, of shape (n,).
        signal: standard deviation of what is corrected.
        length: distance over which it changes, in units of the features' spread.
        noise: standard deviation of what no feature explains.
    """

    features: Array
    left_over: Array
    signal: float
    length: float
    noise: float

    @classmethod
    def fit(cls, features: Array, left_over: Array) -> Correction:
        """Find signal, length and noise by the likelihood of the measurements."""
        from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
        from sklearn.gaussian_process.kernels import (  # noqa: PLC0415
            RBF,
            ConstantKernel,
            WhiteKernel,
        )

        spread = max(float(np.sqrt(np.mean(left_over**2))), 1e-3)
        kernel = ConstantKernel(spread**2, (1e-6, 1.0)) * RBF(3.0, _LENGTHS) + WhiteKernel(
            spread**2 / 4, (1e-4, 1.0)
        )
        process = GaussianProcessRegressor(kernel, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value at its bound is an answer, too
            process.fit(_scaled(features, features), left_over)
        product, white = process.kernel_.k1, process.kernel_.k2
        return cls(
            features,
            left_over,
            math.sqrt(product.k1.constant_value),
            float(product.k2.length_scale),
            math.sqrt(white.noise_level),
        )

    def at(self, features: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, noise included, of what is left over, each of shape (n,)."""
        mean, deviation = self._process.predict(_scaled(features, self.features), return_std=True)
        return mean, np.hypot(deviation, self.noise)

    @cached_property
    def _process(self) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel  # noqa: PLC0415

        kernel = ConstantKernel(self.signal**2) * RBF(self.length)
        process = GaussianProcessRegressor(kernel, alpha=self.noise**2, optimizer=None)
        return process.fit(_scaled(self.features, self.features), self.left_over)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers without the features, for JSON."""
        left_over = [float(f"{value:.6g}") for value in self.left_over]
        return {
            "left_over": left_over,
            "signal": self.signal,
            "length": self.length,
            "noise": self.noise,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], features: Array) -> Correction:
        """What `to_dict` gave.

        Raises:
            EstimateError: something is missing or is not what it should be.
        """
        try:
            left_over = np.array(content["left_over"], float)
            numbers = [float(content[name]) for name in ("signal", "length", "noise")]
        except (KeyError, TypeError, ValueError) as error:
            raise EstimateError(f"not a stored correction: {error!r}") from error
        fits = features.ndim == 2 and left_over.shape == features.shape[:1] and left_over.size
        finite = np.isfinite(features).all() and np.isfinite([*left_over, *numbers]).all()
        if not (fits and finite and min(numbers) > 0):
            raise EstimateError("not a stored correction: its numbers do not fit together")
        return cls(features, left_over, *numbers)


def _scaled(features: Array, of: Array) -> Array:
    scaled: Array = (features - of.mean(axis=0)) / np.maximum(of.std(axis=0), _LEAST_SCALE)
    return scaled
