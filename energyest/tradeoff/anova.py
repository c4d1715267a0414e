"""Two-way analysis of variance, of values or of aligned ranks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from energyest.arrays import FloatArray

RESIDUAL = "residual"
_EFFECTS = ("a", "b", "a:b")
Levels = NDArray[np.object_]


def two_way_anova(
    y: FloatArray, a: Levels, b: Levels, *, typ: int = 2, robust: str | None = None
) -> pd.DataFrame:
    """Sums of squares of two factors and their interaction, by statsmodels.

    Args:
        y: shape (runs,).
        a: levels of the first factor, shape (runs,).
        b: levels of the second factor, shape (runs,).
        typ: type of the sums of squares, 2 or 3; both agree if all pairs have equally many runs.
        robust: "hc3" for F statistics that hold if variances differ between pairs (J. Long,
            L. Ervin, 2000); the sums of squares are then meaningless.

    Returns:
        Rows `a`, `b`, `a:b` and `residual`; columns `sum_sq`, `share` (of the sum of squares around
        the mean), `df`, `F`, `p_value`, `partial_eta_squared`.
    """
    from statsmodels.formula.api import ols  # noqa: PLC0415  (slow to import)
    from statsmodels.stats.anova import anova_lm  # noqa: PLC0415

    data = pd.DataFrame({"y": y, "a": a, "b": b})
    # Type III is only correct if the contrast codes of each factor sum to zero.
    found: pd.DataFrame = anova_lm(
        ols("y ~ C(a, Sum) * C(b, Sum)", data).fit(), typ=typ, robust=robust
    )
    found = found.drop(index="Intercept", errors="ignore").set_axis([*_EFFECTS, RESIDUAL])
    found = found.rename(columns={"PR(>F)": "p_value"})
    left = float(found["sum_sq"][RESIDUAL])
    found.insert(1, "share", found["sum_sq"] / float(np.sum((y - y.mean()) ** 2)))
    found["partial_eta_squared"] = found["sum_sq"] / (found["sum_sq"] + left)
    found.loc[RESIDUAL, "partial_eta_squared"] = np.nan
    return found


def aligned_rank_anova(y: FloatArray, a: Levels, b: Levels) -> pd.DataFrame:
    """F, p and partial η² of each effect, on ranks aligned for that effect.

    J. Wobbrock, L. Findlater, D. Gergle, J. Higgins, The aligned rank transform for nonparametric
    factorial analyses using only ANOVA procedures, CHI 2011. For each effect, the mean of its cell
    is subtracted from each value, the effect (estimated from the means) is added, and the result is
    ranked. The ANOVA of these ranks, with type III sums of squares as in R's ARTool, is used for
    this effect only. Plain ranks would find interactions that do not exist. If pairs have different
    numbers of runs, the alignment does not remove the other effects entirely.

    Returns:
        The columns `F`, `p_value` and `partial_eta_squared` of `two_way_anova`; NaN for the
        residual.
    """
    residuals = cell_residuals(y, a, b)
    mean_a, mean_b, cell = (_means(y, keys) for keys in ((a,), (b,), (a, b)))
    effects = {
        "a": mean_a - y.mean(),
        "b": mean_b - y.mean(),
        "a:b": cell - mean_a - mean_b + y.mean(),
    }
    rows = {}
    for name, effect in effects.items():
        # Rounding errors must not break ties.
        aligned = np.round(residuals + effect, 12 - int(np.floor(np.log10(np.ptp(y)))))
        rows[name] = two_way_anova(stats.rankdata(aligned), a, b, typ=3).loc[name]
    columns = ["F", "p_value", "partial_eta_squared"]
    found = pd.DataFrame(rows).T[columns].astype(float)
    ordered: pd.DataFrame = found.reindex([*_EFFECTS, RESIDUAL])
    return ordered


def robust_anova(y: FloatArray, a: Levels, b: Levels) -> pd.DataFrame:
    """F, p and partial η² of each effect if variances differ between pairs, by HC3.

    Returns:
        As `aligned_rank_anova`; partial η² is computed from F.
    """
    found = two_way_anova(y, a, b, typ=3, robust="hc3")
    effect = found["F"] * found["df"]
    found["partial_eta_squared"] = effect / (effect + found["df"][RESIDUAL])
    columns: pd.DataFrame = found[["F", "p_value", "partial_eta_squared"]]
    return columns


def cell_residuals(y: FloatArray, a: Levels, b: Levels) -> FloatArray:
    """Deviations from the mean of each cell, shape (runs,)."""
    residuals: FloatArray = y - _means(y, (a, b))
    return residuals


def _means(y: FloatArray, keys: tuple[Levels, ...]) -> FloatArray:
    """The mean of each run's level, or pair of levels, shape (runs,)."""
    grouped = pd.DataFrame({"y": y, **{str(i): key for i, key in enumerate(keys)}})
    means: FloatArray = (
        grouped.groupby([str(i) for i in range(len(keys))])["y"].transform("mean").to_numpy(float)
    )
    return means
