"""What all plots share: colours, markers, line styles and hatches, and the empty figure.

Wherever series are told apart by colour, marker, line style or hatch tells them apart as well, so
that a plot can be read in grey print and by the colour-blind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from energyest.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Okabe and Ito's palette (Color Universal Design, 2008), distinguishable by the colour-blind. Its
# yellow is left out: on white it is too pale for a line or a marker.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
BLACK, GREY = "#000000", "#999999"

# For series in their order. Take them round: `COLOURS[i % len(COLOURS)]`, `MARKERS[i % ...]`; as
# the lengths share no factor but 1, a pair of colour and marker comes back after 56 series.
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")
# From this ratio of the largest to the smallest value on, an axis is logarithmic.
WIDE = 30.0


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to no window.

    Args:
        width_in: width in inches.
        height_in: height in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from energyest.plots.picture import Picture  # noqa: PLC0415  (optional dependency)
    except ImportError as error:
        raise MissingDependencyError(
            "plots need matplotlib: pip install 'energyest[plot]'"
        ) from error
    return Picture(figsize=(width_in, height_in), layout="constrained")


def energy_unit(energy_J: ArrayLike) -> tuple[float, str]:
    """The unit in which energies are best read, by their median: joules in one, and its name.

    Args:
        energy_J: any shape, joules; NaN is left out.
    """
    known = np.abs(np.asarray(energy_J, dtype=np.float64))
    known = known[np.isfinite(known)]
    usual = float(np.median(known)) if known.size else 0.0
    units = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"))
    return next(((size, name) for size, name in units if usual >= size), (1.0, "J"))


def is_wide(values: ArrayLike) -> bool:
    """Whether values are positive, and so far apart that only a log axis shows them all."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(known.size and known.min() > 0 and known.max() / known.min() >= WIDE)


def make_log(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Make axes of a panel logarithmic, with plain numbers at 1, 3, 10, 30 and so on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415

    for name in names:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
