"""From energy to emissions: the carbon intensity of electricity by country, and `co2e_kg`.

`data/carbon_intensity.csv` holds one row for each country and one for the world, with year and
source. All rows come from Ember's Yearly Electricity Data (release of 2025), as processed by Our
World in Data ("Lifecycle carbon intensity of electricity generation"; both CC BY 4.0). The year of
a row is the newest in the release for that country: 2024 for most, never before 2022.

The values count all greenhouse gases over the life cycle of the power stations and their fuel, as
CO2 equivalents over 100 years, per kWh generated in the country. They do not account for:

- Imports: a country that imports much of its electricity consumes a different mix than it
  generates.
- Grid losses, which add a few per cent.
- Hour, region and contract: each can differ widely from the country's yearly mean.

A figure from the grid operator or the data centre for the time of the training is better than any
row of the table; pass it instead of a country.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from numpy.typing import ArrayLike

from energyest.arrays import FloatArray, as_vector
from energyest.checks import finite_or_none, short
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CarbonIntensity:
    """The emissions of a kWh of electricity in a country.

    Attributes:
        g_per_kWh: g CO2e per kWh.
        country: English name of the country.
        year: the year that the intensity is averaged over.
        source: where the value was published.

    Raises:
        EstimateError: the intensity is negative or not finite.
    """

    g_per_kWh: float
    country: str
    year: int
    source: str

    def __post_init__(self) -> None:
        _check_intensity(self.g_per_kWh)

    def __str__(self) -> str:
        return f"{self.g_per_kWh:g} g CO2e/kWh ({self.country}, {self.year}; {self.source})"


# Emissions per kWh: a number in g CO2e per kWh, a country, or a row of the table.
Intensity: TypeAlias = float | str | CarbonIntensity


def carbon_intensity(country: str) -> CarbonIntensity:
    """The carbon intensity of a country's electricity, for the newest year in the table.

    Args:
        country: ISO 3166-1 code of two or three letters, or English name ("DE", "DEU",
            "Germany"), or "World". Case, spaces and accents are ignored.

    Raises:
        EstimateError: the table has no such country. The message lists the closest names.

    Examples:
        >>> from energyest.carbon import carbon_intensity
        >>> carbon_intensity('DE').country
        'Germany'
    """
    if not isinstance(country, str):
        raise EstimateError(f"country={country!r} must be the code or the name of a country")
    known = _by_spelling().get(_spelling(country))
    if known is None:
        raise EstimateError(_unknown(country))
    return known


def known_countries() -> tuple[str, ...]:
    """The names of all countries in the table, in alphabetical order, "World" among them.

    Examples:
        >>> from energyest.carbon import known_countries
        >>> len(known_countries())
        125
    """
    return tuple(dict.fromkeys(row.country for row in _by_spelling().values()))


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
        intensity_g_per_kWh: a number in g CO2e per kWh, a country, or a `CarbonIntensity`.
        pue: power usage effectiveness of the data centre: its total energy divided by the energy
            of its machines. Energies in this package never include it, so it is 1 unless given
            here.

    Returns:
        A number, an array of shape (n,), or a Series with the index of `energy_J` and the name
        `co2e_kg`.

    Raises:
        EstimateError: the country is unknown, the intensity is negative or not finite, the PUE
            is below 1 or not finite, or `energy_J` holds no joules.

    Examples:
        >>> from energyest.carbon import co2e_kg
        >>> co2e_kg(3.6e6, 350, pue=1.2)  # a kWh
        0.42
        >>> co2e_kg([3.6e6, 7.2e6], 350).tolist()
        [0.35, 0.7]
    """
    kg_per_J = _g_per_kWh(intensity_g_per_kWh) / 1000 * _checked_pue(pue) / JOULES_PER_KWH
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


def _g_per_kWh(intensity: Intensity) -> float:
    if isinstance(intensity, str):
        return carbon_intensity(intensity).g_per_kWh
    if isinstance(intensity, CarbonIntensity):
        return intensity.g_per_kWh
    _check_intensity(intensity)
    return float(intensity)


def _check_intensity(g_per_kWh: float) -> None:
    value = finite_or_none(g_per_kWh)
    if value is None or value < 0:
        raise EstimateError(
            f"intensity_g_per_kWh={short(g_per_kWh)} must be a finite number of 0 or more (g CO2e "
            "per kWh), or a country"
        )


def _checked_pue(pue: float) -> float:
    value = finite_or_none(pue)
    if value is None or value < 1:
        raise EstimateError(
            f"pue={short(pue)} must be 1 or more and finite: a data centre uses at least as much "
            "energy as its machines"
        )
    return value


@cache
def _by_spelling() -> dict[str, CarbonIntensity]:
    """All rows, by the normalised spellings of their codes, names and aliases."""
    table = resources.files("energyest") / "data" / "carbon_intensity.csv"
    found: dict[str, CarbonIntensity] = {}
    for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines()):
        known = CarbonIntensity(
            float(row["g_CO2e_per_kWh"]), row["name"], int(row["year"]), row["source"]
        )
        names = (row["name"], row["alpha2"], row["alpha3"], *row["aliases"].split(";"))
        found |= {_spelling(name): known for name in names if name}
    return found


def _spelling(name: str) -> str:
    """Lower-case letters only, without accents: "Côte d'Ivoire" becomes cotedivoire."""
    return re.sub(r"[^a-z]", "", unicodedata.normalize("NFKD", name).lower())


def _unknown(country: str) -> str:
    wanted = _spelling(country)
    # Codes are left out: nearly every short word resembles one of them.
    known = {name: row.country for name, row in _by_spelling().items() if len(name) > 3}
    # A part of a name ("America"), or a name with further words: similarity alone misses these.
    part = [name for name in known if len(wanted) > 3 and (wanted in name or name in wanted)]
    alike = difflib.get_close_matches(wanted, known, n=12, cutoff=0.7)
    names = list(dict.fromkeys(known[name] for name in (*part, *alike)))[:4]
    nearest = f"; the closest names are {', '.join(names)}" if names else ""
    return (
        f"unknown country {country!r}{nearest}. energyest.carbon.known_countries() lists all "
        "countries; you can also pass a number in g CO2e per kWh"
    )
