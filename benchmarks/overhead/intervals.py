"""A robust mean of paired ratios, with a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000


@dataclass(frozen=True)
class Ratio:
    """How much more one of two takes, in per cent, with a 90 % interval.

    Attributes:
        percent: mean of the middle 80 % of the logarithms of the ratios, as a ratio minus 1.
        lower: lower end of the interval (5 %).
        upper: upper end of the interval (95 %).
        spread: half the distance between the 16 % and 84 % quantiles of the pairs' ratios.
        pairs: number of pairs.
    """

    percent: float
    lower: float
    upper: float
    spread: float
    pairs: int

    def __str__(self) -> str:
        return (
            f"{self.percent:+.2f} % ({self.lower:+.2f} to {self.upper:+.2f}), "
            f"{self.pairs} pairs that spread by {self.spread:.1f} %"
        )


def paired(more: Sequence[float], less: Sequence[float], seed: int = 0) -> Ratio:
    """Compare paired times.

    Args:
        more: seconds with the tool, of shape (pairs,).
        less: seconds without it, of shape (pairs,).
        seed: seed of the bootstrap, which draws pairs.
    """
    logs = np.log(np.asarray(more, float) / np.asarray(less, float))
    draws = np.random.default_rng(seed).integers(len(logs), size=(RESAMPLES, len(logs)))
    lower, upper = np.quantile(_middle_mean(logs[draws]), (0.05, 0.95))
    low, high = np.quantile(logs, (0.16, 0.84))
    centre = float(_middle_mean(logs[None])[0])
    percents = [float(100 * np.expm1(value)) for value in (centre, lower, upper, (high - low) / 2)]
    return Ratio(*percents, pairs=len(logs))


def _middle_mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row without its smallest and largest tenth."""
    ordered = np.sort(rows, axis=1)
    cut = rows.shape[1] // 10
    means: NDArray[np.float64] = ordered[:, cut : rows.shape[1] - cut].mean(axis=1)
    return means
