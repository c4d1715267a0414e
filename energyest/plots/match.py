"""GPUs against the complexity of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import RunsError
from energyest.plots.labels import scaled
from energyest.plots.style import COLOURS, GREY, LINES, MARKERS, make_log, new_figure
from energyest.tradeoff.match import GpuMatch
from energyest.tradeoff.table import label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUANTITIES = {
    "energy_per_sample_J": "",
    "utilization": "utilisation (share of time)",
    "power_share": "power (share of the limit)",
    "mean_power_W": "mean power (W)",
}


def plot_match(match: GpuMatch) -> Figure:
    """Energy per sample, utilisation and power of each GPU against FLOPs per sample.

    A grey line, with its interval as a band, is a crossing: on either side of it stands the GPU of
    a pair that is the cheaper one there.

    Args:
        match: from `match_gpu`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: `match` is something else.
    """
    if not isinstance(match, GpuMatch):
        raise RunsError(f"match is a {type(match).__name__}: it must be one of match_gpu()")
    points: Any = match.points
    shown = [name for name in _QUANTITIES if name in points]
    if "power_share" in shown and points["power_share"].notna().all():
        shown.remove("mean_power_W")
    elif "power_share" in shown:
        shown.remove("power_share")
    figure = new_figure(4.4 * len(shown), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        size, text = scaled(name, points[name])
        for i, (gpu, part) in enumerate(points.groupby(match.gpu, observed=True)):
            part = part.sort_values(match.flops)  # noqa: PLW2901
            axes.plot(
                part[match.flops] / 1e9, part[name] / size, color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)], ls=LINES[i % len(LINES)], label=str(gpu),
            )  # fmt: skip
        make_log(axes, "x")
        axes.set(xlabel="complexity (GFLOPs per sample)", ylabel=_QUANTITIES[name] or text)
        if name in ("utilization", "power_share"):
            axes.set_ylim(0, 1.05)
    axes = panels[0]
    make_log(axes, "y")
    # Models' names stand above their complexity, where they hide no line.
    place = points.groupby(list(match.model), observed=True)[match.flops].median() / 1e9
    names = axes.secondary_xaxis("top")
    names.set_xticks(list(place), [label(key) for key in place.index])
    names.tick_params(axis="x", rotation=45, labelsize=7, length=3)
    names.minorticks_off()
    for tick in names.get_xticklabels():
        tick.set(ha="left", rotation_mode="anchor")
    crossing: Any
    for crossing in match.crossings.itertuples():
        if np.isfinite(crossing.crossing):
            ends = [
                end if np.isfinite(end) else edge
                for end, edge in (
                    (crossing.lower, crossing.covered_from),
                    (crossing.upper, crossing.covered_to),
                )
            ]
            axes.axvspan(ends[0] / 1e9, ends[1] / 1e9, color=GREY, alpha=0.25, lw=0)
            axes.axvline(crossing.crossing / 1e9, color=GREY, lw=1)
            axes.text(
                crossing.crossing / 1e9, 0.02,
                f"{crossing.cheaper_below} | {crossing.cheaper_above}",
                rotation=90, fontsize=7,
                ha="right", va="bottom", transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.legend(frameon=False, fontsize=8)
    return figure
