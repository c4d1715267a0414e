"""`plot_match`: GPUs against the complexity of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import RunsError
from energyest.plots.axes import make_log, name_axis, show_unit
from energyest.plots.style import GREY, new_figure, plain_text, series_style
from energyest.tradeoff.match import GpuMatch
from energyest.tradeoff.table import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What panels may show; the shares have a name of their own.
_QUANTITIES = ("energy_per_sample_J", "utilization", "power_share", "mean_power_W")
_SHARES = {
    "utilization": "utilisation (share of time)",
    "power_share": "power (share of the limit)",
}


@plain_text
def plot_match(match: GpuMatch) -> Figure:
    """Energy per sample, utilisation and power of each GPU against FLOPs per sample.

    A grey line, with its interval as a band, is a crossing; on either side of it stands the GPU
    that is the cheaper one there.

    Args:
        match: from `match_gpu`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: `match` is something else.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.plots import plot_match
        >>> from energyest.tradeoff import match_gpu
        >>> figure = plot_match(match_gpu(runs))
        >>> len(figure.axes)
        3
    """
    if not isinstance(match, GpuMatch):
        raise RunsError(f"match is a {type(match).__name__}: it must be one of match_gpu()")
    points = match.points
    shown = [name for name in _QUANTITIES if name in points]
    if "power_share" in shown:
        known = points["power_share"].notna().all()
        shown.remove("mean_power_W" if known else "power_share")
    figure = new_figure(4.4 * len(shown), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _draw_quantity(axes, match, name)
    _name_models(panels[0], match)
    _draw_crossings(panels[0], match)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _draw_quantity(axes: Axes, match: GpuMatch, name: str) -> None:
    """One quantity of all GPUs."""
    for i, (gpu, part) in enumerate(match.points.groupby(match.gpu, observed=True)):
        rows = part.sort_values(match.flops)
        colour, marker, line = series_style(i)
        axes.plot(
            rows[match.flops], rows[name], color=colour, marker=marker, ls=line, label=str(gpu)
        )
    make_log(axes, "x")
    show_unit(axes.xaxis)
    axes.set_xlabel("complexity (FLOPs per sample)")
    if name in _SHARES:
        axes.set(ylabel=_SHARES[name], ylim=(0, 1.05))
        return
    if name == "energy_per_sample_J":
        make_log(axes, "y")
    name_axis(axes.yaxis, name)


def _name_models(axes: Axes, match: GpuMatch) -> None:
    """Models' names above their complexity, where they hide no line."""
    place = match.points.groupby(list(match.model), observed=True)[match.flops].median()
    names = axes.secondary_xaxis("top")
    names.set_xticks(list(place), [label(key) for key in place.index])
    names.tick_params(axis="x", rotation=45, labelsize=7, length=3)
    names.minorticks_off()
    for tick in names.get_xticklabels():
        tick.set(ha="left", rotation_mode="anchor")


def _draw_crossings(axes: Axes, match: GpuMatch) -> None:
    crossing: Any
    for crossing in match.crossings.dropna(subset=["crossing"]).itertuples():
        ends = [
            end if np.isfinite(end) else edge
            for end, edge in (
                (crossing.crossing_lower, crossing.covered_from),
                (crossing.crossing_upper, crossing.covered_to),
            )
        ]
        axes.axvspan(*ends, color=GREY, alpha=0.25, lw=0)
        axes.axvline(crossing.crossing, color=GREY, lw=1)
        axes.text(
            crossing.crossing, 0.02, f"{crossing.cheaper_below} | {crossing.cheaper_above}",
            rotation=90, fontsize=7, ha="right", va="bottom",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
