"""STEP's parts: regular events, validation, planned changes, and the end of a training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, NotStableError, PlannedChange, estimate_step
from energyest.errors import EstimateError
from energyest.estimators import find_stable_epoch
from energyest.estimators.step.spikes import remaining_spikes, without_spikes
from tests.support.traces import trace_of


def noisy(level: float, size: int, noise: float = 0.003) -> np.ndarray:
    return level * (1 + noise * np.random.default_rng(5).standard_normal(size))


# ---------------------------------------------------------------------- events


def test_spikes_are_what_stands_out_between_two_alike() -> None:
    values = np.array([10.0, 10, 15, 10, 10, 10, 4, 10])
    np.testing.assert_allclose(without_spikes(values), 10)


def test_a_step_is_not_a_spike() -> None:
    for values in ([1.0, 1, 1, 2, 2, 2], [1.0, 1, 5, 2, 2], [9.0, 1, 1, 1], [1.0, 1, 1, 9]):
        np.testing.assert_array_equal(without_spikes(np.array(values)), values)


def test_a_last_value_is_a_spike_if_one_like_it_was_seen() -> None:
    values = np.array([10.0, 10, 15, 10, 10, 10, 10, 15])
    np.testing.assert_allclose(without_spikes(values), 10)
    values[-1] = 40  # far higher: something else
    assert without_spikes(values)[-1] == 40


@given(
    period=st.integers(2, 12),
    observed=st.integers(0, 200),
    total=st.integers(1, 200),
)
def test_regular_events_are_counted_exactly(period: int, observed: int, total: int) -> None:
    happens = np.array([(epoch + 1) % period == 0 for epoch in range(max(observed, total))])
    positions = np.flatnonzero(happens[:observed])
    found = remaining_spikes(positions, observed, total)
    if len(positions) >= 1:
        assert found == happens[observed:total].sum()


def test_irregular_events_are_not_counted() -> None:
    assert remaining_spikes(np.array([2, 5, 20]), 25, 100) is None
    assert remaining_spikes(np.array([4, 9, 14]), 40, 100) is None  # they have stopped
    assert remaining_spikes(np.array([4]), 30, 100) is None


def test_checkpoints_every_five_epochs() -> None:
    energy = noisy(100, 100)
    energy[4::5] += 60
    for observed in range(11, 100):
        estimate = estimate_step(trace_of(energy[:observed]), 100)
        assert estimate.energy_J == pytest.approx(energy.sum(), rel=0.004)
        assert estimate.lower_J < energy.sum() < estimate.upper_J


# ---------------------------------------------------------------------- validation


def validated_trace(total: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    validation = np.zeros(total)
    validation[every - 1 :: every] = 37.0
    return np.full(total, 100.0) + validation, validation


@pytest.mark.parametrize("observed", range(5, 40))
def test_validation_every_fifth_epoch_is_exact_at_any_epoch(observed: int) -> None:
    energy, validation = validated_trace(40, 5)
    trace = trace_of(
        energy[:observed],
        1 + validation[:observed] / 100,
        validation_energy_J=validation[:observed],
        validation_s=validation[:observed] / 100,
    )
    estimate = estimate_step(trace, 40)
    assert estimate.energy_J == pytest.approx(energy.sum())
    assert estimate.duration_s == pytest.approx(40 + validation.sum() / 100)
    assert find_stable_epoch(trace) == 0


def test_a_recorded_schedule_goes_before_what_was_seen() -> None:
    energy, validation = validated_trace(40, 7)
    meta = {"validation_every_n_rows": 7.0, "first_epoch": 0}
    for observed in range(7, 40):
        trace = trace_of(energy[:observed], validation_energy_J=validation[:observed], meta=meta)
        assert estimate_step(trace, 40).energy_J == pytest.approx(energy.sum())


@pytest.mark.parametrize("first", [1, 3, 6])
def test_the_schedule_counts_the_epochs_before_the_trace(first: int) -> None:
    # Resumed at epoch 3: the first validation, every seventh epoch, comes after four epochs.
    energy, validation = validated_trace(40, 7)
    meta = {"validation_every_n_rows": 7.0, "first_epoch": first}
    for observed in range(10, 40):
        resumed = trace_of(
            energy[first:observed], validation_energy_J=validation[first:observed], meta=meta
        )
        estimate = estimate_step(resumed, 40 - first)
        assert estimate.energy_J == pytest.approx(energy[first:].sum())


def test_a_validation_that_is_to_come_is_guessed() -> None:
    meta = {"validation_every_n_rows": 10.0, "validation_to_training_batches": 0.3}
    trace = trace_of([100.0] * 6, validation_energy_J=np.zeros(6), meta=meta)
    estimate = estimate_step(trace, 40)
    # A forward pass is a third of a training step: 10 J each.
    assert estimate.energy_J == pytest.approx(4000 + 4 * 10)
    assert estimate.upper_J > 4000 + 4 * 15


def test_validation_in_each_epoch_is_part_of_it() -> None:
    energy = noisy(100, 40)
    split = trace_of(energy[:20], validation_energy_J=np.random.default_rng(5).uniform(5, 15, 20))
    assert estimate_step(split, 40).energy_J == estimate_step(trace_of(energy[:20]), 40).energy_J


def test_several_validations_in_an_interval() -> None:
    # Validation every 50 batches, intervals of 125: 2.5 to an interval.
    done = np.floor(np.arange(1, 41) * 2.5) - np.floor(np.arange(40) * 2.5)
    energy = 100 + 8 * done
    meta = {"validation_every_n_rows": 0.4, "interval_steps": 125}
    trace = trace_of(energy[:9], validation_energy_J=8 * done[:9], meta=meta)
    assert estimate_step(trace, 40).energy_J == pytest.approx(energy.sum(), rel=0.005)


# ---------------------------------------------------------------------- planned changes


def test_a_planned_change_multiplies_the_level() -> None:
    trace = trace_of([100.0] * 8)
    estimate = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3)])
    assert estimate.energy_J == pytest.approx(10 * 100 + 20 * 300)
    assert estimate.duration_s == pytest.approx(10 * 2 + 20 * 6)
    assert "at epoch 10" in str(estimate.assumptions)
    plain = estimate_step(trace, 30)
    assert estimate.upper_J - estimate.lower_J > 10 * (plain.upper_J - plain.lower_J)


@pytest.mark.parametrize(
    ("load", "energy", "time"),
    [
        # Waiting draws 1/6 of the limit, computing all the time 3/4. At a load of 0.2, the GPU
        # computes 2/35 of the time: threefold work fits into the rest, and only the power above
        # waiting, 1/30 of the limit, goes with it.
        (0.2, (1 / 6 + 3 / 30) / 0.2, 1.0),
        (0.75, 3.0, 3.0),
        (1 / 6, 1.0, 1.0),
        (0.5, (1 / 6 * 12 / 7 + 3 / 3) / 0.5, 12 / 7),
    ],
)
def test_a_gpu_that_waits_has_room_for_more_work(load: float, energy: float, time: float) -> None:
    effect = PlannedChange(10, flops_ratio=3).effect(load)
    assert effect.energy == pytest.approx(energy)
    assert effect.time == pytest.approx(time)


def test_a_known_energy_ratio_goes_first_and_is_surer() -> None:
    trace = trace_of([100.0] * 8)
    guess = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3)])
    known = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3, energy_ratio=2)])
    assert known.energy_J == pytest.approx(1000 + 20 * 200)
    assert known.upper_J - known.lower_J < (guess.upper_J - guess.lower_J) / 2


def test_planned_changes_follow_each_other() -> None:
    planned = [{"epoch": 20, "flops_ratio": 0.5}, {"epoch": 10, "flops_ratio": 3}]
    estimate = estimate_step(trace_of([100.0] * 5), 30, planned=planned)
    assert estimate.energy_J == pytest.approx(1000 + 3000 + 1500)


def test_a_change_that_has_come_is_measured() -> None:
    energy = np.concatenate([noisy(100, 10), [450.0], noisy(260, 19)])
    planned = [PlannedChange(10, flops_ratio=3)]
    for observed in range(5, 11):
        estimate = estimate_step(trace_of(energy[:observed]), 30, planned=planned)
        assert estimate.energy_J == pytest.approx(energy.sum(), rel=0.15)
    for observed in (11, 12):  # its level does not show yet
        estimate = estimate_step(trace_of(energy[:observed]), 30, planned=planned)
        guess_J = energy[:observed].sum() + 300 * (30 - observed)
        assert estimate.energy_J == pytest.approx(guess_J, rel=0.01)
    for observed in range(13, 31):
        estimate = estimate_step(trace_of(energy[:observed]), 30, planned=planned)
        assert estimate.energy_J == pytest.approx(energy.sum(), rel=0.01)
        assert observed == 30 or estimate.stable_epoch == 11


def test_a_change_beyond_the_end_changes_nothing() -> None:
    trace = trace_of([100.0] * 8)
    assert (
        estimate_step(trace, 30, planned=[PlannedChange(30, flops_ratio=9)]).energy_J
        == estimate_step(trace, 30).energy_J
    )


def test_an_unknown_ratio_leaves_no_interval() -> None:
    estimate = estimate_step(trace_of([100.0] * 8), 30, planned=[PlannedChange(10)])
    assert estimate.energy_J == pytest.approx(3000)
    assert estimate.lower_J is None
    assert "unknown factor" in str(estimate.assumptions)
    # Once it has happened, the old level carries no information on the new one.
    energy = [100.0] * 10 + [200.0]
    with pytest.raises(NotStableError):
        estimate_step(trace_of(energy), 30, planned=[PlannedChange(10)])


def test_recorded_changes_are_used_but_not_those_of_the_future() -> None:
    known = {"epoch": 10, "flops_ratio": 3.0, "reason": "BackboneFinetuning"}
    trace = trace_of([100.0] * 8, meta={"planned_changes": [known]})
    assert estimate_step(trace, 30).energy_J == pytest.approx(7000)
    assert "BackboneFinetuning at epoch 10" in str(estimate_step(trace, 30).assumptions)
    assert estimate_step(trace, 30, planned=[]).energy_J == pytest.approx(3000)
    seen = trace_of([100.0] * 8, meta={"planned_changes": [{**known, "known_since": 10}]})
    assert estimate_step(seen, 30).energy_J == pytest.approx(3000)
    damaged = trace_of([100.0] * 8, meta={"planned_changes": [None, {"epoch": "x"}, 3]})
    assert estimate_step(damaged, 30).energy_J == pytest.approx(3000)


def test_only_training_changes() -> None:
    validation = np.full(8, 40.0)
    trace = trace_of([100.0] * 8, validation_energy_J=validation)
    estimate = estimate_step(trace, 30, planned=[PlannedChange(10, flops_ratio=3)])
    assert estimate.energy_J == pytest.approx(1000 + 20 * (60 * 3 + 40))


@pytest.mark.parametrize(
    ("planned", "message"),
    [
        ([3], "planned change 3 must be a PlannedChange"),
        ([{"at": 3}], "planned change"),
        (PlannedChange(3), "must be a list"),
        ([{"epoch": -1}], "epoch=-1 must be 0 or more"),
        ([{"epoch": 3, "flops_ratio": 0}], "flops_ratio=0 must be positive"),
    ],
)
def test_bad_plans(planned: object, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        estimate_step(trace_of([1.0] * 5), 10, planned=planned)


def test_the_papers_formula_knows_no_plans() -> None:
    with pytest.raises(EstimateError, match="start='auto'"):
        estimate_step(trace_of([1.0] * 5), 10, start=1, planned=[PlannedChange(7)])


# ---------------------------------------------------------------------- where a training ends


def test_a_part_of_an_epoch() -> None:
    estimate = estimate_step(trace_of([100.0] * 5), 7.25)
    assert estimate.energy_J == pytest.approx(725)
    assert "7.25 epochs" in str(estimate)
    # The broken epoch was measured as one.
    assert estimate_step(trace_of([100.0] * 7 + [25.0]), 7.25).energy_J == pytest.approx(725)


def test_steps_instead_of_epochs() -> None:
    trace = trace_of([100.0] * 5, steps=[50.0] * 5)
    assert estimate_step(trace, steps=1000).energy_J == pytest.approx(2000)
    with pytest.raises(EstimateError, match="less than the 250 steps"):
        estimate_step(trace, steps=200)


def test_until_the_clock_ends_it() -> None:
    trace = trace_of([100.0] * 5, 2.0)
    estimate = estimate_step(trace, duration_s=33)
    assert estimate.energy_J == pytest.approx(100 * 33 / 2)
    assert estimate.duration_s == pytest.approx(33)
    assert estimate.epochs == pytest.approx(16.5)
    changed = estimate_step(trace, duration_s=33, planned=[PlannedChange(10, flops_ratio=2)])
    # 20 s until then, and 13 s of epochs of 4 s and 200 J.
    assert changed.energy_J == pytest.approx(1000 + 13 / 4 * 200)
    with pytest.raises(EstimateError, match="durations"):
        estimate_step(EnergyTrace.from_epochs([1.0] * 5), duration_s=3)


def test_what_the_monitor_recorded() -> None:
    meta = {"planned_epochs": 20, "planned_duration_s": None}
    assert estimate_step(trace_of([100.0] * 5, meta=meta)).energy_J == pytest.approx(2000)
    both = {"planned_epochs": 20, "planned_duration_s": 30.0}
    assert estimate_step(trace_of([100.0] * 5, meta=both)).energy_J == pytest.approx(1500)
    late = {"planned_epochs": 20, "planned_duration_s": 300.0}
    assert estimate_step(trace_of([100.0] * 5, meta=late)).energy_J == pytest.approx(2000)
    # A training that went on for longer than it was planned to is complete.
    over = {"planned_epochs": 3}
    assert estimate_step(trace_of([100.0] * 5, meta=over)).energy_J == pytest.approx(500)


@given(
    energy=st.lists(st.floats(1, 1000), min_size=1, max_size=40),
    planned=st.booleans(),
)
def test_all_epochs_measured_give_their_sum(energy: list[float], planned: bool) -> None:
    changes = [PlannedChange(3, flops_ratio=2)] if planned else []
    estimate = estimate_step(trace_of(energy), len(energy), planned=changes)
    assert estimate.energy_J == pytest.approx(math.fsum(energy))
    assert estimate.lower_J == pytest.approx(estimate.energy_J)
    assert estimate.upper_J == pytest.approx(estimate.energy_J)


def test_intervals_are_called_so() -> None:
    trace = trace_of([100.0] * 5, meta={"interval_steps": 200})
    assert "for 20 intervals" in str(estimate_step(trace, 20))
