"""Outlying epochs: their detection, how many are expected, and their effect on an interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, norm

from energyest import EnergyTrace, Estimate, NotStableError, PlannedChange, estimate_step
from energyest.estimators.step.disturbances import (
    DRAWS,
    Disturbances,
    _beta_binomial,
    chance,
)
from energyest.estimators.step.young_level import other_level


def disturbances(values: list[float] | np.ndarray, start: int = 0) -> Disturbances:
    array = np.asarray(values, dtype=np.float64)
    return Disturbances(array, start, np.arange(len(array)))


def projected(energy_J: np.ndarray, epochs: int, duration_s: np.ndarray | None = None) -> Estimate:
    duration_s = energy_J / 100 if duration_s is None else duration_s
    return estimate_step(EnergyTrace.from_epochs(energy_J, duration_s), epochs)


# ---------------------------------------------------------------------- what stands out


def test_what_stands_out_is_taken_out() -> None:
    values = [100.0, 101, 99, 150, 100, 101, 60, 100, 99, 100]
    assert disturbances(values).calm == pytest.approx(
        [100, 101, 99, 100, 100, 101, 100, 100, 99, 100]
    )


def test_what_every_other_epoch_does_is_noise() -> None:
    values = np.array([100.0, 140, 100, 140, 100, 140, 100, 140])
    assert disturbances(values).calm == pytest.approx(values)
    # Nor is there a usual value where most cost nothing.
    nothing = np.array([0.0, 0, 0, 5, 0])
    assert disturbances(nothing).calm == pytest.approx(nothing)


def test_a_burst_that_looked_like_a_level_counts() -> None:
    values = np.array([100.0] * 6 + [150.0] * 4 + [100.0] * 6)
    seen = disturbances(values, start=10).to_come(16, 116)
    not_seen = disturbances(values[10:]).to_come(6, 106)
    assert np.median(not_seen) < 0.1
    assert np.median(seen) > 2  # epochs' worth of stalls


def test_what_came_before_a_level_that_moved_a_little_counts() -> None:
    before, after = np.full(8, 100.0), np.full(6, 102.6)
    moved = np.concatenate([before, [30.0, 60], after])
    assert np.median(disturbances(moved, start=10).to_come(16, 116)) < -2
    # A level that moved further is another one.
    other = np.concatenate([0.9 * before, [30.0, 60], after])
    assert np.median(disturbances(other, start=10).to_come(16, 116)) > -1


def test_equal_times_of_a_log_have_pauses_rather_than_stalls() -> None:
    quiet = 100 * (1 + 0.005 * np.random.default_rng(0).standard_normal(20))
    epochs, log = projected(quiet, 60), projected(quiet, 60, np.full(20, 1.0))
    assert log.energy_J == pytest.approx(epochs.energy_J, rel=1e-3)
    assert log.lower_J < epochs.lower_J < epochs.energy_J < log.upper_J < epochs.upper_J


# ---------------------------------------------------------------------- how many are to come


@pytest.mark.parametrize(("number", "a", "b"), [(1, 0.6, 7.5), (30, 0.15, 25.0), (2000, 3.0, 9.0)])
def test_numbers_of_bursts_are_beta_binomial(number: int, a: float, b: float) -> None:
    expected = betabinom(number, a, b).cdf(np.arange(number))
    assert _beta_binomial(number, a, b) == pytest.approx(expected, rel=1e-6)


def test_as_many_are_expected_as_have_come() -> None:
    chances = np.random.default_rng(0)
    values = 100 * (1 + 0.01 * chances.standard_normal(200))
    stalls = chances.permutation(200)[:20]
    values[stalls] *= 1.5
    extra = disturbances(values).to_come(200, 400)
    # 20 of 200 at 0.5 each; bursts of chance make it no more exact than this.
    assert extra.mean() == pytest.approx(10, rel=0.3)
    assert np.quantile(extra, 0.05) < 10 < np.quantile(extra, 0.95)


def test_a_training_without_end_is_scaled() -> None:
    values = [100.0, 101, 99, 150, 100, 101, 160, 100, 99, 100]
    near, far = (disturbances(values).to_come(10, 10 + n) for n in (2_000, 2_000_000))
    assert far == pytest.approx(1000 * near)


def test_nothing_is_to_come_at_the_end() -> None:
    extra = disturbances([100.0, 150, 100, 100]).to_come(4, 4)
    assert not extra.any()
    assert extra.shape == (DRAWS,)


def test_random_numbers_are_spread_evenly() -> None:
    even, normal = zip(chance().stalls, chance().dips, strict=True)
    rows = np.vstack([*even, norm.cdf(np.vstack(normal)), chance().other_level, chance().error])
    assert rows.shape == (12, DRAWS)
    for row in rows:
        assert np.sort(row) == pytest.approx((np.arange(DRAWS) + 0.5) / DRAWS)
    assert np.abs(np.corrcoef(rows) - np.eye(12)).max() < 0.15


# ---------------------------------------------------------------------- long dips


def test_a_young_lower_level_may_end() -> None:
    likely, more = other_level(np.array([1000.0] * 12 + [400.0, 400, 400]), 12)
    assert likely == pytest.approx(0.5)
    assert more == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ([400.0] * 12 + [1000.0] * 3, 12),  # a higher one stays, as after a warm-up
        ([1000.0] * 3 + [400.0] * 3, 3),  # of two young ones nobody knows
        ([1000.0] * 30 + [400.0] * 11, 30),  # an old one stays
        ([1000.0] * 12 + [990.0] * 3, 12),  # that is no other level
        ([1000.0] * 3, 0),
    ],
)
def test_other_levels_stay(values: list[float], start: int) -> None:
    assert other_level(np.array(values), start) == (0.0, 0.0)


def test_a_short_plateau_is_not_believed_alone() -> None:
    estimate = projected(np.array([1000.0] * 12 + [400.0, 410, 405]), 40)
    assert estimate.lower_J < 13_215 + 25 * 410
    assert estimate.upper_J > 13_215 + 25 * 950


def test_three_epochs_with_an_outlier_are_not_a_certain_level() -> None:
    estimate = projected(np.array([882.0, 1285, 884]), 40)
    quiet_J, all_J = 1285 + 39 * 883, 40 * (882 + 1285 + 884) / 3
    assert estimate.lower_J - 0.005 * quiet_J < quiet_J < all_J < estimate.upper_J


# ---------------------------------------------------------------------- intervals


def test_a_stall_that_came_once_is_expected_again() -> None:
    held, halves = [], []
    for seed in range(100):
        chances = np.random.default_rng(seed)
        energy_J = 9500 * (1 + 0.005 * chances.standard_normal(50))
        stalls = chances.random(50) < 0.06
        stalls[:15], stalls[8] = False, True
        energy_J[stalls] *= 1.75
        estimate = projected(energy_J[:15], 50)
        held.append(estimate.lower_J <= energy_J.sum() <= estimate.upper_J)
        halves.append((estimate.upper_J - estimate.lower_J) / 2 / energy_J.sum())
    assert np.mean(held) > 0.85
    assert np.median(halves) < 0.08


def test_stalls_lie_above_and_dips_below() -> None:
    noise = 1 + 0.01 * np.random.default_rng(1).standard_normal(20)
    for size, is_above in ((1.6, True), (0.6, False)):
        energy_J = 100 * noise
        energy_J[[4, 11]] *= size
        energy_J[12] *= size
        estimate = projected(energy_J, 100)
        above = estimate.upper_J - estimate.energy_J
        below = estimate.energy_J - estimate.lower_J
        assert (above > below) == is_above


@given(
    seed=st.integers(0, 1000),
    factor=st.floats(1e-3, 1e6),
    observed=st.integers(4, 40),
)
def test_units_do_not_matter(seed: int, factor: float, observed: int) -> None:
    chances = np.random.default_rng(seed)
    energy_J = 100 * (1 + 0.02 * chances.standard_normal(observed))
    energy_J[: observed - 3][chances.random(observed - 3) < 0.1] *= 1.5
    try:
        plain = projected(energy_J, 60)
    except NotStableError:  # by chance, the last epochs look like a new level: in every unit
        with pytest.raises(NotStableError):
            projected(factor * energy_J, 60)
        return
    scaled = projected(factor * energy_J, 60)
    for name in ("energy_J", "lower_J", "upper_J"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(plain, name), rel=1e-6)


@given(seed=st.integers(0, 1000), observed=st.integers(3, 40), rest=st.integers(0, 200))
def test_the_interval_holds_the_projection_and_what_was_measured(
    seed: int, observed: int, rest: int
) -> None:
    chances = np.random.default_rng(seed)
    energy_J = 100 * np.exp(0.3 * chances.standard_normal(observed))
    try:
        estimate = projected(energy_J, observed + rest)
    except NotStableError:
        return
    assert energy_J.sum() * (1 - 1e-9) <= estimate.lower_J
    assert estimate.lower_J <= estimate.energy_J <= estimate.upper_J
    assert estimate.duration_lower_s <= estimate.duration_s <= estimate.duration_upper_s


# ---------------------------------------------------------------------- durations


def test_the_duration_has_an_interval_of_its_own() -> None:
    held = []
    for seed in range(100):
        chances = np.random.default_rng(seed)
        duration_s = 10 * (1 + 0.02 * chances.standard_normal(60))
        duration_s[chances.random(60) < 0.06] *= 1.6
        estimate = projected(np.full(20, 100.0), 60, duration_s[:20])
        held.append(estimate.duration_lower_s <= duration_s.sum() <= estimate.duration_upper_s)
        # What it draws does not change, so the energy's interval is narrower.
        assert (estimate.upper_J - estimate.lower_J) / estimate.energy_J < 0.03
    assert np.mean(held) > 0.65  # a third of them has not seen a stall yet


def test_a_known_duration_has_no_interval() -> None:
    trace = EnergyTrace.from_epochs([100.0] * 8, [10.0] * 8)
    estimate = estimate_step(trace, 20, form="power", duration_s=210)
    assert estimate.duration_lower_s == estimate.duration_s == estimate.duration_upper_s == 210
    estimate = estimate_step(trace, duration_s=210)
    assert estimate.duration_lower_s == estimate.duration_upper_s == pytest.approx(210)


def test_without_durations_they_have_no_interval() -> None:
    estimate = estimate_step(EnergyTrace.from_epochs([100.0] * 8), 20)
    assert estimate.duration_lower_s is None
    assert estimate.duration_upper_s is None


def test_the_window_of_the_paper_has_intervals_too() -> None:
    trace = EnergyTrace.from_epochs([300.0] * 10 + [100.0, 101, 99, 100, 100], [10.0] * 15)
    estimate = estimate_step(trace, 60, start=10, window=5)
    assert estimate.energy_J == pytest.approx(3500 + 45 * 100)
    # What came before the window must not matter.
    assert estimate.upper_J < 1.05 * estimate.energy_J
    assert estimate.lower_J < estimate.energy_J
    assert estimate.duration_lower_s < 600 < estimate.duration_upper_s
    assert math.isfinite(estimate.duration_upper_s)


def test_the_interval_of_the_power_form_goes_by_the_clock() -> None:
    chances = np.random.default_rng(0)
    trace = EnergyTrace.from_epochs(100 * (1 + 0.03 * chances.standard_normal(10)), [10.0] * 10)
    short, long = (
        estimate_step(trace, 30, form="power", duration_s=duration_s, start=start)
        for duration_s, start in ((300, "auto"), (2000, "auto"))
    )
    widths = [e.upper_J - e.lower_J for e in (short, long)]
    assert widths[1] / widths[0] == pytest.approx(1900 / 200, rel=0.01)
    short, long = (
        estimate_step(trace, 30, form="power", duration_s=duration_s, start=2)
        for duration_s in (300, 2000)
    )
    widths = [e.upper_J - e.lower_J for e in (short, long)]
    assert widths[1] / widths[0] == pytest.approx(1900 / 200, rel=0.01)


def test_a_fraction_of_an_epoch_has_a_fraction_of_a_stall() -> None:
    energy_J = np.array([100.0, 101, 99, 160, 100, 101, 99, 100, 101, 99])
    by_end = [
        estimate_step(EnergyTrace.from_epochs(energy_J), epochs, confidence=0.99)
        for epochs in (10.001, 11)
    ]
    above = [e.upper_J - e.energy_J for e in by_end]
    assert above[0] < 0.002 * above[1]


# ---------------------------------------------------------------------- edges


def test_planned_changes_of_a_run_with_regular_dips() -> None:
    trace = EnergyTrace.from_epochs([100.0, 100, 20] * 6, [10.0] * 18)
    estimate = estimate_step(trace, 100, planned=[PlannedChange(18, energy_ratio=0.2)])
    assert trace.total_J <= estimate.lower_J <= estimate.energy_J <= estimate.upper_J
    # A fifth of what two of three and one of three epochs have cost.
    assert estimate.energy_J == pytest.approx(1320 + 82 * 0.2 * 220 / 3, rel=0.02)


def test_a_validation_of_unknown_energy_before_a_planned_change() -> None:
    trace = EnergyTrace.from_epochs([100.0] * 6, [10.0] * 6, validation_s=[1.0] * 6)
    estimate = estimate_step(trace, 20, planned=[PlannedChange(10, energy_ratio=2)])
    assert estimate.energy_J == pytest.approx(1000 + 10 * 200)


def test_what_came_before_the_level_moves_projection_and_interval_alike() -> None:
    chances = np.random.default_rng(0)
    quiet = 100 * (1 + 0.003 * chances.standard_normal(40))
    stalls = quiet.copy()
    stalls[[8, 20, 21]] *= 1.5
    more, less = projected(stalls, 1040), projected(quiet, 1040)
    assert more.energy_J > less.energy_J
    assert more.lower_J < more.energy_J < more.upper_J


@pytest.mark.parametrize(
    ("energy_J", "duration_s", "epochs", "confidence"),
    [
        ([100.0, 101, 99, 100], [10.0] * 4, 20, 1e-16),
        ([100.0, 101, 99, 100], [10.0] * 4, 20, 1 - 1e-9),
        ([100.0, 100, 150] * 3 + [100.0, 100], [10.0] * 11, 1e20, 0.9),
        ([100.0] * 6, [0.0] * 6, 20, 0.9),
        ([1e-30, 1e3, 1e-30, 1e-30, 1e-30], [10.0] * 5, 20, 0.9),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_extremes(
    energy_J: list[float], duration_s: list[float], epochs: float, confidence: float
) -> None:
    trace = EnergyTrace.from_epochs(energy_J, duration_s)
    estimate = estimate_step(trace, epochs, confidence=confidence)
    assert estimate.lower_J <= estimate.energy_J <= estimate.upper_J
    assert estimate.upper_J < 1e6 * epochs
    assert estimate.duration_lower_s <= estimate.duration_s <= estimate.duration_upper_s
