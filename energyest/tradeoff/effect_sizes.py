"""Effect sizes η², ε² and Cliff's δ, and the usual labels for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import mannwhitneyu

from energyest.arrays import FloatArray

# Each label with the smallest value it applies to.
_CLIFF = ((0.474, "large"), (0.33, "medium"), (0.147, "small"), (0.0, "negligible"))
_ETA = ((0.14, "large"), (0.06, "medium"), (0.01, "small"), (0.0, "negligible"))


def cliffs_delta(a: FloatArray, b: FloatArray) -> float:
    """P(value of `a` > value of `b`) − P(value of `a` < value of `b`), from −1 to 1.

    N. Cliff, Dominance statistics, Psychological Bulletin 114 (1993). It equals 2U ÷ (n·m) − 1,
    with U from the Mann-Whitney test.
    """
    return float(2 * mannwhitneyu(a, b, method="asymptotic").statistic / (len(a) * len(b)) - 1)


def cliffs_magnitude(delta: float) -> str:
    """The usual label for a value of δ: J. Romano et al. (2006), limits 0.147, 0.33 and 0.474."""
    return _name(abs(delta), _CLIFF)


def eta_magnitude(share: float) -> str:
    """The usual label for a value of η² or ε²: J. Cohen (1988), limits 0.01, 0.06 and 0.14."""
    return _name(share, _ETA)


def of_variance(groups: Sequence[FloatArray]) -> tuple[float, float]:
    """η² and ε² of an analysis of variance.

    η² = SS between ÷ SS total. ε² subtracts what chance alone would give (T. Kelley, 1935):
    (SS between − (k − 1) MS within) ÷ SS total.
    """
    values = np.concatenate(groups)
    total = float(np.sum((values - values.mean()) ** 2))
    within = float(sum(np.sum((g - g.mean()) ** 2) for g in groups))
    k, n = len(groups), len(values)
    between = total - within
    return between / total, (between - (k - 1) * within / (n - k)) / total


def of_ranks(H: float, k: int, n: int) -> tuple[float, float]:
    """η² and ε² from the Kruskal-Wallis H for k groups with n values in total.

    M. Tomczak, E. Tomczak, Trends in Sport Sciences 1 (2014): η² = (H − k + 1) ÷ (n − k), which can
    be below 0 without an effect, and ε² = H (n + 1) ÷ (n² − 1) = H ÷ (n − 1).
    """
    return (H - k + 1) / (n - k), H / (n - 1)


def _name(size: float, limits: Sequence[tuple[float, str]]) -> str:
    return next((name for least, name in limits if size >= least), limits[-1][1])
