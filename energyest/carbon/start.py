"""`start_times`: when to start a training so that its electricity is cleanest."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.carbon.emissions import check_pue
from energyest.carbon.series import CarbonSeries, seconds_of
from energyest.checks import check_not_negative, check_positive
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError

if TYPE_CHECKING:
    import pandas as pd


def start_times(
    forecast: CarbonSeries,
    energy_J: float,
    duration_s: float,
    *,
    earliest: datetime | str | None = None,
    latest_end: datetime | str | None = None,
    pue: float = 1.0,
) -> pd.DataFrame:
    """Emissions of a training for each time at which it may start, the least first.

    The energy is spread evenly over the duration. Starts at which a value of the forecast begins
    to count, and those for which one does so at the end, are tried: no other start is better.

    Args:
        forecast: the carbon intensity to come; see `CarbonSeries`.
        energy_J: energy of the training in joules, such as that of an `Estimate`.
        duration_s: its duration in seconds, likewise.
        earliest: the earliest start, with a time zone; by default that of the forecast.
        latest_end: when it has to be over; by default, the end of the forecast.
        pue: power usage effectiveness of the data centre.

    Returns:
        One row per start: `start` (a time in UTC), `co2e_kg`, and `saving`, the share that is saved
        compared with the earliest start; negative if it costs more.

    Raises:
        EstimateError: an argument is invalid, the training does not fit into the time, or the
            forecast lacks a value within it.

    Examples:
        >>> from energyest.carbon import CarbonSeries, start_times
        >>> forecast = CarbonSeries([0, 3600, 7200], [400, 300, 350])
        >>> start_times(forecast, energy_J=3.6e6, duration_s=3600).co2e_kg.tolist()
        [0.3, 0.35, 0.4]
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    energy_J = check_not_negative(energy_J, "energy_J", EstimateError)
    duration_s = check_positive(duration_s, "duration_s", EstimateError)
    times_s = np.asarray(forecast.time_s)
    begin_s, end_s = forecast.begin_s, forecast.end_s
    first_s = begin_s if earliest is None else seconds_of(earliest, "earliest")
    last_s = end_s if latest_end is None else seconds_of(latest_end, "latest_end")
    if first_s < begin_s or last_s > end_s:
        raise EstimateError(f"the forecast ({forecast}) does not cover the time asked for")
    if first_s + duration_s > last_s:
        raise EstimateError(
            f"a training of {duration_s:g} s does not fit into the {last_s - first_s:g} s of time"
        )
    ends = [first_s, last_s - duration_s]
    starts_s = np.unique(np.concatenate([ends, times_s, times_s - duration_s]))
    starts_s = starts_s[(starts_s >= first_s) & (starts_s <= last_s - duration_s)]
    mean = _mean(forecast, starts_s, duration_s)
    if np.isnan(mean).any():
        raise EstimateError(f"the forecast ({forecast}) lacks values within the time asked for")
    kg = mean / 1000 * check_pue(pue) * energy_J / JOULES_PER_KWH
    saving = 1 - kg / kg[0] if kg[0] > 0 else np.zeros_like(kg)
    start = pd.to_datetime(starts_s, unit="s", utc=True)
    table = pd.DataFrame({"start": start, "co2e_kg": kg, "saving": saving})
    found: pd.DataFrame = table.sort_values("co2e_kg", kind="stable", ignore_index=True)
    return found


def _mean(forecast: CarbonSeries, starts_s: FloatArray, duration_s: float) -> FloatArray:
    """Mean intensity from each start on; NaN where a value is missing."""
    span_s = np.array([starts_s[0], starts_s[-1] + duration_s])
    inner_s = np.concatenate([starts_s, starts_s + duration_s])
    edges_s, part_s = forecast.divide(span_s, span_s - span_s[0], more_s=inner_s)
    parts = forecast.values_at(edges_s[:-1]) * part_s
    so_far = np.concatenate([[0.0], np.cumsum(parts)])
    begin, end = np.interp(starts_s, edges_s, so_far), np.interp(inner_s, edges_s, so_far)
    mean: FloatArray = (end[len(starts_s) :] - begin) / duration_s
    return mean
