"""`plot_front` and `plot_savings`: cost against quality, and what choices save."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from energyest.checks import check_count
from energyest.errors import RunsError
from energyest.plots.axes import is_wide, make_log, name_axis, show_percent
from energyest.plots.style import (
    BLACK,
    BLUE,
    GREY,
    VERMILION,
    height_of,
    new_figure,
    plain_text,
    series_style,
    wrapped,
)
from energyest.tradeoff.metrics import Mode, direction
from energyest.tradeoff.pareto import pareto_front
from energyest.tradeoff.table import CHOICE, By, as_names, check_runs, numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Characters to a line of a choice's name.
_PAIR = 44


@plain_text
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
    whose markers are framed. The colour stands for the last column of `by`, the shape for the rest.

    Args:
        runs: one row a run.
        cost: see `pareto_front`; one column.
        quality: see `pareto_front`.
        by: columns that make a choice.
        mode: see `pareto_front`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: as `pareto_front`.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.plots import plot_front
        >>> figure = plot_front(runs)
        >>> len(figure.axes)
        1
    """
    names = as_names(by)
    front = pareto_front(runs, cost, quality, by=names, mode=mode)
    table = runs.reset_index(drop=True)
    table = table[names].assign(**{name: numbers(table, name) for name in (cost, quality)})
    choices = dict(list(table.groupby(names, observed=True)))
    figure = new_figure(8.5, 4.6)
    axes = figure.subplots()
    axes.step(front[cost], front[quality], where="post", color=BLACK, lw=1, label="Pareto front")
    on_front = set(front[names].itertuples(index=False, name=None))
    _draw_choices(axes, choices, on_front, cost, quality)
    if is_wide(table[cost]):
        make_log(axes, "x")
    name_axis(axes.xaxis, cost)
    better = "higher" if direction(quality, mode) == "max" else "lower"
    name_axis(axes.yaxis, quality, what=f"{{}} ({better} is better)")
    medians = np.array([own[quality].median() for own in choices.values()])
    _show_most(axes, table[quality].to_numpy(float), medians)
    axes.set_title("Cost and quality")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _draw_choices(
    axes: Axes,
    choices: Mapping[tuple[Any, ...], pd.DataFrame],
    on_front: Collection[tuple[Any, ...]],
    cost: str,
    quality: str,
) -> None:
    """Runs and medians of each choice, and what their colours and shapes stand for."""
    lasts, rests = dict.fromkeys(key[-1] for key in choices), dict.fromkeys(map(_rest, choices))
    colours = {last: series_style(i)[0] for i, last in enumerate(lasts)}
    markers = {rest: series_style(i)[1] for i, rest in enumerate(rests)}
    for key, own in choices.items():
        colour, marker, best = colours[key[-1]], markers[_rest(key)], key in on_front
        axes.plot(own[cost], own[quality], marker, ms=4, color=colour, alpha=0.3, mew=0)
        axes.plot(
            own[cost].median(), own[quality].median(), marker, ms=10 if best else 7, color=colour,
            mec=BLACK, mew=1.6 if best else 0.5, zorder=4 if best else 3,
        )  # fmt: skip
    for rest, marker in markers.items():
        text = wrapped(", ".join(map(str, rest)))
        axes.plot([], [], marker, color=GREY, mec=BLACK, ms=7, ls="", label=text)
    if len(next(iter(choices))) > 1:
        for last, colour in colours.items():
            axes.plot([], [], "_", color=colour, ms=10, mew=5, ls="", label=wrapped(str(last)))


def _rest(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a marker's shape stands for: all but the last column, or the only one."""
    return key[:-1] or key


@plain_text
def plot_savings(table: pd.DataFrame, *, most: int = 12) -> Figure:
    """The largest savings with their intervals, and what each changes in quality.

    Args:
        table: from `savings`.
        most: how many pairs to show.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: the table does not come from `savings`, or `most` is not 1 or more.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.plots import plot_savings
        >>> from energyest.tradeoff import savings
        >>> figure = plot_savings(savings(runs, by='model'))
        >>> len(figure.axes)
        2
    """
    check_runs(table, ["saving", "saving_lower", "saving_upper"])
    shown = table.head(check_count(most, "most", RunsError)).iloc[::-1]
    has_quality = "quality_change" in shown
    names = _pairs(shown)
    figure = new_figure(11 if has_quality else 7.5, 1.2 + height_of(names))
    panels = figure.subplots(1, 2 if has_quality else 1, sharey=True, squeeze=False)[0]
    _dots(panels[0], shown, "saving", BLUE, "o")
    show_percent(panels[0].xaxis)
    for axes in panels:
        axes.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(range(len(shown)), names, fontsize=8)
    panels[0].set(xlabel="saving", title="What the cheaper choice saves")
    if has_quality:
        _dots(panels[1], shown, "quality_change", VERMILION, "s")
        panels[1].axvline(0, color=GREY, lw=1)
        panels[1].set(xlabel="change of quality (in its own unit)", title="and what it changes")
    return figure


def _dots(axes: Axes, table: pd.DataFrame, name: str, colour: str, marker: str) -> None:
    """A quantity of each row with its interval, where that is known."""
    centre = table[name].to_numpy(float)
    spread = np.abs(np.stack([centre - table[f"{name}_lower"], table[f"{name}_upper"] - centre]))
    position = np.arange(len(table))
    known = np.isfinite(spread).all(axis=0)
    axes.plot(centre, position, marker, color=colour)
    axes.errorbar(
        centre[known], position[known], xerr=spread[:, known], fmt="none", color=colour, capsize=3
    )
    axes.grid(axis="x", color=GREY, alpha=0.3)


def _pairs(table: pd.DataFrame) -> list[str]:
    """From what to what, each on lines of its own where both are too long for one."""

    def of(prefix: str) -> Sequence[str]:
        columns = [n for n in table.columns if n.startswith(prefix) and n != f"{prefix}runs"]
        return [wrapped(", ".join(map(str, row)), _PAIR) for row in table[columns].to_numpy()]

    pairs = zip(of("from_"), of("to_"), strict=True)
    return [f"{a} → {b}" if len(a) + len(b) < _PAIR else f"{a}\n→ {b}" for a, b in pairs]


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
