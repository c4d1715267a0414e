"""`plot_groups` and `plot_interaction`: groups of runs, and two factors together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from energyest.arrays import FloatArray
from energyest.errors import RunsError
from energyest.plots.axes import is_wide, make_log, name_axis, show_percent
from energyest.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    HATCHES,
    height_of,
    legend_beside,
    new_figure,
    plain_text,
    series_style,
    wrapped,
)
from energyest.tradeoff.groups import GroupComparison, compare_groups
from energyest.tradeoff.interaction import Interaction
from energyest.tradeoff.table import By, as_names, groups_of, label, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Characters to a line of a level's name below an axis, and the inches that each takes there.
_LEVEL, _LEVEL_IN = 15, 1.15


@plain_text
def plot_groups(
    runs: pd.DataFrame, value: str = "energy_J", by: By = "model", *, confidence: float = 0.95
) -> Figure:
    """The runs of each group, and Cliff's δ of each pair.

    Boxes hold the middle half of a group's runs, with the median; every run is a point. On the
    right, a group has the number that stands before its name on the left. δ says how much more
    often a run of the row costs more than one of the column than less. A star marks pairs that
    differ at the level 1 − `confidence`.

    Args:
        runs: see `compare_groups`.
        value: see `compare_groups`.
        by: see `compare_groups`.
        confidence: see `compare_groups`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: as `compare_groups`.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.plots import plot_groups
        >>> figure = plot_groups(runs, 'energy_J', by='gpu')
        >>> len(figure.axes)
        3
    """
    found = compare_groups(runs, value, by, confidence=confidence)
    values = numbers(runs, value)
    groups = {label(key): values[rows] for key, rows in groups_of(runs, as_names(by)).items()}
    groups = dict(sorted(groups.items(), key=lambda group: float(np.median(group[1]))))
    names = [wrapped(f"{i}: {name}") for i, name in enumerate(groups, start=1)]
    cells_in = max(2.5, 0.5 * len(groups))
    figure = new_figure(7.5 + cells_in, 1.6 + height_of(names, least_in=0.5))
    left, right = figure.subplots(1, 2, width_ratios=[4, cells_in])
    _draw_groups(left, groups, value)
    left.set_yticks(range(1, len(names) + 1), names, fontsize=8)
    left.set_title(
        f"{found.test}: p = {found.p_value:.2g}, η² = {found.eta_squared:.2f}", fontsize=10
    )
    _draw_deltas(right, found, list(groups))
    figure.colorbar(right.images[0], ax=right, label="δ (no unit)")
    return figure


def _draw_groups(axes: Axes, groups: Mapping[str, FloatArray], value: str) -> None:
    """A box for each group, and a point for each run."""
    axes.boxplot(
        list(groups.values()),
        orientation="horizontal",
        showfliers=False,
        medianprops={"color": BLACK},
    )
    jitter = np.random.default_rng(0)
    for place, group in enumerate(groups.values(), start=1):
        beside = place + jitter.uniform(-0.12, 0.12, len(group))
        axes.plot(group, beside, "o", ms=3, color=BLUE, alpha=0.6)
    if is_wide(np.concatenate(list(groups.values()))):
        make_log(axes, "x")
    name_axis(axes.xaxis, value)


def _draw_deltas(axes: Axes, found: GroupComparison, names: Sequence[str]) -> None:
    """Cliff's δ of each pair as a matrix; groups have the numbers that stand before their names."""
    place = {name: i for i, name in enumerate(names)}
    delta = np.zeros((len(names), len(names)))
    stars = np.full(delta.shape, "", dtype=object)
    pair: Any
    for pair in found.pairs.itertuples():
        i, j = place[pair.a], place[pair.b]
        delta[i, j], delta[j, i] = pair.cliffs_delta, 0.0 - pair.cliffs_delta  # not -0.0
        stars[i, j] = stars[j, i] = "*" if pair.significant else ""
    axes.imshow(delta, cmap="PuOr", vmin=-1, vmax=1, origin="lower", aspect="auto")
    for i, j in zip(*np.nonzero(~np.eye(len(names), dtype=bool)), strict=True):
        dark = abs(delta[i, j]) > 0.7
        axes.text(
            j, i, f"{delta[i, j]:.2f}{stars[i, j]}", ha="center", va="center", fontsize=8,
            color="white" if dark else BLACK,
        )  # fmt: skip
    numbers_of = [str(number) for number in range(1, len(names) + 1)]
    axes.set_xticks(range(len(names)), numbers_of, fontsize=8)
    axes.set_yticks(range(len(names)), numbers_of, fontsize=8)
    level = 1 - found.confidence
    axes.set_title(f"Cliff's δ of row over column (* p < {level:.4g})", fontsize=10)


@plain_text
def plot_interaction(result: Interaction) -> Figure:
    """Medians of every pair of levels, and the shares of the sum of squares.

    Lines that are parallel on the left have no interaction; bars are one standard deviation of the
    repetitions.

    Args:
        result: from `interaction`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: `result` is something else.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.plots import plot_interaction
        >>> from energyest.tradeoff import interaction
        >>> figure = plot_interaction(interaction(runs, 'energy_J'))
        >>> len(figure.axes)
        2
    """
    if not isinstance(result, Interaction):
        raise RunsError(f"result is a {type(result).__name__}: it must be one of interaction()")
    levels = result.cells[result.factors[0]].nunique()
    figure = new_figure(6 + max(3.0, _LEVEL_IN * levels), 4)
    left, right = figure.subplots(1, 2, width_ratios=[max(3.0, _LEVEL_IN * levels), 1.2])
    _draw_cells(left, result)
    _draw_shares(right, result)
    return figure


def _draw_cells(axes: Axes, result: Interaction) -> None:
    """A line for each level of the second factor over the levels of the first."""
    cells, (first, second) = result.cells, result.factors
    order = cells.groupby(first)["median"].median().sort_values().index
    for i, (level, part) in enumerate(cells.groupby(second)):
        rows = part.set_index(first).loc[order]
        middle, std = rows["median"].to_numpy(), rows["std"].to_numpy()
        ends = (
            [middle - middle * np.exp(-std), middle * np.exp(std) - middle]
            if result.log
            else [std, std]
        )
        position = np.arange(len(order)) + 0.06 * (i - (cells[second].nunique() - 1) / 2)
        colour, marker, line = series_style(i)
        axes.errorbar(
            position, middle, yerr=ends, capsize=3, color=colour, marker=marker, ls=line,
            label=wrapped(str(level)),
        )  # fmt: skip
    names = [wrapped(str(level), _LEVEL) for level in order]
    axes.set_xticks(range(len(order)), names, fontsize=8)
    if result.log:
        make_log(axes, "y")
    name_axis(axes.yaxis, result.value, what="median {}")
    axes.set(xlabel=wrapped(first), title="Without an interaction, lines are parallel")
    legend_beside(axes, title=wrapped(second))


def _draw_shares(axes: Axes, result: Interaction) -> None:
    """What each effect makes up of the sum of squares, in one bar."""
    bottom = 0.0
    for i, (name, share) in enumerate(result.effects["share"].items()):
        axes.bar(
            0, share, bottom=bottom, width=0.5, color=[*COLOURS[:3], GREY][i], ec=BLACK,
            hatch=HATCHES[i], label=wrapped(f"{name}: {100 * share:.3g} %"),
        )  # fmt: skip
        bottom += float(share)
    show_percent(axes.yaxis)
    axes.set(ylabel="share of the sum of squares", xticks=[], xlim=(-0.5, 0.5))
    handles, names = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1], names[::-1], frameon=False, fontsize=8, loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
    )  # fmt: skip
