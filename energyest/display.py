"""How results show themselves: as text, and as HTML in notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd  # results that hold no table do without it


def as_text(heading: str, tables: Sequence[pd.DataFrame] = (), notes: Sequence[str] = ()) -> str:
    """A heading, tables below it, and notes, with an empty line between them."""
    shown = [t.to_string(index=False, float_format="{:.4g}".format, na_rep="-") for t in tables]
    return "\n\n".join([heading, *shown, *(["\n".join(notes)] if notes else [])])


def as_html(heading: str, tables: Sequence[pd.DataFrame] = (), notes: Sequence[str] = ()) -> str:
    """The same as HTML, notes as a list."""
    shown = [t.to_html(index=False, float_format="{:.4g}".format, na_rep="-") for t in tables]
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    listed = [f"<ul>{items}</ul>"] if notes else []
    return "".join([f"<p>{html.escape(heading)}</p>", *shown, *listed])
