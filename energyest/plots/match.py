"""`plot_match`: GPUs against the complexity of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import RunsError
from energyest.plots.axes import make_log, name_axis, show_unit
from energyest.plots.style import GREY, legend_beside, new_figure, plain_text, series_style, wrapped
from energyest.tradeoff.match import GpuMatch
from energyest.tradeoff.table import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Numbers of models nearer to each other than this share of the axis stand together.
_APART = 0.06
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
    figure = new_figure(4.4 * len(shown) + 2, 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        _draw_quantity(axes, match, name)
    _number_models(panels[0], panels[-1], match)
    _draw_crossings(panels[0], match)
    legend_beside(panels[-1])
    return figure


def _draw_quantity(axes: Axes, match: GpuMatch, name: str) -> None:
    """One quantity of all GPUs."""
    for i, (gpu, part) in enumerate(match.points.groupby(match.gpu, observed=True)):
        rows = part.sort_values(match.flops)
        colour, marker, line = series_style(i)
        axes.plot(
            rows[match.flops],
            rows[name],
            color=colour,
            marker=marker,
            ls=line,
            label=wrapped(str(gpu)),
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


def _number_models(axes: Axes, last: Axes, match: GpuMatch) -> None:
    """Models' numbers above their complexity, and their names in the last panel's legend."""
    place = match.points.groupby(list(match.model), observed=True)[match.flops].median()
    place = place.sort_values()
    low, high = np.log(axes.get_xlim())
    positions: list[float] = []
    numbers: list[str] = []
    for number, (key, flops) in enumerate(place.items(), start=1):
        last.plot([], [], ls="", label=wrapped(f"{number}: {label(key)}"))
        if positions and np.log(flops / positions[-1]) < _APART * (high - low):
            numbers[-1] += f", {number}"
        else:
            positions.append(float(flops))
            numbers.append(str(number))
    above = axes.secondary_xaxis("top")
    above.set_xticks(positions, numbers)
    above.tick_params(axis="x", labelsize=8, length=3)
    above.minorticks_off()
    above.set_xlabel("model", fontsize=8)


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
        beside: dict[str, Any] = {"rotation": 90, "fontsize": 7, "va": "bottom"}
        for text, side in ((crossing.cheaper_below, "right"), (crossing.cheaper_above, "left")):
            axes.text(
                crossing.crossing, 0.02, wrapped(text), ha=side,
                transform=axes.get_xaxis_transform(), **beside,
            )  # fmt: skip
