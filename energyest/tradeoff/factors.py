"""`interaction`: how much two factors make up of a cost, each alone and both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from energyest.errors import RunsError
from energyest.integration import FloatArray
from energyest.tradeoff.anova import RESIDUAL, aligned_rank_anova, cell_residuals, two_way_anova
from energyest.tradeoff.html import as_html
from energyest.tradeoff.table import as_names, check_alpha, check_choices, check_runs, numbers

if TYPE_CHECKING:
    import pandas as pd

# More levels than this of the factor that has fewer, and the blocks to search are too many.
_MOST_LEVELS = 12


@dataclass(frozen=True, eq=False, repr=False)
class Interaction:
    """What `interaction` found.

    Attributes:
        value: what was analysed.
        factors: the two factors.
        log: whether it is the value's logarithm.
        test: what the p-values are of: "two-way ANOVA" or "aligned rank transform".
        effects: a row each factor, their interaction (`a:b`) and what is left (`residual`):
            `sum_sq, share, df` (type II sums of squares of the two-way ANOVA; `share` of the total
            sum of squares), `F, p_value, partial_eta_squared` (of `test`).
        cells: a row a pair of levels: the factors, `runs, mean, median` of the value; `std` of what
            was analysed.
        shapiro_p: of the residuals.
        levene_p: of the cells' spreads, around medians.
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

    def __repr__(self) -> str:
        return str(self)

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
    where a choice multiplies the cost by more on one GPU than on another. Where the residuals
    deviate from a normal distribution (Shapiro and Wilk) or the cells are spread differently
    (Levene), the p-values come from aligned ranks instead (J. Wobbrock et al., The aligned rank
    transform, CHI 2011); the sums of squares stay, as a description.

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
    check_choices(table, names)
    plain = numbers(table, value, positive=log)
    y = np.log(plain) if log else plain
    # By their text, so that levels of any type can be told apart and sorted.
    a, b = (table[name].astype(str).to_numpy() for name in names)
    _check_cells(a, b, names)
    residuals, groups = cell_residuals(y, a, b)
    if np.ptp(y) == 0 or np.allclose(residuals, 0, atol=1e-12 * float(np.ptp(y))):
        raise RunsError(
            f"{value} is the same in all runs of each pair of {names[0]} and {names[1]}: without a "
            "spread no test can tell an effect from chance; are the runs copies?"
        )
    shapiro_p = float(stats.shapiro(residuals).pvalue)
    levene_p = float(stats.levene(*groups, center="median").pvalue)
    holds = shapiro_p > alpha and levene_p > alpha
    effects = two_way_anova(y, a, b)
    if not holds:
        ranked = aligned_rank_anova(y, a, b)
        effects[["F", "p_value", "partial_eta_squared"]] = ranked
    effects = effects.rename(index={"a": names[0], "b": names[1], "a:b": f"{names[0]}:{names[1]}"})
    return Interaction(
        value=value,
        factors=(names[0], names[1]),
        log=log,
        test="two-way ANOVA" if holds else "aligned rank transform",
        effects=effects,
        cells=_cells(table, plain, y, names),
        shapiro_p=shapiro_p,
        levene_p=levene_p,
        alpha=alpha,
        notes=_notes(effects, groups, shapiro_p, levene_p, alpha),
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
            raise RunsError(f"{name} is {levels[0]} in all runs: an effect needs two levels")
    counts = {(x, y): 0 for x in sorted(set(a)) for y in sorted(set(b))}
    for pair in zip(a, b, strict=True):
        counts[pair] += 1
    empty = [f"{x} on {y}" for (x, y), count in counts.items() if count == 0]
    if empty:
        blocks = complete_blocks(list(a), list(b))
        advice = "; or ".join(
            f"{names[0]} in {', '.join(x)} and {names[1]} in {', '.join(y)}" for x, y in blocks
        )
        raise RunsError(
            f"there is no run of {', '.join(empty)}: an interaction needs every pair of {names[0]} "
            f"and {names[1]}."
            + (f" Complete is: {advice}" if blocks else " No part of the table is complete")
        )
    single = [f"{x} on {y}" for (x, y), count in counts.items() if count == 1]
    if single:
        raise RunsError(
            f"there is one run alone of {', '.join(single)}: an interaction cannot be told from "
            "chance without repetitions; two or more of each pair are needed"
        )


def _cells(
    table: pd.DataFrame, plain: FloatArray, y: FloatArray, names: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    columns = {name: table[name].astype(str).to_numpy() for name in names}
    frame = pd.DataFrame(columns | {"value": plain, "y": y})
    groups = frame.groupby(list(names), as_index=False)
    cells: pd.DataFrame = groups.agg(
        runs=("value", "size"),
        mean=("value", "mean"),
        median=("value", "median"),
        std=("y", "std"),
    )
    return cells


def _notes(
    effects: pd.DataFrame,
    groups: Sequence[FloatArray],
    shapiro_p: float,
    levene_p: float,
    alpha: float,
) -> tuple[str, ...]:
    notes = []
    broken = [
        text
        for text, p in (
            ("the residuals deviate from a normal distribution (Shapiro-Wilk", shapiro_p),
            ("the cells are spread differently (Levene", levene_p),
        )
        if not p > alpha
    ]
    if broken:
        told = " and ".join(
            f"{text}, p = {p:.3g})"
            for text, p in zip(
                broken, [p for p in (shapiro_p, levene_p) if not p > alpha], strict=True
            )
        )
        notes.append(f"{told}: F and p are of aligned ranks")
    if len({len(group) for group in groups}) > 1:
        total = 100 * float(effects["share"].sum())
        notes.append(
            f"the pairs have different numbers of runs: type II shares overlap, and add up to "
            f"{total:.4g} %"
        )
    if RESIDUAL in effects.index:
        left = 100 * effects["share"][RESIDUAL]
        notes.append(f"{left:.3g} % lie between the repetitions of a pair")
    return tuple(notes)
