"""`water_L`: the water that a data centre evaporates to cool its machines."""

from __future__ import annotations

from energyest.checks import check_not_negative, is_number, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError


def water_L(energy_J: float, wue_L_per_kWh: float) -> float:
    """Water that a data centre uses on its site for an energy, in litres.

    The water that power stations use is not part of it.

    Args:
        energy_J: joules at the machine; NaN gives NaN.
        wue_L_per_kWh: water usage effectiveness of the data centre: litres of water divided by the
            kWh of its machines (ISO/IEC 30134-9). There is no default: it ranges from 0 to several
            litres.

    Raises:
        EstimateError: an argument is negative or not a number.

    Examples:
        >>> from energyest.carbon import water_L
        >>> water_L(3.6e9, 1.8)  # 1,000 kWh
        1800.0
    """
    if not is_number(energy_J) or energy_J < 0:
        raise EstimateError(f"energy_J={short(energy_J)} must be a number of 0 or more, or NaN")
    wue = check_not_negative(wue_L_per_kWh, "wue_L_per_kWh", EstimateError)
    return float(energy_J) / JOULES_PER_KWH * wue
