"""Turn a log of energies per epoch into the columns of a trace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from energyest.arrays import FloatArray, check_same_length, ratio, refuse
from energyest.records.devices import devices_of
from energyest.records.from_logs.columns import LogColumns, as_measured, as_numbers
from energyest.records.from_logs.units import doubts_of_epochs


def log_of_epochs(
    energy_J: ArrayLike,
    duration_s: ArrayLike | None,
    meta: Mapping[str, Any],
    columns: Mapping[str, ArrayLike],
) -> LogColumns:
    """The columns for `EnergyTrace.from_epochs`, with the same arguments and errors."""
    energy = as_measured(energy_J, "energy_J")
    duration: FloatArray | None = None
    known: dict[str, FloatArray] = {"epoch": np.arange(len(energy), dtype=np.float64)}
    if duration_s is not None:
        duration = as_numbers(duration_s, "duration_s")
        # Without a duration, the times of all later epochs would be unknown.
        rule = "must be finite, also for an epoch whose energy was not measured"
        refuse(~np.isfinite(duration), duration, "duration_s", rule)
        refuse(duration < 0, duration, "duration_s", "must not be negative")
        check_same_length(energy_J=energy, duration_s=duration)
        end = np.cumsum(duration)
        known |= {"start_s": end - duration, "end_s": end, "duration_s": duration}
        known["mean_power_W"] = ratio(energy, duration)
    known["energy_J"] = energy
    for name, values in columns.items():
        known[name] = as_numbers(values, name)
        check_same_length(energy_J=energy, **{name: known[name]})
    return LogColumns(known, {}, meta, doubts_of_epochs(energy, duration, devices_of(meta)))
