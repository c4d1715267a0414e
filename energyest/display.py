"""How results show themselves: units that fit, and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd  # results that hold no table do without it

JOULES_PER_KWH = 3.6e6
# Prefixes of units, the largest first.
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"))


def printable(text: str) -> str:
    """Text that may be of a file that somebody else wrote: it does not steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def in_a_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says, for a note."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def reason_of(error: Exception) -> str:
    """What an error says, without the advice that `str()` of some errors adds."""
    return str(getattr(error, "reason", error))


def as_text(heading: str, tables: Sequence[pd.DataFrame] = (), notes: Sequence[str] = ()) -> str:
    """A heading, tables below it, and notes, with an empty line between them."""
    shown = [t.to_string(index=False, float_format="{:.4g}".format, na_rep="-") for t in tables]
    return printable("\n\n".join([heading, *shown, *(["\n".join(notes)] if notes else [])]))


def unit_for(largest: float, unit: str = "J") -> tuple[float, str]:
    """The unit in which a set of numbers is written: its size, and its name with a prefix.

    Args:
        largest: the largest of the numbers, in `unit`.
        unit: such as J, Wh or W.
    """
    for size, prefix in _PREFIXES:
        if abs(largest) >= size:
            return size, f"{prefix}{unit}"
    return 1.0, unit


def time_unit_for(longest_s: float) -> tuple[float, str]:
    """The unit in which a set of times is written: its size in seconds, and its name."""
    for size_s, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if longest_s >= 3 * size_s:
            return size_s, name
    return 1.0, "s"


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
    size, unit = unit_for(max(abs(energy_J), 1.0))
    return f"{energy_J / size:.4g} {unit}"


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
    energy_kWh = energy_J / JOULES_PER_KWH
    size, unit = 1e3, "kWh"
    # Where kWh would have leading zeros or an exponent, the unit that fits: 5 J (1.389 mWh).
    if math.isfinite(energy_kWh) and not 1e-3 <= abs(energy_kWh) < 1e4 and energy_kWh:
        size, unit = unit_for(1000 * energy_kWh, "Wh")
    return f"{format_energy(energy_J)} ({1000 * energy_kWh / size:.4g} {unit})"


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
