"""STEP on traces that are incomplete, damaged, noisy, or in the middle of a change."""

from __future__ import annotations

import math

import numpy as np
import pytest

from energyest import EnergyTrace, NotStableError, PlannedChange, estimate_step
from energyest.errors import EstimateError
from energyest.estimators import find_stable_epoch
from energyest.estimators.step.spikes import without_spikes
from tests.support.traces import trace_of

NAN = math.nan


def with_columns(trace: EnergyTrace, **columns: object) -> EnergyTrace:
    known = dict(trace.epoch_columns)
    known.update({name: np.array(values, dtype=float) for name, values in columns.items()})
    return EnergyTrace(known, {}, trace.meta)


# ---------------------------------------------------------------------- what was not read


@pytest.mark.parametrize("form", ["energy", "power"])
def test_an_unread_epoch_costs_what_those_around_it_cost(form: str) -> None:
    energy = [100.0] * 4 + [NAN] + [100.0] * 5 + [300.0] * 10
    trace = with_columns(trace_of(np.nan_to_num(energy)), energy_J=energy)
    estimate = estimate_step(trace, 50, form=form)
    # By power, its seconds are taken to be like those to come.
    expected_J = 10 * 100 + 40 * 300 + (200 if form == "power" else 0)
    assert estimate.energy_J == pytest.approx(expected_J, rel=1e-3)
    assert estimate.duration_s == pytest.approx(100)
    assert estimate_step(trace, duration_s=100).energy_J == pytest.approx(13_000, rel=1e-3)


def test_unread_epochs_after_a_planned_change() -> None:
    energy = [100.0] * 10 + [NAN] * 3
    trace = with_columns(trace_of(np.nan_to_num(energy)), energy_J=energy)
    estimate = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3)])
    assert estimate.energy_J == pytest.approx(7000)
    assert estimate.duration_s == pytest.approx(13 * 2 + 17 * 6)


def test_an_unknown_duration_is_that_of_the_others() -> None:
    trace = with_columns(trace_of([100.0] * 6), duration_s=[2, 2, NAN, 2, 2, 2])
    assert estimate_step(trace, 20).duration_s == pytest.approx(40)
    assert estimate_step(trace, duration_s=40).energy_J == pytest.approx(2000)


def test_validation_that_is_known_in_part() -> None:
    energy = np.full(20, 100.0)
    validation = np.full(20, 20.0)
    validation[7] = NAN
    trace = trace_of(energy, validation_energy_J=validation)
    assert estimate_step(trace, 100).energy_J == pytest.approx(10_000)
    # Every fifth epoch, and of two of four only the seconds are known.
    validation = np.where(np.arange(20) % 5 == 4, 40.0, 0.0)
    seconds = validation / 40
    energy = 100 + validation
    validation[[4, 14]] = NAN
    trace = trace_of(energy, 2 + seconds, validation_energy_J=validation, validation_s=seconds)
    assert estimate_step(trace, 100).energy_J == pytest.approx(10_000 + 20 * 40)
    # A validated epoch that was not read as a whole.
    energy[9] = NAN
    unread = with_columns(trace, energy_J=energy)
    assert estimate_step(unread, 100).energy_J == pytest.approx(10_000 + 20 * 40)


# ---------------------------------------------------------------------- in the middle of a change


def test_a_wobble_long_after_a_known_change_does_not_bring_the_old_level_back() -> None:
    energy = [100.0] * 10 + [260.0] * 20 + [500.0]
    planned = [PlannedChange(10, flops_ratio=3)]
    with pytest.raises(NotStableError) as caught:
        estimate_step(trace_of(energy), 60, planned=planned)
    assert caught.value.estimate.energy_J > 260 * 50
    recorded = trace_of(energy, meta={"planned_changes": [{"epoch": 10, "flops_ratio": 3.0}]})
    with pytest.raises(NotStableError):
        find_stable_epoch(recorded)


def test_the_regime_of_now_is_not_the_one_before_a_known_change() -> None:
    meta = {"planned_changes": [{"epoch": 10, "flops_ratio": 3.0}]}
    for observed in (11, 12):
        trace = trace_of([100.0] * 10 + [300.0] * (observed - 10), meta=meta)
        with pytest.raises(NotStableError, match="a known change came") as caught:
            find_stable_epoch(trace)
        assert caught.value.missing_epochs == 13 - observed
        with pytest.raises(NotStableError):
            estimate_step(trace, 40, window=3)
        assert estimate_step(trace, 40).energy_J == pytest.approx(1000 + 30 * 300)
    assert find_stable_epoch(trace_of([100.0] * 10 + [300.0] * 3, meta=meta)) == 10


def test_a_change_within_an_interval_belongs_to_neither_side() -> None:
    energy = [100.0] * 10 + [200.0] + [300.0] * 10  # at 10.5
    meta = {"planned_changes": [{"epoch": 10.5, "flops_ratio": 3.0}]}
    total_J = 1000 + 200 + 39 * 300
    for observed in (11, 12):
        estimate = estimate_step(trace_of(energy[:observed], meta=meta), 50)
        assert estimate.energy_J == pytest.approx(total_J, rel=0.01)
    for observed in range(14, 21):
        estimate = estimate_step(trace_of(energy[:observed], meta=meta), 50)
        assert estimate.energy_J == pytest.approx(total_J, rel=0.001)
        assert estimate.stable_epoch == 11


