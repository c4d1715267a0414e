"""A figure that notebooks show by themselves; imported where matplotlib is known to be there."""

from __future__ import annotations

from io import BytesIO

from matplotlib import rc_context
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

# Of the picture that a notebook stores.
_DPI = 100


class Picture(Figure):
    """A matplotlib figure without a window, shown where it is the value of a notebook's cell.

    Notebooks show plain figures only after pyplot was set up, which would also open windows.
    """

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; the names at ticks, which are made only now, are as they are."""
        with rc_context({"text.parse_math": False}):
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()
