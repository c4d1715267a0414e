"""Axes of plots: their names, the units at their ticks, and logarithmic scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from energyest.display import unit_for
from energyest.plots.style import wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from numpy.typing import ArrayLike

# From this ratio of the largest to the smallest value on, an axis is logarithmic.
WIDE = 30.0
# Endings of columns that are units: those that take a prefix, and the others.
_WITH_PREFIX = {"J": "J", "Wh": "Wh", "W": "W", "bytes": "B"}
_WITHOUT_PREFIX = {"kWh": "kWh", "s": "s", "kg": "kg", "pct": "%"}
# Of the name of an axis, to a line.
_MOST_CHARACTERS = 50
# Times that ticks may stand at, in seconds, and how they are written.
_TIMES = {
    number * size_s: f"{number:g} {unit}"
    for unit, size_s, numbers in (
        ("s", 1, (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)),
        ("min", 60, (1, 3, 10, 30)),
        ("h", 3600, (1, 3, 10)),
        ("d", 86400, (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)),
    )
    for number in numbers
}


def name_axis(axis: Axis, column: str, *, what: str = "{}") -> None:
    """Write a column's name at an axis, with its unit; after everything was drawn.

    A linear axis has one unit, in its name, which fits its largest value: energy (kJ). On a
    logarithmic one, which may span many of them, it stands at each tick: 500 J, 2 kJ.

    Args:
        axis: one axis of a panel.
        column: its name, whose ending is its unit, as in `energy_J`.
        what: the text around the name.
    """
    stem, _, ending = column.rpartition("_")
    name = stem.replace("_", " ")
    if stem and ending in _WITH_PREFIX:
        unit = _WITH_PREFIX[ending]
        if axis.get_scale() == "log":
            show_unit(axis, unit)
        else:
            name = f"{name} ({_scale(axis, unit)})"
    elif stem and ending in _WITHOUT_PREFIX:
        name = f"{name} ({_WITHOUT_PREFIX[ending]})"
    else:
        name = wrapped(column, _MOST_CHARACTERS)
    axis.set_label_text(what.format(name))


def _scale(axis: Axis, unit: str) -> str:
    """Let ticks count the unit that fits the axis' largest value, and return its name."""
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415  (optional dependency)

    size, name = unit_for(float(np.abs(axis.get_view_interval()).max()), unit)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / size:.6g}"))
    return name


def count_axis(axis: Axis) -> None:
    """Whole numbers at the ticks: there is no epoch 2.5."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: PLC0415

    axis.set_major_locator(MaxNLocator(integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: str(round(value))))


def show_unit(axis: Axis, unit: str = "") -> None:
    """Write a unit at the ticks, with the prefix that fits: 500 J, 2 kJ."""
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    axis.set_major_formatter(EngFormatter(unit))


def show_percent(axis: Axis) -> None:
    """Write shares from 0 to 1 in per cent at the ticks."""
    from matplotlib.ticker import PercentFormatter  # noqa: PLC0415

    axis.set_major_formatter(PercentFormatter(1, symbol=" %"))


def show_durations(axis: Axis) -> None:
    """Mark round times on a logarithmic axis of seconds: 30 s, 1 min, 3 h, 1 d."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415

    axis.set_major_locator(FixedLocator(list(_TIMES)))
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: _TIMES.get(seconds, "")))
    axis.set_minor_locator(NullLocator())


def is_wide(values: ArrayLike) -> bool:
    """Whether values are positive, and so far apart that only a log axis shows them all."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(known.size and known.min() > 0 and known.max() / known.min() >= WIDE)


def make_log(axes: Axes, *names: Literal["x", "y"], subs: Sequence[float] = (1.0, 3.0)) -> None:
    """Make axes of a panel logarithmic, with numbers at the multiples `subs` of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    for name in names:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
