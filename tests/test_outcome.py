"""What a run has cost, as numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from energyest import EnergyTrace
from energyest.carbon import CarbonSeries
from energyest.carbon.basis import EmissionBasis
from energyest.tracking.cost.outcome import outcome_of

ENDED = {"status": "finished", "total_J": 7200.0, "duration_s": 100.0}


def run(energy_J: list[float], **meta: object) -> EnergyTrace:
    seconds = [8.0] * len(energy_J)
    return EnergyTrace.from_epochs(
        energy_J, seconds, samples=[50] * len(energy_J), meta={**ENDED, **meta}
    )


def test_all_that_is_known() -> None:
    found = outcome_of(run([700.0] * 10), EmissionBasis(500, 1.5))
    assert found == pytest.approx(
        {
            "J": 7200,
            "kWh": 0.002,
            "duration_s": 100,
            "mean_power_W": 72,
            "J_per_sample": 14,
            "co2e_kg": 0.0015,
            "projection_error": 0,
        }
    )


def test_what_is_not_known_is_left_out() -> None:
    assert set(outcome_of(run([700.0] * 10), EmissionBasis())) == {
        *("J", "kWh", "duration_s", "mean_power_W", "J_per_sample", "projection_error")
    }
    unknown = run([700.0, math.nan, 700.0, 700.0], total_J=None)
    assert outcome_of(unknown, EmissionBasis(500)) == {"duration_s": 100}
    assert outcome_of(EnergyTrace({}), EmissionBasis(500)) == {}
    elsewhere = CarbonSeries([0, 3600], [100, 100])
    series = run([700.0] * 10, start_time="2026-03-01T10:00:00+00:00")
    assert "co2e_kg" not in outcome_of(series, EmissionBasis(elsewhere))


def test_the_error_is_of_the_projection_from_the_first_half() -> None:
    calm = [700.0] * 10
    assert outcome_of(run(calm + [770.0] * 10, total_J=15e3), EmissionBasis())[
        "projection_error"
    ] == pytest.approx(-700 / 14_700)
    # No level yet, and a run that did not get to where it was projected to.
    assert "projection_error" not in outcome_of(run([700.0, 710.0], total_J=2e3), EmissionBasis())
    assert "projection_error" not in outcome_of(run([700.0]), EmissionBasis())  # nothing projected
    stopped = run(calm, status="interrupted by KeyboardInterrupt")
    assert "projection_error" not in outcome_of(stopped, EmissionBasis())


def test_a_last_epoch_that_was_cut_short_is_a_part() -> None:
    columns = {
        "energy_J": np.array([700.0] * 9 + [350.0]),
        "duration_s": np.full(10, 8.0),
        "steps": np.array([10.0] * 9 + [5.0]),
    }
    trace = EnergyTrace({"epoch": np.arange(10.0), **columns}, {}, ENDED)
    assert outcome_of(trace, EmissionBasis())["projection_error"] == pytest.approx(0, abs=1e-12)
