"""What commands tell of a trace, a run or an estimate: the same names and units everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from energyest.display import JOULES_PER_KWH, format_mass

if TYPE_CHECKING:
    import pandas as pd

    from energyest.carbon import Intensity
    from energyest.estimate import Estimate, NotStableError
    from energyest.records.trace import EnergyTrace


@dataclass(frozen=True)
class Emissions:
    """How much CO2e an energy stands for.

    Attributes:
        intensity: carbon intensity of the electricity; None where it is not known.
        pue: power usage effectiveness of the data centre.
        given: the options, as they were given; None for those that were not.
    """

    intensity: Intensity | None
    pue: float
    given: tuple[str | None, float | None] = (None, None)

    def of(self, what: float | EnergyTrace | Estimate | None) -> float | None:
        """Kilograms of CO2e of joules, a run or an estimate.

        None where the energy or the intensity is not known, or the intensity is a series that does
        not cover the time. An estimate is taken to begin now.
        """
        from energyest.carbon import CarbonSeries, co2e_kg
        from energyest.errors import EstimateError

        if self.intensity is None or what is None:
            return None
        try:
            if isinstance(what, float | int):
                return co2e_kg(what, self.intensity, pue=self.pue)
            return what.co2e_kg(self.intensity, pue=self.pue)
        except EstimateError:
            if isinstance(self.intensity, CarbonSeries):
                return None
            raise

    def of_runs(self, runs: pd.DataFrame) -> list[float | None]:
        """The same for each run of a table: by the options, or as recorded with it, or as set."""
        intensity, pue = self.given
        found = []
        for row in runs.to_dict("records"):
            recorded = row.get("carbon_g_per_kWh", math.nan)
            own = self
            if intensity is None and math.isfinite(recorded):
                own = replace(self, intensity=recorded, pue=row["pue"] if pue is None else pue)
            found.append(own.of(float(row["energy_J"])))
        return found

    def text(self, what: float | EnergyTrace | Estimate) -> str:
        """The same for a line of text; empty where it is not known."""
        kg = self.of(what)
        return "" if kg is None or not math.isfinite(kg) else f"{format_mass(kg)} CO2e"

    def for_run(self, trace: EnergyTrace) -> Emissions:
        """How to count those of a run: by the options, or as recorded with it, or as set."""
        from energyest.settings import emission_basis

        intensity, pue = self.given
        basis = emission_basis(trace.meta, intensity=intensity, pue=pue)
        return Emissions(basis.intensity, basis.pue, self.given)


def emissions(intensity: str | None, pue: float | None) -> Emissions:
    """How to count CO2e: by the options, the environment, or `pyproject.toml`.

    Raises:
        EnergyestError: an option is out of its range.
    """
    from energyest.settings import settings

    found = settings(carbon_intensity=intensity, pue=pue)
    return Emissions(found.carbon_intensity, found.pue, (intensity, pue))


def energy_facts(energy_J: float | None, co2e_kg: float | None) -> dict[str, Any]:
    """An energy in all its units."""
    kWh = None if energy_J is None else energy_J / JOULES_PER_KWH
    return {"energy_J": energy_J, "energy_kWh": kWh, "co2e_kg": co2e_kg}


def trace_facts(trace: EnergyTrace, carbon: Emissions) -> dict[str, Any]:
    """What a trace tells of its run."""
    from energyest.records.meta import read_object, read_text
    from energyest.summary import duration_s_of, notes_of, status_of

    return {
        "status": status_of(trace),
        "unit": trace.unit,
        "rows": len(trace),
        **energy_facts(trace.total_J, carbon.for_run(trace).of(trace)),
        "components_J": dict(read_object(trace.meta, "components")),
        "duration_s": duration_s_of(trace),
        "devices": trace.devices,
        "stopped_by_budget": read_text(read_object(trace.meta, "budget"), "stopped"),
        "notes": list(notes_of(trace)),
    }


def estimate_facts(estimate: Estimate, carbon: Emissions) -> dict[str, Any]:
    """What an estimate says."""
    return {
        **energy_facts(estimate.energy_J, carbon.of(estimate)),
        "energy_lower_J": estimate.lower_J,
        "energy_upper_J": estimate.upper_J,
        "confidence": estimate.confidence,
        "duration_s": estimate.duration_s,
        "duration_lower_s": estimate.duration_lower_s,
        "duration_upper_s": estimate.duration_upper_s,
        "measured_J": estimate.measured_J,
        "epochs": estimate.epochs,
        "epochs_lower": estimate.epochs_lower,
        "epochs_upper": estimate.epochs_upper,
        "unit": estimate.unit,
        "method": estimate.method,
        "assumptions": estimate.assumptions,
    }


def unstable_facts(error: NotStableError, carbon: Emissions) -> dict[str, Any]:
    """What there is of an estimate that has no guarantee yet."""
    guess = error.estimate
    return {
        "is_stable": False,
        "reason": error.reason,
        "missing_epochs": error.missing_epochs,
        "estimate": None if guess is None else estimate_facts(guess, carbon),
    }
