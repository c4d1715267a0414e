"""From energy to emissions: `co2e_kg`."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from numpy.typing import ArrayLike

from energyest.arrays import FloatArray, as_vector
from energyest.carbon.countries import CarbonIntensity, carbon_intensity, check_g_per_kWh
from energyest.carbon.series import CarbonSeries
from energyest.checks import finite_or_none, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd

# Emissions per kWh: a number in g CO2e per kWh, a country, a row of the table, or a series in time.
Intensity: TypeAlias = float | str | CarbonIntensity | CarbonSeries


@overload
def co2e_kg(
    energy_J: float | None, intensity_g_per_kWh: Intensity, *, pue: float = 1.0
) -> float: ...
@overload
def co2e_kg(
    energy_J: pd.Series[Any], intensity_g_per_kWh: Intensity, *, pue: float = 1.0
) -> pd.Series[float]: ...
@overload
def co2e_kg(
    energy_J: ArrayLike, intensity_g_per_kWh: Intensity, *, pue: float = 1.0
) -> FloatArray: ...
def co2e_kg(energy_J: Any, intensity_g_per_kWh: Intensity, *, pue: float = 1.0) -> Any:
    """Emissions of an energy in kg CO2e: energy × PUE × intensity.

    `Estimate` and `EnergyTrace` have a method of the same name. For a table of runs, pass the
    column: `co2e_kg(runs["energy_J"], "DE")`. For the interval of an estimate, pass both ends:
    `co2e_kg([estimate.lower_J, estimate.upper_J], "DE")`.

    Args:
        energy_J: joules at the machine: a number, an array of shape (n,) or a Series. NaN or None
            (energy that was not measured) gives NaN.
        intensity_g_per_kWh: a number in g CO2e per kWh, a country, or a `CarbonIntensity`. For a
            `CarbonSeries`, use the methods, which know when the energy was used.
        pue: power usage effectiveness of the data centre: its total energy divided by the energy
            of its machines. Energies in this package never include it, so it is 1 unless given
            here.

    Returns:
        A number, an array of shape (n,), or a Series with the index of `energy_J` and the name
        `co2e_kg`.

    Raises:
        EstimateError: the country is unknown, the intensity is negative, not finite or a series,
            the PUE is below 1 or not finite, or `energy_J` holds no joules.

    Examples:
        >>> from energyest.carbon import co2e_kg
        >>> co2e_kg(3.6e6, 350, pue=1.2)  # a kWh
        0.42
        >>> co2e_kg([3.6e6, 7.2e6], 350).tolist()
        [0.35, 0.7]
    """
    kg_per_J = constant_g_per_kWh(intensity_g_per_kWh) / 1000 * check_pue(pue) / JOULES_PER_KWH
    if energy_J is None:
        return math.nan
    if isinstance(energy_J, Real):
        return float(energy_J) * kg_per_J
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    if isinstance(energy_J, pd.Series):
        values = as_vector(energy_J.to_numpy(na_value=math.nan), "energy_J", EstimateError)
        return pd.Series(values * kg_per_J, index=energy_J.index, name="co2e_kg")
    if isinstance(energy_J, pd.DataFrame) or hasattr(energy_J, "co2e_kg"):
        raise EstimateError(
            f"energy_J is a {type(energy_J).__name__}, not joules: pass the column energy_J of a "
            "table; for an Estimate or EnergyTrace, call its method co2e_kg()"
        )
    return as_vector(energy_J, "energy_J", EstimateError) * kg_per_J


def constant_g_per_kWh(intensity: Intensity) -> float:
    """The intensity as a number; raise an error for one that changes with time."""
    if isinstance(intensity, str):
        return carbon_intensity(intensity).g_per_kWh
    if isinstance(intensity, CarbonIntensity):
        return intensity.g_per_kWh
    if isinstance(intensity, CarbonSeries):
        raise EstimateError(
            "a carbon intensity that changes with time needs to know when the energy was used: use "
            "the method co2e_kg() of a trace or of an estimate"
        )
    check_g_per_kWh(intensity)
    return float(intensity)


def check_pue(pue: float) -> float:
    """Return a power usage effectiveness; raise an error if it is none."""
    value = finite_or_none(pue)
    if value is None or value < 1:
        raise EstimateError(
            f"pue={short(pue)} must be 1 or more and finite: a data centre uses at least as much "
            "energy as its machines"
        )
    return value
