"""A Gaussian process on the residuals of the physical formula."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array

# Least scale of a feature. Features that hardly vary among the measurements would otherwise make
# small differences seem large.
_LEAST_SCALE = 0.25
# Bounds of the length scale, in scaled units.
_LENGTHS = (2.0, 100.0)
# Share of the measurements that lie within reach of their nearest neighbour.
_LIKE = 0.95
# The largest correction, in logarithms, and the largest value of a feature.
_MOST, _LARGEST = 12.0, 1e6
# Most measurements of a stored correction: their number squared has to fit into memory.
_MOST_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Correction:
    """A Gaussian process with mean 0 and a squared-exponential kernel, as plain numbers.

    Far from all measurements, the correction is 0 and its deviation is largest.

    Attributes:
        features: features of the measurements, of shape (n, d).
        left_over: residuals: logarithm of measured ÷ computed, of shape (n,).
        signal: standard deviation of the correction.
        length: length scale in units of the features' spread.
        noise: standard deviation of the noise.
    """

    features: Array
    left_over: Array
    signal: float
    length: float
    noise: float

    @classmethod
    def fit(cls, features: Array, left_over: Array, least: Correction | None = None) -> Correction:
        """Find signal, length and noise by maximum likelihood.

        Args:
            features: features of the measurements, of shape (n, d).
            left_over: residuals: logarithm of measured ÷ computed, of shape (n,).
            least: a correction that this one must not be more certain than: signal and noise are
                at least as large, and the length is at most as large.
        """
        from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
        from sklearn.gaussian_process.kernels import (  # noqa: PLC0415
            RBF,
            ConstantKernel,
            WhiteKernel,
        )

        spread = max(float(np.sqrt(np.mean(left_over**2))), 1e-3)
        least_signal, least_noise, most_length = 1e-3, 1e-2, _LENGTHS[1]
        if least is not None:
            least_signal, least_noise, most_length = least.signal, least.noise, least.length
        kernel = ConstantKernel(spread**2, (least_signal**2, 1.0)) * RBF(
            min(3.0, most_length), (_LENGTHS[0], most_length)
        ) + WhiteKernel(spread**2 / 4, (least_noise**2, 1.0))
        process = GaussianProcessRegressor(kernel, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value at its bound is acceptable
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
        """Mean and standard deviation (with noise) of the residuals, each of shape (n,)."""
        mean, deviation = self._process.predict(_scaled(features, self.features), return_std=True)
        return np.clip(mean, -_MOST, _MOST), np.hypot(deviation, self.noise)

    def not_carried(self, deviation: Array, correlation: Array) -> Array:
        """Standard deviation to add where only a part of the mean holds, of shape (n,).

        Args:
            deviation: standard deviation from `at`, of shape (n,).
            correlation: correlation of the residuals with those of measurements with the same
                features, from 0 to 1, of shape (n,); this part of the mean holds.
        """
        explained = self.signal**2 + self.noise**2 - deviation**2
        return np.sqrt((1 - correlation**2) * np.maximum(explained, 0.0))

    def is_unlike(self, features: Array) -> NDArray[np.bool_]:
        """Whether rows lie farther from all measurements than these do from each other.

        A row is unlike if it is farther from the nearest measurement than 19 of 20 measurements are
        from their nearest neighbour. This is the domain of applicability as used in chemistry
        (Sheridan et al., "Similarity to molecules in the training set is a good discriminator for
        prediction accuracy in QSAR", 2004). Shape (n,).
        """
        distance, _ = self._neighbours.query(_scaled(features, self.features))
        unlike: NDArray[np.bool_] = distance > self._reach
        return unlike

    @cached_property
    def _neighbours(self) -> Any:
        from scipy.spatial import KDTree  # noqa: PLC0415

        # Repetitions of a training are one point: they do not show how far apart trainings lie.
        return KDTree(np.unique(_scaled(self.features, self.features), axis=0))

    @cached_property
    def _reach(self) -> float:
        points = self._neighbours.data
        if len(points) < 2:
            return 0.0
        distance, _ = self._neighbours.query(points, k=2)
        return float(np.quantile(distance[:, 1], _LIKE))

    @cached_property
    def _process(self) -> Any:
        from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel  # noqa: PLC0415

        kernel = ConstantKernel(self.signal**2) * RBF(self.length)
        process = GaussianProcessRegressor(kernel, alpha=self.noise**2, optimizer=None)
        return process.fit(_scaled(self.features, self.features), self.left_over)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON, without the features."""
        left_over = [float(f"{value:.6g}") for value in self.left_over]
        return {
            "left_over": left_over,
            "signal": self.signal,
            "length": self.length,
            "noise": self.noise,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], features: Array) -> Correction:
        """Restore a correction from `to_dict`.

        Raises:
            EstimateError: something is missing or invalid.
        """
        try:
            left_over = np.array(content["left_over"], float)
            numbers = [float(content[name]) for name in ("signal", "length", "noise")]
        except (KeyError, TypeError, ValueError) as error:
            raise EstimateError(f"not a stored correction: {error!r}") from error
        fits = features.ndim == 2 and left_over.shape == features.shape[:1]
        # Far beyond the bounds of the fit, squares overflow and the process has no solution.
        signal, length, noise = numbers
        in_range = (
            0 < signal <= 10
            and 0 < length <= 1e6
            and 1e-3 <= noise <= 10
            and 0 < left_over.size <= _MOST_ROWS
            and bool((np.abs(left_over) <= _MOST).all() and (np.abs(features) <= _LARGEST).all())
        )
        if not (fits and in_range):
            raise EstimateError("not a stored correction: its numbers do not fit together")
        return cls(features, left_over, *numbers)


def _scaled(features: Array, of: Array) -> Array:
    scaled: Array = (features - of.mean(axis=0)) / np.maximum(of.std(axis=0), _LEAST_SCALE)
    return scaled
