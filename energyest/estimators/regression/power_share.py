"""Mean power as a share of the board's limit: two numbers that hold for a GPU never seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from energyest.arrays import FloatArray
from energyest.errors import EstimateError
from energyest.estimators.regression.serialize import from_numbers, settle, to_numbers

# A line through two settings meets both: nothing would tell how far off it is.
_FEWEST_SETTINGS = 3


@dataclass(frozen=True)
class PowerShare:
    """log(mean power ÷ power limit) = intercept + slope × log(GFLOPs × batch size), at most 0.

    Fitted to the mean of each setting: repetitions of a setting tell nothing of how settings
    differ, and an interval from all runs as if they were independent would hold 60 to 64 % of
    the authors' public runs on left-out GPUs and models where it is meant to hold 90 %.

    Attributes:
        intercept: logarithm of the share at 1 GFLOP in a batch.
        slope: by which power of a batch's FLOPs the share grows.
        settings: how many settings were learnt from.
        centre: mean of log(GFLOPs × batch size) over the settings.
        spread: sum of squared distances from it.
        variance: of the logarithm of a setting's share around the line.
        repetition_variance: of the logarithm of a run's share around the mean of its setting; 0
            where no setting was repeated.
    """

    intercept: float
    slope: float
    settings: float
    centre: float
    spread: float
    variance: float
    repetition_variance: float

    def __post_init__(self) -> None:
        for part in fields(self):
            settle(self, part.name, ())
        if self.settings < _FEWEST_SETTINGS or self.spread <= 0:
            raise EstimateError(
                f"settings={self.settings!r} and spread={self.spread!r} of a PRE model must be at "
                f"least {_FEWEST_SETTINGS} and positive"
            )
        if min(self.variance, self.repetition_variance) < 0:
            raise EstimateError("a variance of a PRE model is negative")

    @classmethod
    def fit(
        cls, batch_GFLOPs: FloatArray, share: FloatArray, setting: NDArray[np.intp]
    ) -> PowerShare:
        """Fit the line by ordinary least squares (statsmodels) to the means of the settings.

        Args:
            batch_GFLOPs: GFLOPs × batch size of each run, of shape (n,), positive.
            share: mean power ÷ power limit, of shape (n,), positive.
            setting: whole numbers from 0 on, of shape (n,), alike for repetitions.

        Raises:
            EstimateError: there are fewer than three settings, or all have the same FLOPs.
        """
        # Late, as it takes a second to load and nothing but a fit needs it.
        import statsmodels.api as sm  # noqa: PLC0415

        runs = np.bincount(setting)
        x = np.bincount(setting, np.log(batch_GFLOPs)) / runs
        y = np.bincount(setting, np.log(share)) / runs
        if len(runs) < _FEWEST_SETTINGS or np.ptp(x) < 1e-9:
            raise EstimateError(
                f"power_share needs runs of {_FEWEST_SETTINGS} settings or more that differ in "
                f"GFLOPs × batch_size: there are {len(runs)}"
            )
        result = sm.OLS(y, sm.add_constant(x, has_constant="add")).fit()
        within = float(((np.log(share) - y[setting]) ** 2).sum())
        return cls(
            intercept=float(result.params[0]),
            slope=float(result.params[1]),
            settings=float(len(runs)),
            centre=float(x.mean()),
            spread=float(((x - x.mean()) ** 2).sum()),
            variance=float(result.scale),
            repetition_variance=within / max(1, len(share) - len(runs)),
        )

    def predict(self, batch_GFLOPs: FloatArray) -> FloatArray:
        """Share of the power limit, of shape (n,), at most 1."""
        return np.exp(np.minimum(self.intercept + self.slope * np.log(batch_GFLOPs), 0.0))

    def factor(self, batch_GFLOPs: FloatArray, confidence: float) -> FloatArray:
        """By how much a run's share may lie above or below what is predicted, of shape (n,).

        The prediction interval of ordinary least squares, from Student's t, for a setting that was
        not measured, and the deviation of a single run from its setting on top.
        """
        leverage = 1 / self.settings + (np.log(batch_GFLOPs) - self.centre) ** 2 / self.spread
        variance = self.variance * (1 + leverage) + self.repetition_variance
        quantile = float(stdtrit(self.settings - 2, (1 + confidence) / 2))
        # Three settings leave one degree of freedom: the quantile may be of any size.
        factor: FloatArray = np.exp(np.minimum(quantile * np.sqrt(variance), 700.0))
        return factor

    def to_dict(self) -> dict[str, Any]:
        """Numbers alone, for JSON; `from_dict` is the way back."""
        return to_numbers(self)

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> PowerShare:
        """What `to_dict` wrote.

        Raises:
            EstimateError: a part is missing, unknown or out of its range.
        """
        return from_numbers(cls, parts, "a power_share model")
