"""`EmissionBasis`: the carbon intensity and PUE of a run, as they are recorded in its trace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from energyest.carbon.countries import CarbonIntensity, carbon_intensity
from energyest.carbon.emissions import Intensity
from energyest.carbon.series import CarbonSeries
from energyest.checks import finite_or_none, positive_or_none

#: Name of the entry in a trace's meta.
KEY = "carbon"


@dataclass(frozen=True)
class EmissionBasis:
    """What turns a run's energy into emissions.

    Attributes:
        intensity: carbon intensity of the electricity; None if it is not known.
        pue: power usage effectiveness of the data centre.
    """

    intensity: Intensity | None = None
    pue: float = 1.0

    def as_meta(self) -> dict[str, Any]:
        """What a trace's meta tells of it, as plain JSON values; empty without an intensity.

        A series is not copied into the trace: the entry names it.
        """
        known = self.intensity
        if isinstance(known, str):
            known = carbon_intensity(known)
        if known is None:
            return {}
        if isinstance(known, CarbonSeries):
            return {KEY: {"series": str(known), "pue": self.pue}}
        if isinstance(known, CarbonIntensity):
            origin = {"country": known.country, "year": known.year, "source": known.source}
            return {KEY: {"g_per_kWh": known.g_per_kWh, **origin, "pue": self.pue}}
        return {KEY: {"g_per_kWh": float(known), "pue": self.pue}}

    @classmethod
    def recorded(cls, meta: Mapping[str, Any]) -> EmissionBasis:
        """What a trace's meta, which may hold anything, says of the run."""
        entry = meta.get(KEY)
        if not isinstance(entry, Mapping):
            return cls()
        g_per_kWh, pue = finite_or_none(entry.get("g_per_kWh")), positive_or_none(entry.get("pue"))
        pue = max(pue or 1.0, 1.0)
        if g_per_kWh is None or g_per_kWh < 0:
            return cls(None, pue)
        country, year = entry.get("country"), finite_or_none(entry.get("year"))
        if not isinstance(country, str) or year is None:
            return cls(g_per_kWh, pue)
        source = str(entry.get("source", ""))
        return cls(CarbonIntensity(g_per_kWh, country, int(year), source), pue)
