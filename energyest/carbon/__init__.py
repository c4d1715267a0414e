"""From energy to emissions: carbon intensities by country and over time, and what follows."""

from energyest.carbon.countries import CarbonIntensity, carbon_intensity, known_countries
from energyest.carbon.emissions import Intensity, co2e_kg
from energyest.carbon.hours import co2e_by_hour
from energyest.carbon.series import CarbonSeries
from energyest.carbon.start import start_times
from energyest.carbon.water import water_L

__all__ = [
    "CarbonIntensity",
    "CarbonSeries",
    "Intensity",
    "carbon_intensity",
    "co2e_by_hour",
    "co2e_kg",
    "known_countries",
    "start_times",
    "water_L",
]
