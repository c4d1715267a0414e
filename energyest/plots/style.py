"""What all plots share: colours, markers, line styles and hatches, and the empty figure.

Wherever colour tells series apart, a marker, line style or hatch does as well, so that a plot can
be read in grey print and by the colour-blind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energyest.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette (Color Universal Design, 2008), distinguishable by the colour-blind. Its
# yellow is left out: on white it is too pale for a line or a marker.
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
VERMILION, PURPLE, SKY = "#D55E00", "#CC79A7", "#56B4E9"
BLACK, GREY = "#000000", "#999999"

# For series in their order, see `series_style`.
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")


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


def series_style(place: int) -> tuple[str, str, Any]:
    """Colour, marker and line style of a series, by its place among all.

    As the lengths share no factor but 1, a pair of colour and marker comes back after 56 series.
    """
    return (
        COLOURS[place % len(COLOURS)],
        MARKERS[place % len(MARKERS)],
        LINES[place % len(LINES)],
    )
