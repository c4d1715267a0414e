"""A picture as SVG inside of a page, which takes the page's colours."""

from __future__ import annotations

import re
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What matplotlib writes around the picture itself.
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_GROUP_NAMES = re.compile(r'<g id="[^"]*">')


def as_svg(figure: Figure, name: str) -> str:
    """The `<svg>` of a picture: black is the page's text colour, and the background is the page's.

    Texts stay texts, in the font of whoever reads it, and nothing is loaded from elsewhere.

    Args:
        figure: of one of the functions that plot.
        name: tells the picture from others of the same page; letters alone.
    """
    import matplotlib as mpl  # noqa: PLC0415  (optional dependency)

    written = StringIO()
    # The salt makes names within the picture its own, and the same each time.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    text = written.getvalue()
    text = _GROUP_NAMES.sub("<g>", _METADATA.sub("", text[text.index("<svg") :]))
    text = text.replace("stroke: #000000", "stroke: currentColor")
    return text.replace("<svg ", '<svg fill="currentColor" aria-hidden="true" ', 1)
