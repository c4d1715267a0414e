"""Mean power as a share of the board's limit: a model with two parameters, also for unseen GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from energyest.arrays import FloatArray
from energyest.errors import EstimateError

#: The columns of `features` below.
SHARED = ("batch_size", "GFLOPs", "gpu_power_limit_W")
# A line through two settings fits both exactly and leaves no residuals to estimate its error.
_FEWEST_SETTINGS = 3


@dataclass(frozen=True, eq=False)
class PowerShare:
    """log(mean power ÷ power limit) = intercept + slope × log(GFLOPs × batch size), at most 0.

    It is fitted to the mean of each setting, because repetitions of a setting do not show how
    settings differ. If all runs were treated as independent, a 90 % interval would cover only 60 to
    64 % of the authors' public runs on left-out GPUs and models.

    Attributes:
        line: ordinary-least-squares result of statsmodels; its `params` are intercept and slope.
        repetition_variance: variance of the logarithm of a run's share around the mean of its
            setting; 0 if no setting was repeated.
    """

    line: Any
    repetition_variance: float

    @classmethod
    def fit(
        cls, features: FloatArray, power_W: FloatArray, setting: NDArray[np.intp]
    ) -> PowerShare:
        """Fit the line to the means of the settings.

        Args:
            features: shape (n, 3), the columns `SHARED`, positive.
            power_W: mean power of each run, of shape (n,), positive.
            setting: integers from 0, of shape (n,), equal for repetitions.

        Raises:
            EstimateError: there are fewer than three settings, or all have the same FLOPs.
        """
        # Imported here: it takes a second to load, and other regressors do not need it.
        from statsmodels.regression.linear_model import OLS  # noqa: PLC0415

        design, limit_W = _design_and_limit(features)
        share = np.log(power_W / limit_W)
        runs = np.bincount(setting)
        x = np.bincount(setting, design[:, 1]) / runs
        y = np.bincount(setting, share) / runs
        if len(runs) < _FEWEST_SETTINGS or np.ptp(x) < 1e-9:
            raise EstimateError(
                f"power_share needs runs with at least {_FEWEST_SETTINGS} settings that differ in "
                f"GFLOPs × batch_size: there are {len(runs)}"
            )
        within = float(((share - y[setting]) ** 2).sum())
        line = OLS(y, np.column_stack([np.ones(len(x)), x])).fit()
        return cls(line, within / max(1, len(share) - len(runs)))

    def predict(self, features: FloatArray) -> FloatArray:
        """Mean power in W, of shape (n,), at most the limit."""
        design, limit_W = _design_and_limit(features)
        power_W: FloatArray = limit_W * np.exp(np.minimum(self.line.predict(design), 0.0))
        return power_W

    def interval(self, features: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
        """Lower and upper end of a single run's mean power in W, each of shape (n,).

        It combines the prediction interval of ordinary least squares for an unmeasured setting,
        from Student's t, with the deviation of a single run from its setting.
        """
        design, limit_W = _design_and_limit(features)
        variance = self.line.get_prediction(design).se_obs ** 2 + self.repetition_variance
        quantile = float(stdtrit(self.line.df_resid, (1 + confidence) / 2))
        # Three settings leave one degree of freedom, so the quantile can be very large.
        factor = np.exp(np.minimum(quantile * np.sqrt(variance), 700.0))
        power_W = self.predict(features)
        return power_W / factor, np.minimum(power_W * factor, limit_W)


def _design_and_limit(features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """1 and the logarithm of GFLOPs × batch size, of shape (n, 2), and the power limit in W."""
    batch_size, GFLOPs, limit_W = features.T
    return np.column_stack([np.ones(len(features)), np.log(batch_size * GFLOPs)]), limit_W
