"""Results in notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def as_html(heading: str, tables: Sequence[pd.DataFrame], notes: Sequence[str] = ()) -> str:
    """A heading, tables below it, and notes."""
    shown = "".join(t.to_html(index=False, float_format="{:.4g}".format) for t in tables)
    said = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<p>{html.escape(heading)}</p>{shown}<ul>{said}</ul>"
