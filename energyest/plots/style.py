"""What all plots share: colours, markers, line styles and hatches, and the empty figure.

Wherever colour tells series apart, a marker, line style or hatch does as well, so that a plot can
be read in grey print and by the colour-blind.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec

from energyest.display import printable
from energyest.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

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

# Characters to a line of a legend, and of any text at all: beyond it is no name.
_LINE, _MOST_CHARACTERS = 28, 200


def plain_text(plot: Callable[P, Figure]) -> Callable[P, Figure]:
    """A plot whose texts are as they are: no name that holds a `$` is taken for a formula."""

    @functools.wraps(plot)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        try:
            import matplotlib as mpl  # noqa: PLC0415  (optional dependency)
            from matplotlib.axis import Tick  # noqa: PLC0415
            from matplotlib.text import Text  # noqa: PLC0415
        except ImportError:
            return plot(*args, **kwargs)  # it says what is missing
        with mpl.rc_context({"text.parse_math": False}):
            figure = plot(*args, **kwargs)
            names = {
                id(name) for tick in figure.findobj(Tick) for name in (tick.label1, tick.label2)
            }
        for text in figure.findobj(Text):
            if id(text) not in names:  # a title that the user sets may be a formula again
                text.set_parse_math("$" not in text.get_text())
        return figure

    return drawn


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
        raise MissingDependencyError("plots need matplotlib: pip install matplotlib") from error
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


def wrapped(text: str, width: int = _LINE) -> str:
    """A text in lines of at most `width` characters; what is far too long for a name is cut.

    Names of models and GPUs come from files and may hold anything: what cannot be printed is a
    question mark.
    """
    plain = " ".join(printable(text).split())
    if len(plain) > _MOST_CHARACTERS:
        plain = f"{plain[:_MOST_CHARACTERS]} …"
    return textwrap.fill(plain, width)


def height_of(texts: Iterable[str], *, least_in: float = 0.36) -> float:
    """Inches that names at the ticks of a vertical axis need, each of one line or more."""
    return sum(max(least_in, 0.15 * (1 + text.count("\n")) + 0.12) for text in texts)


def legend_beside(axes: Axes, *, title: str | None = None) -> None:
    """A legend to the right of a panel, where it hides nothing, with each name once."""
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names[::-1], handles[::-1], strict=True))
    if once:
        axes.legend(
            list(once.values())[::-1],
            list(once)[::-1],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0.0,
            frameon=False,
            fontsize=8,
            title=title,
        )
