"""`plot_comparison`: what estimators said of many runs against what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.errors import EstimateError
from energyest.estimators.scores import EstimatorScores
from energyest.plots.axes import is_wide, make_log, name_axis
from energyest.plots.style import (
    BLACK,
    GREY,
    height_of,
    new_figure,
    plain_text,
    series_style,
    wrapped,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_COLUMNS = 4
_PANEL_IN = 2.7


@plain_text
def plot_comparison(
    comparison: EstimatorScores, *, by: Literal["model", "gpu"] | None = None
) -> Figure:
    """Estimated against measured energy of every run, one panel for each estimator.

    On the line, an estimate is what was measured; vertical bars are intervals. A run that the
    estimator refused is a tick on the lower edge, at its measured energy. Estimators that answered
    no run have no panel. Axes are logarithmic where energies are far apart.

    Args:
        comparison: from `score_estimators`.
        by: tell runs apart by their model or GPU; by default all runs of a panel look alike.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        EstimateError: `comparison` is something else, no estimator answered a run, or `by` is
            neither "model" nor "gpu".

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import score_estimators
        >>> from energyest.plots import plot_comparison
        >>> runs = [EnergyTrace.from_epochs([5100] + [J] * 19) for J in (4020, 4030, 4050)]
        >>> figure = plot_comparison(score_estimators(runs, observed=5))
        >>> len(figure.axes)
        2
    """
    if not isinstance(comparison, EstimatorScores):
        raise EstimateError(
            f"comparison is a {type(comparison).__name__}: it must be what score_estimators gives"
        )
    if by not in (None, "model", "gpu"):
        raise EstimateError(f"by={by!r} is unknown: it must be 'model' or 'gpu'")
    runs, summary = comparison.runs, comparison.summary
    methods = list(summary.index[summary["runs"] > 0])
    if not methods:
        raise EstimateError("no estimator answered any run: there is nothing to plot")
    energies = runs[["measured_J", "energy_J"]].to_numpy()
    columns = min(_MOST_COLUMNS, len(methods))
    rows = math.ceil(len(methods) / columns)
    column = by or "method"
    names = methods if by is None else list(dict.fromkeys(runs[by]))
    legend_in = 0.3
    if by is not None:
        longest = height_of(map(wrapped, [*names, "refused", "no error"]), least_in=0.2)
        legend_in += longest / columns
    figure = new_figure(_PANEL_IN * columns + 0.5, (_PANEL_IN + 0.5) * rows + 0.5 + legend_in)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    looks = {name: series_style(i)[:2] for i, name in enumerate(names)}
    for place, axes in enumerate(grid.flat):
        if place >= len(methods):
            axes.remove()
            continue
        of_method = runs[runs["method"] == methods[place]]
        _draw(axes, of_method.assign(look=of_method[column]), looks)
        _frame(axes, energies)
        error, answered = summary.loc[methods[place], ["MAPE", "runs"]]
        axes.set_title(
            f"{methods[place]}\nMAPE {100 * error:.3g} %, {answered:.0f} of {len(of_method)} runs",
            fontsize="medium",
        )
        if place + columns >= len(methods):  # no panel below
            name_axis(axes.xaxis, "energy_J", what="measured {}")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            name_axis(axes.yaxis, "energy_J", what="estimated {}")
    _add_legend(figure, columns, hidden=methods if by is None else [])
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, looks: Mapping[str, tuple[str, str]]) -> None:
    """The runs of one method."""
    answered = rows[rows["energy_J"].notna()]
    refused = rows[rows["energy_J"].isna()]
    for name, group in answered.groupby("look", sort=False):
        colour, marker = looks[str(name)]
        measured, energy = group["measured_J"], group["energy_J"]
        below, above = energy - group["energy_lower_J"], group["energy_upper_J"] - energy
        known = below.notna() & above.notna()
        axes.errorbar(
            measured[known],
            energy[known],
            yerr=[below[known], above[known]],
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            alpha=0.5,
        )
        axes.plot(
            measured,
            energy,
            marker,
            color=colour,
            ms=6,
            mec="white",
            mew=0.4,
            label=str(name) or "not known",
        )
    if len(refused):
        axes.plot(
            refused["measured_J"],
            np.full(len(refused), 0.03),
            "|",
            color=BLACK,
            ms=8,
            transform=axes.get_xaxis_transform(),
            label="refused",
        )


def _frame(axes: Axes, energies: NDArray[np.float64]) -> None:
    """The same limits on both axes and in all panels, and the line of no error."""
    known = energies[np.isfinite(energies)]
    low, high = 0.0, 1.05 * float(known.max())
    if is_wide(known):
        make_log(axes, "x", "y", subs=(1.0,))
        low, high = float(known.min()) / 1.4, float(known.max()) * 1.4
    axes.plot([low, high], [low, high], "--", color=GREY, lw=1, zorder=1, label="no error")
    axes.set(xlim=(low, high), ylim=(low, high), box_aspect=1)


def _add_legend(figure: Figure, columns: int, hidden: list[str]) -> None:
    """One for all panels; what a panel's title says already is hidden."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in hidden:
                handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        [wrapped(label) for label in handles],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
    )
