"""The carbon intensity of electricity by country.

`data/carbon_intensity.csv` holds one row for each country and one for the world, with year and
source. All rows come from Ember's Yearly Electricity Data (release of 2025), as processed by Our
World in Data ("Lifecycle carbon intensity of electricity generation"; both CC BY 4.0). The year of
a row is the newest in the release for that country: 2024 for most, never before 2022.

The values count all greenhouse gases over the life cycle of the power stations and their fuel, as
CO2e over 100 years, per kWh generated in the country. They do not account for:

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
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources

from energyest.checks import finite_or_none, short
from energyest.errors import EstimateError


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
        check_g_per_kWh(self.g_per_kWh)

    def __str__(self) -> str:
        return f"{self.g_per_kWh:g} g CO2e/kWh ({self.country}, {self.year}; {self.source})"


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


def check_g_per_kWh(g_per_kWh: float) -> None:
    """Raise an error for anything but a carbon intensity in g CO2e per kWh."""
    value = finite_or_none(g_per_kWh)
    if value is None or value < 0:
        raise EstimateError(
            f"intensity_g_per_kWh={short(g_per_kWh)} must be a finite number of 0 or more (g CO2e "
            "per kWh), or a country"
        )


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
