"""`interaction`: how much two factors make up of a cost, each alone and both together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from energyest.errors import RunsError
from energyest.integration import FloatArray
from energyest.tradeoff.anova import (
    RESIDUAL,
    aligned_rank_anova,
    cell_residuals,
    robust_anova,
    two_way_anova,
)
from energyest.tradeoff.html import as_html
from energyest.tradeoff.table import (
    Groups,
    as_names,
    check_alpha,
    check_choices,
    check_runs,
    check_value,
    groups_of,
    named,
    refuse_taken,
)

if TYPE_CHECKING:
    import pandas as pd

# More levels than this of the factor that has fewer, and the blocks to search are too many.
_MOST_LEVELS = 12
# So many complete parts are named.
_MOST_BLOCKS = 3
#: Runs of each pair that a comparison of their spreads needs: with five, Levene's test overlooks
#: most differences that turn one table of eight into a false alarm
#: (benchmarks/evidence/tradeoff_errors.py).
FEWEST_SPREAD = 10


@dataclass(frozen=True, eq=False, repr=False)
class Interaction:
    """What `interaction` found.

    Attributes:
        value: what was analysed.
        factors: the two factors.
        log: whether it is the value's logarithm.
        test: what the p-values are of: "two-way ANOVA", "two-way ANOVA, HC3" or "aligned rank
            transform".
        effects: a row each factor, their interaction (`a:b`) and what is left (`residual`):
            `sum_sq, share, df` (type II sums of squares of the two-way ANOVA; `share` of the total
            sum of squares), `F, p_value, partial_eta_squared` (of `test`).
        cells: a row a pair of levels: the factors, `runs, mean, median` of the value; `std` of what
            was analysed.
        shapiro_p: of the residuals.
        levene_p: of the cells' spreads, around medians; NaN where a cell has fewer than 10 runs.
        alpha: level of all decisions.
        notes: what to keep in mind, one sentence each.
    """

    value: str
    factors: tuple[str, str]
    log: bool
    test: str
    effects: pd.DataFrame
    cells: pd.DataFrame
    shapiro_p: float
    levene_p: float
    alpha: float
    notes: tuple[str, ...]

    def __str__(self) -> str:
        effects = self.effects.rename_axis("effect").reset_index()
        lines = [
            self._heading(),
            effects.to_string(index=False, float_format="{:.4g}".format, na_rep=""),
            *self.notes,
        ]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        effects = self.effects.rename_axis("effect").reset_index()
        return as_html(self._heading(), [effects, self.cells], self.notes)

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
    alpha: float = 0.05,
) -> Interaction:
    """How much two factors and their interaction make up of a value.

    A two-way analysis of variance of the value's logarithm: an interaction there is one of factors,
    where a choice multiplies the cost by more on one GPU than on another. The sums of squares are
    of that in any case; the p-values come

    - from it, where neither of its assumptions fails;
    - from variances of each pair's own (HC3), where pairs are spread differently (Levene), or have
      fewer than 10 runs, too few to tell: aligned ranks would find interactions there that are not;
    - from aligned ranks (J. Wobbrock et al., The aligned rank transform, CHI 2011), where the
      residuals deviate from a normal distribution (Shapiro and Wilk), spread alike.

    Args:
        runs: one row a run.
        value: column to analyse.
        factors: two columns.
        log: whether to analyse its logarithm.
        alpha: level of all decisions.

    Raises:
        RunsError: a pair of levels has no run (the message names complete parts of the table), or
            one alone; a factor has a single level; the value is the same in all runs of each pair;
            a column is missing or holds what is no number; a value is not known, or not above 0
            where its logarithm is taken.
    """
    names = as_names(factors, "factors")
    if len(names) != 2:
        raise RunsError(f"factors={factors!r} must name two columns")
    table = check_runs(runs, as_names([*names, value], "factors and value"))
    alpha = check_alpha(alpha)
    refuse_taken(names, ("runs", "mean", "median", "std"))
    check_choices(table, names)
    plain = check_value(table, value, names, positive=log)
    y = np.log(plain) if log else plain
    # By their text, so that levels of any type can be told apart and sorted.
    a, b = (table[name].astype(str).to_numpy() for name in names)
    _check_cells(a, b, names)
    places = groups_of(table, names)
    groups = [y[rows] for rows in places.values()]
    residuals = cell_residuals(y, a, b)
    if np.ptp(y) == 0 or np.allclose(residuals, 0, atol=1e-12 * float(np.ptp(y))):
        raise RunsError(
            f"{value} is the same in all runs of each pair of {names[0]} and {names[1]}: without a "
            "spread no test can tell an effect from chance; are the runs copies?"
        )
    shapiro_p = float(stats.shapiro(residuals).pvalue)
    enough = min(map(len, groups)) >= FEWEST_SPREAD
    levene_p = float(stats.levene(*groups, center="median").pvalue) if enough else math.nan
    effects, test = two_way_anova(y, a, b), "two-way ANOVA"
    told = ["F", "p_value", "partial_eta_squared"]
    if not levene_p > alpha:
        effects[told], test = robust_anova(y, a, b), "two-way ANOVA, HC3"
    elif not shapiro_p > alpha:
        effects[told], test = aligned_rank_anova(y, a, b), "aligned rank transform"
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
        alpha=alpha,
        notes=_notes(effects, groups, test, shapiro_p, levene_p),
    )


def complete_blocks(a: Sequence[str], b: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """The largest sets of levels of two factors of which every pair occurs.

    Args:
        a: the first factor's level of each run, shape (runs,).
        b: the second factor's.

    Returns:
        Levels of the first and of the second factor, two or more of each; several pairs of sets
        where they are equally large; none where there is no such set, or too many to search.
    """
    pairs = set(zip(a, b, strict=True))
    few, many = sorted(set(a)), sorted(set(b))
    turned = len(few) > len(many)
    if turned:
        few, many = many, few
        pairs = {(y, x) for x, y in pairs}
    if len(few) > _MOST_LEVELS:
        return []
    blocks = []
    for size in range(2, len(few) + 1):
        for rows in combinations(few, size):
            columns = [y for y in many if all((x, y) in pairs for x in rows)]
            if len(columns) > 1:
                blocks.append((list(rows), columns))
    most = max((len(x) * len(y) for x, y in blocks), default=0)
    largest = [block for block in blocks if len(block[0]) * len(block[1]) == most]
    return [(y, x) for x, y in largest] if turned else largest


def _check_cells(a: FloatArray, b: FloatArray, names: Sequence[str]) -> None:
    for name, levels in zip(names, (a, b), strict=True):
        if len(set(levels)) < 2:
            raise RunsError(f"{name} is {levels[0]!r} in all runs: an effect needs two levels")
    counts = {(x, y): 0 for x in sorted(set(a)) for y in sorted(set(b))}
    for pair in zip(a, b, strict=True):
        counts[pair] += 1
    empty = [f"{x} on {y}" for (x, y), count in counts.items() if count == 0]
    if empty:
        blocks = complete_blocks(list(a), list(b))
        advice = "; or ".join(
            f"{names[0]} in {', '.join(x)} and {names[1]} in {', '.join(y)}"
            for x, y in blocks[:_MOST_BLOCKS]
        )
        raise RunsError(
            f"there is no run of {named(empty)}: an interaction needs every pair of {names[0]} "
            f"and {names[1]}."
            + (f" Complete is: {advice}" if blocks else " No part of the table is complete")
        )
    single = [f"{x} on {y}" for (x, y), count in counts.items() if count == 1]
    if single:
        raise RunsError(
            f"there is one run alone of {named(single)}: an interaction cannot be told from "
            "chance without repetitions; two or more of each pair are needed"
        )


def _cells(places: Groups, plain: FloatArray, y: FloatArray, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

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
            ": F and p are of aligned ranks"
        )
    elif math.isnan(levene_p):
        notes.append(
            f"with fewer than {FEWEST_SPREAD} runs of a pair, spreads cannot be compared: F and p "
            "are of each pair's own variance (HC3)"
        )
    elif test != "two-way ANOVA":
        notes.append(
            f"the pairs are spread differently (Levene, p = {levene_p:.3g}): F and p are of each "
            "pair's own variance (HC3)"
        )
    if len({len(group) for group in groups}) > 1:
        total = 100 * float(effects["share"].sum())
        notes.append(
            f"the pairs have different numbers of runs: type II shares overlap, and add up to "
            f"{total:.4g} %"
        )
    left = 100 * effects["share"][RESIDUAL]
    notes.append(f"{left:.3g} % lie between the repetitions of a pair")
    return tuple(notes)