def test_the_power_form_follows_the_plan() -> None:
    gpu = {"device": "gpu:0", "kind": "gpu", "power_limit_W": 115.0}
    trace = trace_of([100.0] * 12, gpu_energy_J=[100.0] * 12, meta={"devices": [gpu]})
    planned = [PlannedChange(20, flops_ratio=4)]
    by_energy, by_power = (
        estimate_step(trace, 60, planned=planned, form=form) for form in ("energy", "power")
    )
    assert by_power.energy_J == pytest.approx(by_energy.energy_J)
    # The GPU waits most of the time: four times the work takes less than four times as long.
    assert 24 + 2 * 48 < by_energy.duration_s < 24 + 2 * 8 + 40 * 2 * 4


def test_validation_in_each_epoch_keeps_its_seconds() -> None:
    trace = trace_of([100.0] * 8, 2.0, validation_energy_J=[40.0] * 8, validation_s=[0.8] * 8)
    estimate = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3)])
    assert estimate.duration_s == pytest.approx(20 + 20 * (1.2 * 3 + 0.8))


# ---------------------------------------------------------------------- patterns


@pytest.mark.parametrize("period", [2, 3, 4, 7])
def test_short_periods(period: int) -> None:
    energy = np.full(100, 100.0)
    energy[period - 1 :: period] = 160
    for observed in range(3 * period + 1, 100):
        try:
            estimate = estimate_step(trace_of(energy[:observed]), 100)
        except NotStableError:
            continue
        assert estimate.energy_J == pytest.approx(energy.sum(), rel=0.06)
        assert estimate.lower_J <= energy.sum() * 1.001
        assert estimate.upper_J >= energy.sum() * 0.999


def test_every_other_epoch_is_not_a_spike() -> None:
    values = np.array([100.0, 140] * 4)
    np.testing.assert_array_equal(without_spikes(values), values)


# ---------------------------------------------------------------------- ends


def test_a_time_limit_holds_for_a_start_too() -> None:
    meta = {"planned_epochs": 20, "planned_duration_s": 30.0}
    trace = trace_of([100.0] * 5, meta=meta)
    assert estimate_step(trace, start=2).energy_J == pytest.approx(1500)
    assert estimate_step(trace, start=2, window=2).energy_J == pytest.approx(1500)


def test_one_epoch_gives_no_interval() -> None:
    estimate = estimate_step(trace_of([100.0] * 6), 20, start=5)
    assert estimate.energy_J == pytest.approx(2000)
    assert estimate.lower_J is None


def test_the_part_of_a_broken_epoch_is_reported() -> None:
    trace = trace_of([100.0] * 7 + [25.0], meta={"planned_epochs": 7.25})
    assert estimate_step(trace).epochs == estimate_step(trace, 7.25).epochs == 7.25


@pytest.mark.parametrize("steps", [[50, 0, 0, 0, 0], [-50] * 5, [NAN] * 5])
def test_steps_that_cannot_be(steps: list[float]) -> None:
    trace = with_columns(trace_of([100.0] * 5), steps=steps)
    with pytest.raises(EstimateError, match="does not hold the steps"):
        estimate_step(trace, steps=1000)


@pytest.mark.parametrize("value", [NAN, math.inf, -5.0, 1e-300, "many", None, [3]])
@pytest.mark.parametrize(
    "name",
    [
        "first_epoch",
        "validation_every_n_rows",
        "validation_to_training_batches",
        "planned_duration_s",
        "planned_changes",
        "devices",
    ],
)
def test_a_damaged_meta_does_no_harm(name: str, value: object) -> None:
    meta = {"validation_every_n_rows": 5.0, "validation_to_training_batches": 0.2, name: value}
    validation = np.where(np.arange(12) % 5 == 4, 20.0, 0.0)
    for part in (validation, np.zeros(12)):
        trace = trace_of(100 + part, validation_energy_J=part, meta=meta)
        estimate = estimate_step(trace, 40)
        assert 4000 <= estimate.energy_J <= 4200
        assert estimate.lower_J <= estimate.energy_J <= estimate.upper_J
    if value != 1e-300:  # which is a length that has passed
        with pytest.raises(EstimateError, match="how long the training is"):
            estimate_step(trace_of([100.0] * 5, meta={"planned_epochs": value}))


def test_no_durations_at_all_in_the_power_form() -> None:
    with pytest.raises(EstimateError, match="durations"):
        estimate_step(trace_of([1.0] * 5, 0.0), 10, form="power", start=1)
    with pytest.raises(EstimateError, match="durations"):
        estimate_step(trace_of([1.0] * 5, 0.0), 10, form="power")


def test_confidence_at_its_limits() -> None:
    trace = trace_of([100.0, 101, 99, 100, 102])
    assert "99.95 % interval" in str(estimate_step(trace, 10, confidence=0.9995))
    wide = estimate_step(trace, 10, confidence=0.999999)
    narrow = estimate_step(trace, 10, confidence=1e-9)
    assert wide.lower_J < narrow.lower_J <= narrow.energy_J
    with pytest.raises(EstimateError, match="between 0 and 1"):
        estimate_step(trace, 10, confidence=1 - 1e-16)


def test_a_recorded_energy_ratio_counts() -> None:
    meta = {"planned_changes": [{"epoch": 10, "energy_ratio": 2.0, "reason": 7}]}
    assert estimate_step(trace_of([100.0] * 5, meta=meta), 20).energy_J == pytest.approx(2000)
    meta["planned_changes"][0]["reason"] = "a larger batch"
    assert estimate_step(trace_of([100.0] * 5, meta=meta), 20).energy_J == pytest.approx(3000)


def test_more_validation_than_energy_is_not_negative() -> None:
    trace = trace_of([100.0] * 8, validation_energy_J=[140.0] * 8)
    planned = [PlannedChange(10, flops_ratio=9)]
    assert estimate_step(trace, 30, planned=planned).energy_J == pytest.approx(3000)
