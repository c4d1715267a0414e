"""`co2e_by_hour`: the energy and the emissions of a run, hour by hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from energyest.arrays import FloatArray
from energyest.carbon.emissions import Intensity, check_pue, constant_g_per_kWh
from energyest.carbon.series import CarbonSeries
from energyest.display import JOULES_PER_KWH

if TYPE_CHECKING:
    import pandas as pd

_HOUR_S = 3600.0


class Spending(Protocol):
    """A run that knows when it used its energy, as `EnergyTrace` does."""

    def energy_over_time(self) -> tuple[FloatArray, FloatArray]:
        """Times in seconds since 1970, and the energy in joules used up to each of them."""
        ...


def co2e_by_hour(trace: Spending, intensity: Intensity, *, pue: float = 1.0) -> pd.DataFrame:
    """The energy and the emissions of a run for each hour of the clock, in UTC.

    Args:
        trace: the trace of the run.
        intensity: carbon intensity of the electricity: a `CarbonSeries`, a number, or a country.
        pue: power usage effectiveness of the data centre.

    Returns:
        One row per hour in which the run was measured: `hour` (its beginning), `energy_J`,
        `g_per_kWh` (the mean, weighted by energy) and `co2e_kg`. Where a series has no value, the
        last two are NaN.

    Raises:
        EstimateError: an argument is invalid, or the trace does not say when it ran.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.carbon import co2e_by_hour
        >>> began = {'start_time': '2026-03-01T10:30:00+00:00'}
        >>> trace = EnergyTrace.from_epochs([1.8e6, 1.8e6], duration_s=[1800, 1800], meta=began)
        >>> co2e_by_hour(trace, 400).co2e_kg.tolist()
        [0.2, 0.2]
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    time_s, energy_J = trace.energy_over_time()
    first, last = np.floor(time_s[0] / _HOUR_S), np.floor(time_s[-1] / _HOUR_S)
    hours_s = _HOUR_S * np.arange(first, last + 1)
    if not isinstance(intensity, CarbonSeries):
        g_per_kWh = constant_g_per_kWh(intensity)
        intensity = CarbonSeries([hours_s[0], hours_s[-1] + _HOUR_S], [g_per_kWh, g_per_kWh])
    edges_s, part_J = intensity.divide(time_s, energy_J, more_s=hours_s)
    part_kg = part_J * intensity.values_at(edges_s[:-1]) / 1000 / JOULES_PER_KWH
    part_kg = np.where(part_J == 0, 0.0, part_kg) * check_pue(pue)
    hour = np.floor(edges_s[:-1] / _HOUR_S).astype(np.int64) - int(first)
    count = len(hours_s)
    used_J = np.bincount(hour, part_J, count)
    kg = np.bincount(hour, part_kg, count)
    with np.errstate(invalid="ignore"):
        mean = np.where(used_J > 0, kg * 1000 * JOULES_PER_KWH / pue / used_J, np.nan)
    table = pd.DataFrame(
        {
            "hour": pd.to_datetime(hours_s, unit="s", utc=True),
            "energy_J": used_J,
            "g_per_kWh": mean,
            "co2e_kg": kg,
        }
    )
    measured = np.bincount(hour, np.diff(edges_s), count) > 0
    found: pd.DataFrame = table[measured].reset_index(drop=True)
    return found
