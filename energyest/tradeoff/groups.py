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
from energyest.markup import as_html
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

# Shapiro and Wilk's test needs 3 values, and so does a spread within a group.
FEWEST_RUNS = 3
# Below this, a test of normality sees coarse deviations at best (N. Razali, Y. Wah, 2011), and the
# chi-square distribution is a rough guide to H (W. Kruskal, W. Wallis, 1952, for 5 and less).
_FEW_RUNS = 8


@dataclass(frozen=True, eq=False, repr=False)
class GroupComparison:
    """What `compare_groups` found.

    Attributes:
        value: what was compared.
        by: what makes a group.
        test: "Welch ANOVA" or "Kruskal-Wallis".
        statistic: Welch's F, or H.
        degrees: degrees of freedom: of Welch's F two, of H one.
        p_value: of the test.
        eta_squared: share of the variance (of ranks, for Kruskal-Wallis) that groups make up.
        epsilon_squared: the same, less biased; see `effect_sizes`.
        confidence: 1 − level of all decisions.
        groups: a row a group: `group, runs, mean, median, std, shapiro_W, shapiro_p`; the last two
            are NaN where all values of a group are equal.
        levene_W: Levene's statistic, around medians (Brown and Forsythe).
        levene_p: its p-value; below 1 − `confidence` the groups are spread differently.
        pairs: a row a pair: `a, b, difference` (of means or medians, as the test has it),
            `ratio` (likewise), `p_value` (Games-Howell, or Dunn with Holm's correction),
            `significant`, `cliffs_delta`, `magnitude`.
        notes: what to keep in mind, one sentence each.
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
        """The usual name of the size of η²: negligible, small, medium or large."""
        return eta_magnitude(self.eta_squared)

    def __str__(self) -> str:
        return as_text(self._heading(), [self.groups, self.pairs], self.notes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self._heading(), [self.groups, self.pairs], self.notes)

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
    """Whether groups of runs differ, as the paper tests it.

    Where no group deviates from a normal distribution (Shapiro and Wilk), Welch's ANOVA, which
    needs no equal spreads, compares the means, and Games and Howell's test each pair. Otherwise
    Kruskal and Wallis' test compares the ranks, and Dunn's each pair, with Holm's correction.
    Levene's test says what a difference of ranks means: that medians differ, if groups are spread
    alike and have one shape; otherwise, that one group tends to lie above the other. Runs are taken
    to be independent of each other.

    Args:
        runs: one row a run.
        value: column to compare.
        by: column, or columns, that make a group.
        confidence: tests decide at the level 1 − `confidence`.

    Raises:
        RunsError: there are fewer than two groups; a group has fewer than 3 runs; all runs have the
            same value; a column is missing or does not hold numbers; a value is not known; the
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
    # Tests do not depend on the scale, but squares of very large or small values overflow.
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
        p_values = stats.tukey_hsd(*members, equal_var=False).pvalue
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
            f"all runs are of one group ({', '.join(names)} is {labels[0]!r}): a comparison needs "
            "two"
        )
    counts = zip(labels, map(len, members), strict=True)
    few = [f"{name} has {count}" for name, count in counts if count < FEWEST_RUNS]
    if few:
        raise RunsError(
            f"each group needs {FEWEST_RUNS} runs or more, so that its own spread is known, and "
            f"{named(few)}: repeat these trainings, or leave the groups out"
        )
    if np.ptp(np.concatenate(members)) == 0:
        raise RunsError(f"{value} is the same in all runs: there is nothing to compare")
    if all(np.ptp(group) == 0 for group in members):
        raise RunsError(
            f"{value} is the same in all runs of each group: without a spread no test can tell a "
            "difference from chance; are the runs copies, or the values no measurements?"
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


def _dunn(groups: Sequence[FloatArray]) -> FloatArray:
    try:
        from scikit_posthocs import posthoc_dunn  # noqa: PLC0415  (optional dependency)
    except ImportError as error:
        raise MissingDependencyError(
            "comparing groups by ranks needs scikit-posthocs: pip install 'energyest[tradeoff]'"
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
            "Levene sees no difference in spread: a difference is one of medians, if the groups "
            "have one shape as well"
            if alike
            else "the groups are spread differently (Levene): a difference says which group tends "
            "to be above the other, not that medians differ"
        )
    flat = groups[groups["shapiro_p"].isna()]
    if len(flat):
        notes.append(f"all runs are equal in {named(list(flat['group']))}: are they copies?")
    few = groups[groups["runs"] < _FEW_RUNS]
    if len(few):
        notes.append(
            f"fewer than {_FEW_RUNS} runs in {named(list(few['group']))}: "
            + (
                "a test of normality sees little there"
                if normal
                else "p-values of ranks are approximate there"
            )
        )
    return tuple(notes)
