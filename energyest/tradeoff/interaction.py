"""`interaction`: a two-way analysis of variance of two factors and their interaction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from energyest.arrays import FloatArray
from energyest.checks import check_confidence
from energyest.display import as_text
from energyest.errors import RunsError
from energyest.markup import as_html, with_unit_of
from energyest.tradeoff.anova import (
    RESIDUAL,
    Levels,
    aligned_rank_anova,
    cell_residuals,
    robust_anova,
    two_way_anova,
)
from energyest.tradeoff.table import (
    Groups,
    as_names,
    check_choices,
    check_runs,
    check_value,
    groups_of,
    named,
    refuse_taken,
)

#: Runs per pair needed to compare spreads: with five, Levene's test misses most differences that
#: cause a false alarm in one table of eight (benchmarks/evidence/tradeoff_errors.py).
FEWEST_SPREAD = 10


@dataclass(frozen=True, eq=False, repr=False)
class Interaction:
    """The result of `interaction`.

    Attributes:
        value: column that was analysed.
        factors: the two factors.
        log: whether the logarithm of the value was analysed.
        test: the test that the p-values come from: "two-way ANOVA", "two-way ANOVA, HC3" or
            "aligned rank transform".
        effects: one row for each factor, their interaction (`a:b`) and the residual (`residual`):
            `sum_sq, share, df` (type II sums of squares of the two-way ANOVA; `share` of the total
            sum of squares), `F, p_value, partial_eta_squared` (from `test`).
        cells: one row per pair of levels: the factors, `runs, mean, median` of the value; `std` of
            the analysed value or logarithm.
        shapiro_p: p-value of the Shapiro-Wilk test of the residuals.
        levene_p: p-value of Levene's test of the cells, around medians; NaN if a cell has fewer
            than 10 runs.
        confidence: 1 − significance level of all tests.
        notes: remarks on the interpretation, one sentence each.
    """

    value: str
    factors: tuple[str, str]
    log: bool
    test: str
    effects: pd.DataFrame
    cells: pd.DataFrame
    shapiro_p: float
    levene_p: float
    confidence: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return as_text(self._heading(), [self._named_effects()], self.notes)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = self.cells.rename(columns={"std": "std_of_logarithm"}) if self.log else self.cells
        cells = with_unit_of(self.value, cells, ["mean", "median", "std"])
        return as_html(self._heading(), [self._named_effects(), cells], self.notes)

    def _named_effects(self) -> pd.DataFrame:
        effects: pd.DataFrame = self.effects.rename_axis("effect").reset_index()
        return effects

    def _heading(self) -> str:
        shares = ", ".join(
            f"{name} {100 * share:.3g} %" for name, share in self.effects["share"].items()
        )
        return f"{'log ' * self.log}{self.value}: {shares} of the sum of squares; {self.test}"


def interaction(
    runs: pd.DataFrame,
    value: str = "energy_J",
    factors: Sequence[str] = ("model", "gpu"),
    *,
    log: bool = True,
    confidence: float = 0.95,
) -> Interaction:
    """Analyse how much two factors and their interaction contribute to a value.

    This is a two-way analysis of variance of the logarithm of the value: an interaction then means
    that a choice multiplies the cost by more on one GPU than on another. The sums of squares always
    come from this analysis. The p-values come

    - from the same analysis if neither of its assumptions is violated;
    - from each pair's own variance (HC3) if the spreads of pairs differ (Levene), or if pairs have
      fewer than 10 runs, too few to tell; aligned ranks would find interactions that do not exist;
    - from aligned ranks (J. Wobbrock et al., The aligned rank transform, CHI 2011) if spreads are
      equal but the residuals deviate from a normal distribution (Shapiro-Wilk).

    Args:
        runs: table with one row per run.
        value: column to analyse.
        factors: two columns.
        log: whether to analyse the logarithm of the value.
        confidence: 1 − significance level of all tests.

    Raises:
        RunsError: a pair of levels has fewer than two runs; a factor has a single level; the value
            is the same in all runs of each pair; a column is missing or does not hold numbers; a
            value is unknown, or not above 0 although its logarithm is taken; or the confidence does
            not lie between 0 and 1.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import interaction
        >>> interaction(runs, 'energy_J').effects['share'].round(2)
        model        0.99
        gpu          0.00
        model:gpu    0.00
        residual     0.00
        Name: share, dtype: float64
    """
    names = as_names(factors, "factors")
    if len(names) != 2:
        raise RunsError(f"factors={factors!r} must name two columns")
    table = check_runs(runs, as_names([*names, value], "factors and value"))
    confidence = check_confidence(confidence, RunsError)
    level = 1 - confidence
    refuse_taken(names, ("runs", "mean", "median", "std"))
    check_choices(table, names)
    plain = check_value(table, value, names, positive=log)
    y = np.log(plain) if log else plain
    # As text, so that levels of any type can be compared and sorted.
    a, b = (table[name].astype(str).to_numpy() for name in names)
    _check_cells(a, b, names)
    places = groups_of(table, names)
    groups = [y[rows] for rows in places.values()]
    residuals = cell_residuals(y, a, b)
    if np.ptp(y) == 0 or np.allclose(residuals, 0, atol=1e-12 * float(np.ptp(y))):
        raise RunsError(
            f"{value} is the same in all runs of each pair of {names[0]} and {names[1]}: without "
            "variation, no test can distinguish an effect from chance; are the runs copies?"
        )
    shapiro_p = float(stats.shapiro(residuals).pvalue)
    enough = min(map(len, groups)) >= FEWEST_SPREAD
    levene_p = float(stats.levene(*groups, center="median").pvalue) if enough else math.nan
    effects, test = two_way_anova(y, a, b), "two-way ANOVA"
    tested = ["F", "p_value", "partial_eta_squared"]
    if not levene_p > level:
        effects[tested], test = robust_anova(y, a, b), "two-way ANOVA, HC3"
    elif not shapiro_p > level:
        effects[tested], test = aligned_rank_anova(y, a, b), "aligned rank transform"
    effects = effects.rename(index={"a": names[0], "b": names[1], "a:b": f"{names[0]}:{names[1]}"})
    return Interaction(
        value=value,
        factors=(names[0], names[1]),
        log=log,
        test=test,
        effects=effects,
        cells=_cells(places, plain, y, names),
        shapiro_p=shapiro_p,
        levene_p=levene_p,
        confidence=confidence,
        notes=_notes(effects, groups, test, shapiro_p, levene_p),
    )


def _check_cells(a: Levels, b: Levels, names: Sequence[str]) -> None:
    """Check for at least two levels of each factor and two runs of each pair of levels."""
    levels = sorted(set(a)), sorted(set(b))
    for name, own in zip(names, levels, strict=True):
        if len(own) < 2:
            raise RunsError(f"{name} is {own[0]!r} in all runs: an effect needs two levels")
    counts = Counter(zip(a, b, strict=True))
    empty = [pair for pair in product(*levels) if not counts[pair]]
    if empty:
        raise RunsError(
            f"there is no run of {_named_pairs(empty)}: an interaction needs runs of every pair of "
            f"{names[0]} and {names[1]}; {_remedy(empty, levels, names)}"
        )
    single = [pair for pair in product(*levels) if counts[pair] == 1]
    if single:
        raise RunsError(
            f"there is only one run of {_named_pairs(single)}: without repetitions, an interaction "
            "cannot be distinguished from chance; each pair needs two or more runs"
        )


def _remedy(
    empty: Sequence[tuple[str, str]], levels: Sequence[Sequence[str]], names: Sequence[str]
) -> str:
    """Suggest a single level to leave out so that every pair has runs, if one is enough."""
    in_all = [
        f"{name} {column[0]}"
        for name, column, own in zip(names, zip(*empty, strict=True), levels, strict=True)
        if len(set(column)) == 1 and len(own) > 2
    ]
    if in_all:
        return f"train the missing ones, or leave out {' or '.join(in_all)}"
    return "train the missing ones, or choose levels for which all pairs have runs"


def _named_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return named([f"{x} on {y}" for x, y in pairs])


def _cells(places: Groups, plain: FloatArray, y: FloatArray, names: Sequence[str]) -> pd.DataFrame:
    rows = []
    for key, members in places.items():
        own = plain[members]
        rows.append((*key, len(own), own.mean(), np.median(own), y[members].std(ddof=1)))
    cells: pd.DataFrame = pd.DataFrame(rows, columns=[*names, "runs", "mean", "median", "std"])
    return cells


def _notes(
    effects: pd.DataFrame,
    groups: Sequence[FloatArray],
    test: str,
    shapiro_p: float,
    levene_p: float,
) -> tuple[str, ...]:
    notes = []
    if test == "aligned rank transform":
        notes.append(
            f"the residuals deviate from a normal distribution (Shapiro-Wilk, p = {shapiro_p:.3g})"
            ": F and p come from aligned ranks"
        )
    elif math.isnan(levene_p):
        notes.append(
            f"with fewer than {FEWEST_SPREAD} runs of a pair, spreads cannot be compared: F and p "
            "come from each pair's own variance (HC3)"
        )
    elif test != "two-way ANOVA":
        notes.append(
            f"the spreads of the pairs differ (Levene, p = {levene_p:.3g}): F and p come from each "
            "pair's own variance (HC3)"
        )
    if len({len(group) for group in groups}) > 1:
        total = 100 * float(effects["share"].sum())
        notes.append(
            f"the pairs have different numbers of runs: type II shares overlap and add up to "
            f"{total:.4g} %"
        )
    left = 100 * effects["share"][RESIDUAL]
    notes.append(f"{left:.3g} % are variation between repetitions of a pair")
    return tuple(notes)
