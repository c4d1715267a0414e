"""`outcome_of`: what a run has cost, as numbers for the loggers of a trainer."""

from __future__ import annotations

import math

import numpy as np

from energyest.carbon.basis import EmissionBasis
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError
from energyest.estimate import NotStableError
from energyest.estimators.step.estimate import estimate_step
from energyest.records.meta import read_text
from energyest.records.trace import EnergyTrace
from energyest.summary import duration_s_of, per_sample_J


def outcome_of(trace: EnergyTrace, basis: EmissionBasis) -> dict[str, float]:
    """The cost of a run that has ended, as numbers.

    Args:
        trace: trace of the run.
        basis: what turns its energy into emissions.

    Returns:
        What is known of: `J` and `kWh` of the whole run, its `duration_s`, `mean_power_W`,
        `J_per_sample` (in epochs), `co2e_kg`, and `projection_error`: by which share of their
        energy STEP, from the first half of the epochs, was above or below what they came to.
    """
    total_J, duration_s = trace.total_J, duration_s_of(trace) or math.nan
    values = {
        "J": total_J,
        "kWh": total_J / JOULES_PER_KWH,
        "duration_s": duration_s,
        "mean_power_W": total_J / duration_s,
        "J_per_sample": per_sample_J(trace),
        "co2e_kg": _co2e_kg(trace, basis),
        "projection_error": _error_at_half(trace),
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _co2e_kg(trace: EnergyTrace, basis: EmissionBasis) -> float:
    try:
        intensity = basis.intensity
        return math.nan if intensity is None else trace.co2e_kg(intensity, pue=basis.pue)
    except EstimateError:  # a series does not cover the run
        return math.nan


def _error_at_half(trace: EnergyTrace) -> float:
    """The relative error of the projection after half of the epochs; NaN if there was none."""
    came_to_J = float(np.sum(trace.column("energy_J")))
    is_over = read_text(trace.meta, "status") == "finished"
    if not is_over or not came_to_J > 0 or len(trace) < 2:  # of one epoch, half is the whole
        return math.nan
    try:
        seen = trace.head(math.ceil(len(trace) / 2))
        return (estimate_step(seen, trace.epochs_done).energy_J - came_to_J) / came_to_J
    except (EstimateError, NotStableError):
        return math.nan
