"""`plot_advice`: expected energy against expected time of pairs of a model and a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from energyest.arrays import FloatArray
from energyest.errors import RunsError
from energyest.plots.axes import make_log, show_durations, show_unit
from energyest.plots.style import BLACK, GREY, new_figure, plain_text, series_style, wrapped
from energyest.tradeoff.advice import Advice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of more pairs than this, only those on the front have their model's name beside them.
_MOST_NAMED = 16
# Where a name may stand, in points from its marker, the best place first; further away than
# `_NEAR`, a line leads there.
_AROUND = [(1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8)]
_PLACES = np.array([(reach * x, reach * y) for reach in (8, 16, 26, 40, 60) for x, y in _AROUND])
_NEAR = 14
_LINE = {"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkB": 5}
# Of a framed marker, in points.
_RADIUS = 6.5
_SIDE = {1: "left", 0: "center", -1: "right"}
_HEIGHT = {1: "bottom", 0: "center", -1: "top"}


@plain_text
def plot_advice(advice: Advice) -> Figure:
    """Expected energy, with its interval, against expected time, on logarithmic axes.

    Colour and shape tell GPUs apart, and a name beside the marker tells the model; of many pairs,
    only those on the front have a name. Hollow markers are extrapolations. Pairs on the front have
    a black frame, and without qualities a line joins them; pale pairs are surely beaten by another.

    Args:
        advice: from `advise`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        RunsError: no pair of the advice can be trained, or it is something else.

    Examples:
        >>> from energyest.plots import plot_advice
        >>> from energyest.tradeoff import advise
        >>> advice = advise({'small': workload}, ['H100', 'L4'], epochs=9, train_samples=50_000)
        >>> figure = plot_advice(advice)
        >>> len(figure.axes)
        1
    """
    if not isinstance(advice, Advice):
        raise RunsError(f"advice is a {type(advice).__name__}: it must be one of advise()")
    rows = advice.table.dropna(subset=["energy_J"])
    if not len(rows):
        raise RunsError("no pair can be trained: the notes of the advice's table say why")
    figure = new_figure(8, 5)
    axes = figure.subplots()
    styles = {
        gpu: series_style(i)[:2]
        for i, gpu in enumerate(dict.fromkeys(advice.table["gpu"]))
        if gpu in set(rows["gpu"])
    }
    for row in rows.to_dict("records"):
        _draw(axes, row, *styles[row["gpu"]])
    if advice.mode is None:
        front = advice.front.sort_values("duration_s")
        axes.step(
            front["duration_s"], front["energy_J"], where="post", color=BLACK, lw=1, zorder=1.5
        )
    make_log(axes, "x", "y")
    show_durations(axes.xaxis)
    show_unit(axes.yaxis, "J")
    axes.set(
        xlabel="expected duration",
        ylabel="expected energy of the GPU",
        title="Energy and time, before training",
    )
    axes.grid(color=GREY, alpha=0.2)
    _explain(axes, advice, styles)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    named = rows if len(rows) <= _MOST_NAMED else advice.front
    _write_names(figure, axes, named, rows)
    return figure


def _draw(axes: Axes, row: dict[Any, Any], colour: str, marker: str) -> None:
    x, y = row["duration_s"], row["energy_J"]
    spread = [[y - row["energy_lower_J"]], [row["energy_upper_J"] - y]]
    alpha = 1.0 if row["may_be_on_front"] else 0.3
    axes.errorbar(x, y, spread, fmt="none", color=colour, lw=1, alpha=0.6 * alpha, zorder=2)
    face = "white" if row["basis"] == "extrapolation" else colour
    # Opaque below the pale colour, so that the line of the interval does not shine through.
    axes.plot(x, y, marker, color="white", ms=7, mew=0, zorder=3)
    axes.plot(x, y, marker, color=colour, mfc=face, ms=7, mew=1.5, alpha=alpha, zorder=3)
    if row["on_front"]:
        axes.plot(x, y, marker, color=BLACK, mfc="none", ms=11, mew=1.2, zorder=3)


def _explain(axes: Axes, advice: Advice, styles: dict[str, tuple[str, str]]) -> None:
    """Entries of the legend; they have to be there before there is room for names."""
    for gpu, (colour, marker) in styles.items():
        axes.plot([], [], marker, color=colour, ms=7, ls="", label=wrapped(gpu))
    of = "energy and time" if advice.mode is None else "energy, time, quality"
    line = "-" if advice.mode is None else ""
    label = f"on the front of\n{of}"
    axes.plot([], [], "o", color=BLACK, mfc="none", ms=10, ls=line, lw=1, label=label)
    basis = set(advice.table["basis"].dropna())
    if "extrapolation" in basis:
        axes.plot([], [], "o", color=GREY, mfc="white", mew=1.5, ls="", label="extrapolation")
    if basis != {"extrapolation"}:
        others = " or ".join(sorted(basis - {"extrapolation"}))
        axes.plot([], [], "o", color=GREY, mew=1.5, ls="", label=others)
    axes.errorbar([], [], [], color=GREY, lw=1, label=f"{100 * advice.confidence:.4g} % interval")
    possible = advice.table["energy_J"].notna()
    if (possible & ~advice.table["may_be_on_front"]).any():
        axes.plot([], [], "o", color=GREY, alpha=0.3, mew=1.5, ls="", label="surely beaten")


def _write_names(figure: Figure, axes: Axes, named: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Models' names beside their markers, each where it covers least of the others."""
    from matplotlib.patheffects import withStroke  # noqa: PLC0415

    figure.draw_without_rendering()  # settles where the axes lie
    axes.set_autoscale_on(False)
    pixels = figure.dpi / 72
    at = rows[["duration_s", "energy_J"]].to_numpy(float)
    markers = axes.transData.transform(at)
    frame = np.array(axes.get_window_extent().extents)
    taken = np.concatenate([markers - _RADIUS * pixels, markers + _RADIUS * pixels], axis=1)
    for index, model, on_front in zip(named.index, named["model"], named["on_front"], strict=True):
        place = rows.index.get_loc(index)
        weight = "bold" if on_front else "normal"
        x, y = at[place]
        written = axes.annotate(wrapped(model), (x, y), fontsize=8, weight=weight)
        extent = np.array(written.get_window_extent().size)
        written.remove()
        # Towards the side where it stands, a text begins at its place.
        low = markers[place] + _PLACES * pixels - extent * (1 - np.sign(_PLACES)) / 2
        boxes = np.concatenate([low, low + extent], axis=1)
        outside = extent.prod() - _overlap(boxes, frame)
        covered = 5 * outside + sum(_overlap(boxes, other) for other in taken)
        best = int(np.argmin(covered.round()))  # less than a pixel is no difference
        taken = np.concatenate([taken, boxes[best : best + 1]])
        right, up = _PLACES[best]
        corner = tuple((1 - np.sign(_PLACES[best])) / 2)
        axes.annotate(
            wrapped(model),
            (x, y),
            (right, up),
            textcoords="offset points",
            fontsize=8,
            weight=weight,
            ha=_SIDE[int(np.sign(right))],
            va=_HEIGHT[int(np.sign(up))],
            zorder=4,
            path_effects=[withStroke(linewidth=2, foreground="white")],
            arrowprops={**_LINE, "relpos": corner} if np.hypot(right, up) > _NEAR else None,
        )


def _overlap(boxes: FloatArray, other: FloatArray) -> FloatArray:
    """Areas that boxes (left, bottom, right, top), of shape (n, 4), share with another one."""
    sides = np.minimum(boxes[:, 2:], other[2:]) - np.maximum(boxes[:, :2], other[:2])
    shared: FloatArray = np.maximum(sides, 0.0).prod(axis=1)
    return shared
