"""Cost against quality with the Pareto front, and what choices save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from energyest.plots.labels import scaled
from energyest.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    VERMILION,
    is_wide,
    make_log,
    new_figure,
)
from energyest.tradeoff.metrics import Mode, direction
from energyest.tradeoff.pareto import pareto_front
from energyest.tradeoff.table import CHOICE, By, as_names, check_runs, numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_front(
    runs: pd.DataFrame,
    cost: str = "energy_J",
    quality: str = "val_acc",
    *,
    by: By = CHOICE,
    mode: Mode | None = None,
) -> Figure:
    """What each choice costs and achieves, and the front of those that no other beats.

    A large marker is the median of a choice's runs, a small one a run; the line joins the front,
    whose markers are framed. Colour tells the last column of `by` apart, shape the others.

    Args:
        runs: one row a run.
        cost: see `pareto_front`; one column.
        quality: see `pareto_front`.
        by: columns that make a choice.
        mode: see `pareto_front`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: as `pareto_front`.
    """
    names = as_names(by)
    front = pareto_front(runs, cost, quality, by=names, mode=mode)
    table = runs.reset_index(drop=True)
    table = table[names].assign(**{name: numbers(table, name) for name in (cost, quality)})
    size, label = scaled(cost, table[cost])
    figure = new_figure(8, 4.6)
    axes = figure.subplots()
    medians = table.groupby(names, observed=True)[[cost, quality]].median().reset_index()
    told = names[:-1] or names
    kinds = {kind: COLOURS[i % len(COLOURS)] for i, kind in enumerate(_levels(medians, names[-1:]))}
    shapes = {key: MARKERS[i % len(MARKERS)] for i, key in enumerate(_levels(medians, told))}
    on_front = set(map(tuple, front[names].to_numpy()))
    every = dict(list(table.groupby(names, observed=True)))
    for row in medians.to_dict("records"):
        key = tuple(row[name] for name in names)
        colour, marker = kinds[key[-1:]], shapes[tuple(row[name] for name in told)]
        part = every[key]
        axes.plot(part[cost] / size, part[quality], marker, ms=4, color=colour, alpha=0.3, mew=0)
        best = key in on_front
        axes.plot(
            row[cost] / size, row[quality], marker, ms=10 if best else 7, color=colour,
            mec=BLACK, mew=1.6 if best else 0.5, zorder=4 if best else 3,
        )  # fmt: skip
    better = 1 if direction(quality, mode) == "max" else -1
    steps = front.sort_values(cost)
    axes.step(
        steps[cost] / size, steps[quality], where="post", color=BLACK, lw=1, label="Pareto front"
    )
    for key, marker in shapes.items():
        axes.plot(
            [], [], marker, color=GREY, mec=BLACK, ms=7, ls="", label=", ".join(map(str, key))
        )
    if told != names[-1:]:
        for key, colour in kinds.items():
            axes.plot([], [], "_", color=colour, ms=10, mew=5, ls="", label=str(key[0]))
    if is_wide(table[cost]):
        make_log(axes, "x")
    _show_most(axes, table[quality].to_numpy(float), medians[quality].to_numpy(float))
    axes.set(
        xlabel=label,
        ylabel=f"{scaled(quality, table[quality])[1]} ({'higher' if better > 0 else 'lower'} is "
        "better)",
        title="Cost and quality",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def plot_savings(table: pd.DataFrame, *, most: int = 12) -> Figure:
    """The largest savings with their intervals, and what each changes in quality.

    Args:
        table: from `savings`.
        most: how many pairs to show.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: the table is not one of `savings`.
    """
    check_runs(table, ["saving_pct", "saving_lower_pct", "saving_upper_pct"])
    shown = table.head(most).iloc[::-1]
    position = np.arange(len(shown))
    has_quality = "quality_change" in shown
    figure = new_figure(9 if has_quality else 7, 1.2 + 0.36 * len(shown))
    panels = figure.subplots(1, 2 if has_quality else 1, sharey=True, squeeze=False)[0]
    _dots(panels[0], shown, "saving_pct", "saving_lower_pct", "saving_upper_pct", BLUE, "o")
    panels[0].set_yticks(position, _pairs(shown), fontsize=8)
    panels[0].set(xlabel="saving (%)", title="What the cheaper choice saves")
    if has_quality:
        _dots(panels[1], shown, "quality_change", "quality_lower", "quality_upper", VERMILION, "s")
        panels[1].axvline(0, color=GREY, lw=1)
        panels[1].set(xlabel="change of quality (in its own unit)", title="and what it changes")
    return figure


def _dots(
    axes: Axes, table: pd.DataFrame, middle: str, lower: str, upper: str, colour: str, marker: str
) -> None:
    centre = table[middle].to_numpy(float)
    spread = np.abs(np.stack([centre - table[lower], table[upper] - centre]))
    position = np.arange(len(table))
    known = np.isfinite(spread).all(axis=0)
    axes.plot(centre, position, marker, color=colour)
    axes.errorbar(
        centre[known], position[known], xerr=spread[:, known], fmt="none", color=colour, capsize=3
    )
    axes.grid(axis="x", color=GREY, alpha=0.3)


def _levels(table: pd.DataFrame, names: Sequence[str]) -> list[tuple[object, ...]]:
    return list(dict.fromkeys(map(tuple, table[list(names)].to_numpy())))


def _pairs(table: pd.DataFrame) -> list[str]:
    def of(prefix: str) -> Sequence[str]:
        columns = [n for n in table.columns if n.startswith(prefix) and n != f"{prefix}runs"]
        return [", ".join(map(str, row)) for row in table[columns].to_numpy()]

    return [f"{a} → {b}" for a, b in zip(of("from_"), of("to_"), strict=True)]


def _show_most(axes: Axes, every: np.ndarray, medians: np.ndarray) -> None:
    """Some runs fail; the axis shows where choices differ, and says how many lie beyond it."""
    low, high = medians.min(), medians.max()
    room = max(high - low, 1e-9)
    lower, upper = low - room, high + room
    outside = int(np.sum((every < lower) | (every > upper)))
    if not outside:
        return
    axes.set_ylim(max(lower, every.min() - 0.05 * room), min(upper, every.max() + 0.05 * room))
    axes.text(
        0.01,
        0.01,
        f"{outside} run{'s lie' if outside > 1 else ' lies'} outside",
        fontsize=7,
        transform=axes.transAxes,
    )
