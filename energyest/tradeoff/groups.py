"""`compare_groups`: whether groups of runs differ, which of them, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.oneway import anova_oneway

from energyest.arrays import FloatArray
from energyest.checks import check_confidence
from energyest.display import as_text
from energyest.errors import MissingDependencyError, RunsError
from energyest.markup import as_html, with_unit_of
from energyest.tradeoff.effect_sizes import (
    cliffs_delta,
    cliffs_magnitude,
    eta_magnitude,
    of_ranks,
    of_variance,
)
from energyest.tradeoff.table import (
    By,
    as_names,
    check_choices,
    check_runs,
    check_value,
    groups_of,
    label,
    named,
)

# The Shapiro-Wilk test needs 3 values, and so does an estimate of the spread within a group.
FEWEST_RUNS = 3
# With fewer runs, a test of normality detects only coarse deviations (N. Razali, Y. Wah, 2011), and
# the chi-square distribution only approximates H (W. Kruskal, W. Wallis, 1952, for 5 and less).
_FEW_RUNS = 8


@dataclass(frozen=True, eq=False, repr=False)
class GroupComparison:
    """The result of `compare_groups`.

    Attributes:
        value: column that was compared.
        by: columns that define the groups.
        test: "Welch ANOVA" or "Kruskal-Wallis".
        statistic: Welch's F, or H.
        degrees: degrees of freedom: two for Welch's F, one for H.
        p_value: p-value of the test.
        eta_squared: share of the variance (of ranks, for Kruskal-Wallis) explained by the groups.
        epsilon_squared: the same, less biased; see `effect_sizes`.
        confidence: 1 − significance level of all tests.
        groups: one row per group: `group, runs, mean, median, std, shapiro_W, shapiro_p`; the last
            two are NaN if all values of a group are equal.
        levene_W: Levene's statistic, around medians (Brown-Forsythe).
        levene_p: its p-value; below 1 − `confidence`, the spreads of the groups differ.
        pairs: one row per pair: `a, b, difference` (of means or medians, depending on the test),
            `ratio` (likewise), `p_value` (Games-Howell, or Dunn with Holm's correction),
            `significant`, `cliffs_delta`, `magnitude`.
        notes: remarks on the interpretation, one sentence each.
    """

    value: str
    by: tuple[str, ...]
    test: str
    statistic: float
    degrees: tuple[float, ...]
    p_value: float
    eta_squared: float
    epsilon_squared: float
    confidence: float
    groups: pd.DataFrame
    levene_W: float
    levene_p: float
    pairs: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def magnitude(self) -> str:
        """The usual label for η²: negligible, small, medium or large."""
        return eta_magnitude(self.eta_squared)

    def __str__(self) -> str:
        return as_text(self._heading(), [self.groups, self.pairs], self.notes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        groups = with_unit_of(self.value, self.groups, ["mean", "median", "std"])
        pairs = with_unit_of(self.value, self.pairs, ["difference"])
        return as_html(self._heading(), [groups, pairs], self.notes)

    def _heading(self) -> str:
        name = "F" if self.test == "Welch ANOVA" else "H"
        degrees = ", ".join(f"{d:.4g}" for d in self.degrees)
        return (
            f"{self.value} by {', '.join(self.by)}: {self.test}, {name}({degrees}) = "
            f"{self.statistic:.4g}, p = {self.p_value:.3g}, η² = {self.eta_squared:.3f} "
            f"({self.magnitude}), ε² = {self.epsilon_squared:.3f}"
        )


def compare_groups(
    runs: pd.DataFrame, value: str = "energy_J", by: By = "model", *, confidence: float = 0.95
) -> GroupComparison:
    """Test whether groups of runs differ, as in the paper.

    If no group deviates from a normal distribution (Shapiro-Wilk), means are compared by Welch's
    ANOVA, which does not assume equal variances, and pairs by the Games-Howell test. Otherwise,
    ranks are compared by the Kruskal-Wallis test, and pairs by Dunn's test with Holm's correction.
    Levene's test helps to interpret a difference of ranks: if the groups have the same spread and
    shape, their medians differ; otherwise, one group tends to have higher values than the other.
    Runs are assumed to be independent.

    Args:
        runs: table with one row per run.
        value: column to compare.
        by: column or columns that define the groups.
        confidence: 1 − significance level of all tests.

    Raises:
        RunsError: there are fewer than two groups; a group has fewer than 3 runs; all runs have the
            same value; a column is missing or does not hold numbers; a value is unknown; or the
            confidence does not lie between 0 and 1.
        MissingDependencyError: Dunn's test needs scikit-posthocs, which is not installed.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import compare_groups
        >>> compare_groups(runs, 'energy_J', by='gpu').magnitude
        'negligible'
    """
    names = as_names(by)
    table = check_runs(runs, as_names([*names, value], "by and value"))
    confidence = check_confidence(confidence, RunsError)
    level = 1 - confidence
    check_choices(table, names)
    values = check_value(table, value, names)
    places = groups_of(table, names)
    # Tests do not depend on the scale, but squares of very large values overflow (or underflow).
    scale = math.ldexp(1.0, math.frexp(float(np.abs(values).max()))[1])  # division is exact
    labels, members = list(map(label, places)), [values[rows] / scale for rows in places.values()]
    _check_groups(labels, members, value, names)
    groups = _describe(labels, members)
    normal = bool((groups["shapiro_p"] > level).all())
    levene = stats.levene(*members, center="median")
    if normal:
        test = anova_oneway(members, use_var="unequal")
        degrees = tuple(float(d) for d in test.df)
        sizes = of_variance(members)
        p_values = _games_howell(members)
    else:
        test = stats.kruskal(*members)
        degrees = (float(len(members) - 1),)
        sizes = of_ranks(float(test.statistic), len(members), len(values))
        p_values = _dunn(members)
    pairs = _pairs(labels, members, p_values, normal, level)
    pairs["difference"] *= scale
    groups[["mean", "median", "std"]] *= scale
    return GroupComparison(
        value=value,
        by=tuple(names),
        test="Welch ANOVA" if normal else "Kruskal-Wallis",
        statistic=float(test.statistic),
        degrees=degrees,
        p_value=float(test.pvalue),
        eta_squared=sizes[0],
        epsilon_squared=sizes[1],
        confidence=confidence,
        groups=groups,
        levene_W=float(levene.statistic),
        levene_p=float(levene.pvalue),
        pairs=pairs,
        notes=_notes(groups, normal, float(levene.pvalue), level),
    )


def _check_groups(
    labels: Sequence[str], members: Sequence[FloatArray], value: str, names: Sequence[str]
) -> None:
    if len(members) < 2:
        raise RunsError(
            f"all runs are in one group ({', '.join(names)} is {labels[0]!r}): a comparison needs "
            "two"
        )
    counts = zip(labels, map(len, members), strict=True)
    few = [f"{name} has {count}" for name, count in counts if count < FEWEST_RUNS]
    if few:
        raise RunsError(
            f"each group needs at least {FEWEST_RUNS} runs to show its spread, but {named(few)}: "
            "repeat these trainings, or leave the groups out"
        )
    if np.ptp(np.concatenate(members)) == 0:
        raise RunsError(f"{value} is the same in all runs: there is nothing to compare")
    if all(np.ptp(group) == 0 for group in members):
        raise RunsError(
            f"{value} is the same in all runs of each group: without variation, no test can "
            "distinguish a difference from chance; are the runs copies, or not measured?"
        )


def _describe(labels: Sequence[str], members: Sequence[FloatArray]) -> pd.DataFrame:
    rows = []
    for name, group in zip(labels, members, strict=True):
        spread = np.ptp(group) > 0
        shapiro = stats.shapiro(group) if spread else (np.nan, np.nan)
        rows.append((name, len(group), group.mean(), np.median(group), group.std(ddof=1), *shapiro))
    columns = ["group", "runs", "mean", "median", "std", "shapiro_W", "shapiro_p"]
    found: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return found


def _games_howell(groups: Sequence[FloatArray]) -> FloatArray:
    """P-values of each pair, shape (groups, groups).

    P. Games, J. Howell, Journal of Educational Statistics 1 (1976), as `stats.tukey_hsd` has it
    since SciPy 1.16, which needs Python 3.11.
    """
    means = np.array([np.mean(group) for group in groups])
    # Squared standard errors of the means, and their degrees of freedom.
    squares = np.array([np.var(group, ddof=1) / len(group) for group in groups])
    parts = squares**2 / np.array([len(group) - 1 for group in groups])
    of_pair = np.add.outer(squares, squares)
    degrees = of_pair**2 / np.add.outer(parts, parts)
    statistic = np.abs(np.subtract.outer(means, means)) / np.sqrt(of_pair / 2)
    found: FloatArray = stats.studentized_range.sf(statistic, len(groups), degrees)
    return found


def _dunn(groups: Sequence[FloatArray]) -> FloatArray:
    try:
        from scikit_posthocs import posthoc_dunn  # noqa: PLC0415  (optional dependency)
    except ImportError as error:
        raise MissingDependencyError(
            "comparing groups by ranks needs scikit-posthocs: pip install scikit-posthocs"
        ) from error
    found: FloatArray = posthoc_dunn(list(groups), p_adjust="holm").to_numpy(float)
    return found


def _pairs(
    labels: Sequence[str],
    members: Sequence[FloatArray],
    p_values: FloatArray,
    normal: bool,
    level: float,
) -> pd.DataFrame:
    middles = [float(np.mean(group) if normal else np.median(group)) for group in members]
    rows = []
    for i, j in combinations(range(len(members)), 2):
        delta = cliffs_delta(members[i], members[j])
        rows.append(
            {
                "a": labels[i],
                "b": labels[j],
                "difference": middles[i] - middles[j],
                "ratio": middles[i] / middles[j] if middles[j] else np.nan,
                "p_value": p_values[i, j],
                "significant": bool(p_values[i, j] < level),
                "cliffs_delta": delta,
                "magnitude": cliffs_magnitude(delta),
            }
        )
    found: pd.DataFrame = pd.DataFrame(rows)
    return found


def _notes(groups: pd.DataFrame, normal: bool, levene_p: float, level: float) -> tuple[str, ...]:
    odd = groups[~(groups["shapiro_p"] > level)]
    if normal:
        notes = ["no group deviates from a normal distribution: means are compared (Games-Howell)"]
    else:
        notes = [
            f"not normally distributed: {named(list(odd['group']))}: ranks are compared (Dunn, "
            "Holm)"
        ]
        alike = levene_p > level
        notes.append(
            "Levene's test finds no difference in spread: if the groups also have the same shape, "
            "a difference means that medians differ"
            if alike
            else "the spreads of the groups differ (Levene): a difference means that one group "
            "tends to have higher values, not that medians differ"
        )
    flat = groups[groups["shapiro_p"].isna()]
    if len(flat):
        notes.append(f"all runs are equal in {named(list(flat['group']))}: are they copies?")
    few = groups[groups["runs"] < _FEW_RUNS]
    if len(few):
        notes.append(
            f"fewer than {_FEW_RUNS} runs in {named(list(few['group']))}: "
            + (
                "a test of normality has little power there"
                if normal
                else "p-values of ranks are approximate there"
            )
        )
    return tuple(notes)
