"""How results show themselves: units that fit, text, and HTML in notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # results that hold no table do without it

JOULES_PER_KWH = 3.6e6


def printable(text: str) -> str:
    """Text that may be of a file that somebody else wrote: it does not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def in_a_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says, for a note."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def as_text(heading: str, tables: Sequence[pd.DataFrame] = (), notes: Sequence[str] = ()) -> str:
    """A heading, tables below it, and notes, with an empty line between them."""
    shown = [t.to_string(index=False, float_format="{:.4g}".format, na_rep="-") for t in tables]
    return printable("\n\n".join([heading, *shown, *(["\n".join(notes)] if notes else [])]))


def as_html(heading: str, tables: Sequence[pd.DataFrame] = (), notes: Sequence[str] = ()) -> str:
    """The same as HTML, notes as a list."""
    shown = [t.to_html(index=False, float_format="{:.4g}".format, na_rep="-") for t in tables]
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    listed = [f"<ul>{items}</ul>"] if notes else []
    return "".join([f"<p>{html.escape(heading)}</p>", *shown, *listed])


def as_csv(table: pd.DataFrame) -> str:
    """A table as CSV, without its index; what is not known is an empty cell.

    Text that a spreadsheet would compute, such as `=1+1`, is preceded by an apostrophe, in the
    header too. Numbers stay as they are.
    """
    text: str = table.rename(columns=_as_cell).map(_as_cell).to_csv(index=False)
    return text


def _as_cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def format_energy(energy_J: float) -> str:
    """Joules as text with a fitting prefix, such as `492 kJ`."""
    for size, unit in ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ")):
        if abs(energy_J) >= size:
            return f"{energy_J / size:.4g} {unit}"
    return f"{energy_J:.4g} J"


def format_Wh(energy_J: float) -> str:
    """Joules as a short text in watt-hours, such as `1.23kWh`: no more than eight characters."""
    energy_Wh = energy_J / JOULES_PER_KWH * 1000
    for size, unit in ((1e9, "GWh"), (1e6, "MWh"), (1e3, "kWh"), (1, "Wh"), (1e-3, "mWh")):
        # 999.6 Wh would be rounded to 1e+03.
        if abs(energy_Wh) >= 0.9995 * size:
            return f"{energy_Wh / size:.3g}{unit}"
    return f"{energy_Wh / 1e-3:.2g}mWh"


def format_both(energy_J: float) -> str:
    """Joules with a fitting prefix, and kWh, such as `492 kJ (0.1367 kWh)`."""
    return f"{format_energy(energy_J)} ({energy_J / JOULES_PER_KWH:.4g} kWh)"


def format_mass(mass_kg: float) -> str:
    """Kilograms as text with a fitting unit, such as `57.3 g`."""
    for size, unit in ((1e3, "t"), (1, "kg"), (1e-3, "g")):
        if abs(mass_kg) >= size:
            return f"{mass_kg / size:.3g} {unit}"
    return f"{mass_kg / 1e-6:.3g} mg"


def format_duration(duration_s: float) -> str:
    """Seconds as text, such as `1 h 02 min`, `3 min 20 s` or `4.2 s`."""
    if not math.isfinite(duration_s):
        return "an unknown time"
    if duration_s < 60:
        return f"{duration_s:.3g} s"
    minutes, seconds = divmod(round(duration_s), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
