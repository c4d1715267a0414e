"""What stands at the axes and beside the points of plots of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from energyest.plots.style import energy_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

# Endings of columns that are units, and how these are written.
_UNITS = {
    "J": "J",
    "Wh": "Wh",
    "kWh": "kWh",
    "W": "W",
    "s": "s",
    "kg": "kg",
    "pct": "%",
    "bytes": "B",
}


def scaled(column: str, values: ArrayLike) -> tuple[float, str]:
    """What to divide a column by for the axis, and the axis' label with the unit.

    Args:
        column: its name, whose ending is its unit, as in `energy_J`.
        values: any shape; joules are shown in kJ, MJ or GJ where these fit.
    """
    stem, _, ending = column.rpartition("_")
    if not stem or ending not in _UNITS:
        return 1.0, column
    name = stem.replace("_", " ")
    if ending == "J":
        size, unit = energy_unit(values)
        return size, f"{name} ({unit})"
    return 1.0, f"{name} ({_UNITS[ending]})"


def write_beside(
    axes: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], size: float = 8
) -> None:
    """Write a text beside each point, above or below as there is room.

    Texts of near points take turns above and below, from left to right.
    """
    order = np.argsort(np.asarray(x))
    for turn, place in enumerate(order):
        above = turn % 2 == 0
        axes.annotate(
            texts[place],
            (x[place], y[place]),
            xytext=(4, 5 if above else -5),
            textcoords="offset points",
            va="bottom" if above else "top",
            fontsize=size,
        )
