"""What stands at the axes of plots of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from energyest.plots.style import energy_unit

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Endings of columns that are units, and how these are written.
_UNITS = {
    "J": "J",
    "Wh": "Wh",
    "kWh": "kWh",
    "W": "W",
    "s": "s",
    "kg": "kg",
    "pct": "%",
    "bytes": "B",
}


def scaled(column: str, values: ArrayLike) -> tuple[float, str]:
    """What to divide a column by for the axis, and the axis' label with the unit.

    Args:
        column: its name, whose ending is its unit, as in `energy_J`.
        values: any shape; joules are shown in kJ, MJ or GJ where these fit.
    """
    stem, _, ending = column.rpartition("_")
    if not stem or ending not in _UNITS:
        return 1.0, column
    name = stem.replace("_", " ")
    if ending == "J":
        size, unit = energy_unit(values)
        return size, f"{name} ({unit})"
    return 1.0, f"{name} ({_UNITS[ending]})"
