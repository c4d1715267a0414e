"""Groups of runs, and two factors together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import RunsError
from energyest.plots.labels import scaled
from energyest.plots.style import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    HATCHES,
    LINES,
    MARKERS,
    is_wide,
    make_log,
    new_figure,
)
from energyest.tradeoff.groups import compare_groups
from energyest.tradeoff.interaction import Interaction
from energyest.tradeoff.table import By, as_names, groups_of, label, numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# More levels than this have no room for names side by side.
_MOST_LEVEL = 4


def plot_groups(
    runs: pd.DataFrame, value: str = "energy_J", by: By = "model", *, confidence: float = 0.95
) -> Figure:
    """The runs of each group, and Cliff's δ of each pair.

    Boxes hold the middle half of a group's runs, with the median; every run is a point. On the
    right, δ tells how much more often a run of the row costs more than one of the column than less;
    a star marks pairs that differ at the level 1 − `confidence`.

    Args:
        runs: see `compare_groups`.
        value: see `compare_groups`.
        by: see `compare_groups`.
        confidence: see `compare_groups`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: as `compare_groups`.
    """
    found = compare_groups(runs, value, by, confidence=confidence)
    values = numbers(runs, value)
    size, text = scaled(value, values)
    groups = {label(k): values[r] / size for k, r in groups_of(runs, as_names(by)).items()}
    names = sorted(groups, key=lambda name: float(np.median(groups[name])))
    figure = new_figure(10, 1.6 + 0.5 * len(names))
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    left.boxplot(
        [groups[name] for name in names],
        orientation="horizontal",
        showfliers=False,
        medianprops={"color": BLACK},
    )
    jitter = np.random.default_rng(0)
    for i, name in enumerate(names):
        beside = i + 1 + jitter.uniform(-0.12, 0.12, len(groups[name]))
        left.plot(groups[name], beside, "o", ms=3, color=BLUE, alpha=0.6)
    left.set_yticks(range(1, len(names) + 1), names, fontsize=8)
    if is_wide(np.concatenate(list(groups.values()))):
        make_log(left, "x")
    left.set(xlabel=text)
    left.set_title(
        f"{found.test}: p = {found.p_value:.2g}, η² = {found.eta_squared:.2f}", fontsize=10
    )
    place = {name: i for i, name in enumerate(names)}
    delta = np.zeros((len(names), len(names)))
    stars = np.full(delta.shape, "", dtype=object)
    pair: Any
    for pair in found.pairs.itertuples():
        i, j = place[pair.a], place[pair.b]
        delta[i, j], delta[j, i] = pair.cliffs_delta, -pair.cliffs_delta
        stars[i, j] = stars[j, i] = "*" if pair.significant else ""
    shown = right.imshow(delta, cmap="PuOr", vmin=-1, vmax=1, origin="lower", aspect="auto")
    for i, j in zip(*np.nonzero(~np.eye(len(names), dtype=bool)), strict=True):
        dark = abs(delta[i, j]) > 0.7
        right.text(
            j, i, f"{delta[i, j]:.2f}{stars[i, j]}", ha="center", va="center", fontsize=8,
            color="white" if dark else BLACK,
        )  # fmt: skip
    right.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="right")
    right.set_yticks(range(len(names)), names, fontsize=8)
    right.set_title(f"Cliff's δ of row over column (* p < {1 - confidence:.4g})", fontsize=10)
    figure.colorbar(shown, ax=right, label="δ (no unit)")
    return figure


def plot_interaction(result: Interaction) -> Figure:
    """Medians of every pair of levels, and the shares of the sum of squares.

    Lines that are parallel on the left have no interaction; bars are one standard deviation of the
    repetitions.

    Args:
        result: from `interaction`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: `result` is something else.
    """
    if not isinstance(result, Interaction):
        raise RunsError(f"result is a {type(result).__name__}: it must be one of interaction()")
    cells, (first, second) = result.cells, result.factors
    size, text = scaled(result.value, cells["median"])
    order = cells.groupby(first)["median"].median().sort_values().index
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    for i, (level, part) in enumerate(cells.groupby(second)):
        rows = part.set_index(first).loc[order]
        middle, std = rows["median"].to_numpy() / size, rows["std"].to_numpy()
        ends = (
            [middle - middle * np.exp(-std), middle * np.exp(std) - middle]
            if result.log
            else [std / size, std / size]
        )
        position = np.arange(len(order)) + 0.06 * (i - (cells[second].nunique() - 1) / 2)
        left.errorbar(
            position, middle, yerr=ends, capsize=3, color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)], ls=LINES[i % len(LINES)], label=str(level),
        )  # fmt: skip
    left.set_xticks(range(len(order)), list(order), fontsize=8)
    left.tick_params(axis="x", rotation=20 if len(order) > _MOST_LEVEL else 0)
    if result.log:
        make_log(left, "y")
    left.set(
        xlabel=first, ylabel=f"median {text}", title="Without an interaction, lines are parallel"
    )
    left.legend(title=second, frameon=False, fontsize=8)
    bottom = 0.0
    for i, (name, share) in enumerate(result.effects["share"].items()):
        height = 100 * float(share)
        right.bar(
            0, height, bottom=bottom, width=0.5, color=[*COLOURS[:3], GREY][i], ec=BLACK,
            hatch=HATCHES[i], label=f"{name}: {height:.3g} %",
        )  # fmt: skip
        bottom += height
    right.set(ylabel="share of the sum of squares (%)", xticks=[], xlim=(-0.5, 0.5))
    handles, names = right.get_legend_handles_labels()
    right.legend(
        handles[::-1], names[::-1], frameon=False, fontsize=8, loc="upper center",
        bbox_to_anchor=(0.5, -0.02),
    )  # fmt: skip
    return figure
