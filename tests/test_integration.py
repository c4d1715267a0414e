"""Joules from readings, against signals whose energy is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import trapezoid

from energyest.integration import cumulative_energy, energy_between


def test_constant_power() -> None:
    time = np.arange(0, 10.01, 0.1)
    assert energy_between(time, np.full(101, 300.0), 0, 10) == pytest.approx(3000, rel=1e-12)


def test_equal_readings_are_not_dropped() -> None:
    # Tools that keep only readings that differ from the last integrate a constant to 0 J.
    assert energy_between([0, 1, 2, 3], [300] * 4, 0.5, 2.5) == pytest.approx(600)


def test_step_with_edges_inside_segments() -> None:
    # 100 W up to t = 5, 400 W from t = 6, a straight line between them.
    time, power = [0, 5, 6, 10], [100, 100, 400, 400]
    assert energy_between(time, power, 0, 10) == pytest.approx(500 + 250 + 1600)
    # From 5.5 (250 W) to 6.5: (250 + 400) / 2 * 0.5 + 400 * 0.5.
    assert energy_between(time, power, 5.5, 6.5) == pytest.approx(162.5 + 200)


def test_ramp_is_exact_at_any_edge() -> None:
    # P = 10 t: the energy between a and b is 5 (b² - a²), also between two readings.
    time = np.array([0.0, 0.7, 1.1, 4.0, 9.0])
    for a, b in [(0, 9), (0.1, 0.2), (0.5, 8.9), (4.0, 4.1)]:
        assert energy_between(time, 10 * time, a, b) == pytest.approx(5 * (b**2 - a**2))


def test_irregular_readings_of_a_line() -> None:
    rng = np.random.default_rng(0)
    time = np.sort(np.append(rng.uniform(0, 60, 300), [0, 60]))
    power = 50 + 3 * time
    assert energy_between(time, power, 0, 60) == pytest.approx(50 * 60 + 1.5 * 60**2)


def test_interval_shorter_than_sampling() -> None:
    assert energy_between([0, 1], [100, 200], 0.25, 0.35) == pytest.approx(0.1 * 130)


def test_two_readings_at_one_instant() -> None:
    assert energy_between([0, 1, 1, 2], [100, 100, 300, 300], 0, 2) == pytest.approx(400)


def test_counter_is_followed_where_power_lies() -> None:
    time = np.arange(0, 11.0)
    energy = energy_between(time, np.full(11, 50.0), 2.5, 7.5, counter_J=1e6 + 300 * time)
    assert energy == pytest.approx(5 * 300)


def test_beyond_the_counters_readings_power_goes_on() -> None:
    counter = [math.nan, 0.0, 100.0, math.nan]
    assert energy_between([0, 1, 2, 3], [300] * 4, 0, 3, counter_J=counter) == pytest.approx(700)


@pytest.mark.parametrize("restart_J", [0.0, 5.0, 299.0])
def test_counter_that_restarts_or_wraps(restart_J: float) -> None:
    counter = np.array([1e6, 1e6 + 300, 1e6 + 600, restart_J, restart_J + 300, restart_J + 600])
    energy = energy_between(np.arange(6), [310] * 6, 0, 5, counter_J=counter)
    assert energy == pytest.approx(4 * 300 + 310)  # the power fills the one broken second


def test_counter_glitch_that_returns() -> None:
    # One reading of 0 between good ones: neither the fall nor the rise back is believed.
    counter = np.array([1e6, 1e6 + 300, 0.0, 1e6 + 900, 1e6 + 1200])
    energy = energy_between(np.arange(5), [310] * 5, 0, 4, counter_J=counter, max_power_W=2000)
    assert energy == pytest.approx(2 * 300 + 2 * 310)


def test_counter_that_stands_still_under_power() -> None:
    time = np.arange(0, 10.01, 0.1)
    counter = 1e6 + 300 * np.where(time < 2, time, np.where(time < 8, 2, time - 6))
    energy = energy_between(time, np.full_like(time, 300.0), 0, 10, counter_J=counter)
    assert energy == pytest.approx(3000, rel=0.01)


def test_counter_that_stands_still_and_makes_up_is_not_counted_twice() -> None:
    time = np.arange(0, 10.01, 0.1)
    counter = 1e6 + 300 * np.where((time > 2) & (time < 8), 2, time)
    energy = energy_between(time, np.full_like(time, 300.0), 0, 10, counter_J=counter)
    assert energy == pytest.approx(3000, rel=0.01)


@pytest.mark.parametrize("still", [8, 15, 30])
@pytest.mark.parametrize("then", ["restarts", "goes on", "is unread, goes on", "is the end"])
def test_a_standstill_that_nothing_makes_up_for(still: int, then: str) -> None:
    time_s = np.arange(0, 10, 0.1)
    truth_J = 400 * time_s
    counter_J = truth_J.copy()
    counter_J[40:] = truth_J[40]
    power_W = np.full(len(time_s), 400.0)
    after = slice(40 + still, None)
    if then == "restarts":
        counter_J[after] = truth_J[after] - truth_J[40 + still]
    elif then != "is the end":
        counter_J[after] = truth_J[40] + truth_J[after] - truth_J[40 + still - 1]
    if then == "is unread, goes on":
        counter_J[40 + still : 40 + still + 20] = power_W[40 + still : 40 + still + 20] = np.nan
    readings = 40 + still if then == "is the end" else len(time_s)
    at_s = [3.0, 4.5, time_s[readings - 1]]
    energy_J, missing_s = cumulative_energy(
        time_s[:readings], power_W[:readings], at_s, counter_J=counter_J[:readings]
    )
    assert np.diff(energy_J) == pytest.approx(400 * np.diff(at_s))
    assert (missing_s == 0).all()


def test_a_standstill_that_a_step_makes_up_for() -> None:
    time_s = np.arange(0, 10, 0.1)
    counter_J = 400 * time_s
    counter_J[40:55] = counter_J[40]  # and at once all that it had not counted
    # Power is an average, and off: the counter is right.
    energy_J, _ = cumulative_energy(
        time_s, np.full(len(time_s), 300.0), [3.0, 8.0], counter_J=counter_J
    )
    assert np.diff(energy_J) == pytest.approx(400 * 5)


def test_a_standstill_without_power_is_believed() -> None:
    time_s = np.arange(101) / 10
    drawn_s = np.where(time_s < 3, time_s, np.where(time_s <= 8, 3, time_s - 5))
    # Power is off by a fourth where it is drawn: what is believed shows in the steps beside.
    power_W = np.where((time_s >= 3) & (time_s <= 8), 0.0, 300.0)
    energy_J, missing_s = cumulative_energy(
        time_s, power_W, [2, 3, 8, 9], counter_J=400 * drawn_s, max_gap_s=5
    )
    assert np.diff(energy_J) == pytest.approx([400, 0, 400])
    assert (missing_s == 0).all()


def test_a_short_standstill_is_not_a_fault() -> None:
    time_s = np.arange(101) / 10
    counter_J = 400 * np.where(time_s <= 4, time_s, np.maximum(4, time_s - 0.4))
    energy = energy_between(time_s, np.full(101, 300.0), 0, 10, counter_J=counter_J)
    assert energy == pytest.approx(400 * 9.6)


def test_a_standstill_that_begins_between_readings() -> None:
    time_s = np.arange(26) * 0.4
    counter_J = 400 * np.minimum(time_s, 4.2)
    energy = energy_between(time_s, np.full(26, 400.0), 0, 10, counter_J=counter_J)
    assert energy == pytest.approx(4000)


def test_equal_idle_readings_are_not_a_standstill() -> None:
    time = np.arange(0, 5, 0.1)
    counter = np.floor(time / 1.0) * 60  # renewed once a second
    energy = energy_between(time, np.full_like(time, 10.0), 0, 4, counter_J=counter)
    assert energy == pytest.approx(240)


def test_gap_is_missing_not_zero() -> None:
    time, power = [0, 1, 2, 12, 13], [100] * 5
    assert math.isnan(energy_between(time, power, 0, 13, max_gap_s=5))
    assert energy_between(time, power, 0, 2, max_gap_s=5) == pytest.approx(200)
    assert energy_between(time, power, 12, 13, max_gap_s=5) == pytest.approx(100)
    total = cumulative_energy(time, power, [0, 13], max_gap_s=5)
    assert np.diff(total.missing_s) == pytest.approx(10)
    assert np.diff(total.energy_J) == pytest.approx(300)


def test_gap_that_the_counter_covers_is_measured() -> None:
    power = [100, 100, math.nan, 100]
    counter = [0, 100, math.nan, 3000]
    assert energy_between([0, 1, 2, 30], power, 0, 30, counter_J=counter, max_gap_s=5) == 3000


def test_failed_readings_are_bridged_not_zero() -> None:
    power = [100, math.nan, math.nan, 100]
    assert energy_between([0, 1, 2, 3], power, 0, 3) == pytest.approx(300)


def test_nothing_read_is_nan() -> None:
    assert math.isnan(energy_between([0, 1], [math.nan, math.nan], 0, 1))
    assert math.isnan(energy_between([], [], 0, 1))


def test_last_power_is_held_for_a_while() -> None:
    assert energy_between([0, 1], [100, 200], 1, 3, max_gap_s=5) == pytest.approx(400)
    assert math.isnan(energy_between([0, 1], [100, 200], 1, 30, max_gap_s=5))


def test_before_the_first_reading_is_missing() -> None:
    assert math.isnan(energy_between([5, 6], [100, 100], 0, 6))


_powers = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 1000))


@given(power=_powers, seed=st.integers(0, 2**16))
def test_matches_numpy_and_is_additive(power: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.01, 2, len(power)))
    whole = energy_between(time, power, time[0], time[-1])
    assert whole == pytest.approx(float(trapezoid(power, time)))
    edges = np.sort(rng.uniform(time[0], time[-1], 4))
    edges = np.concatenate([time[:1], edges, time[-1:]])
    parts = np.diff(cumulative_energy(time, power, edges).energy_J)
    assert parts.sum() == pytest.approx(whole)
    assert (parts >= -1e-9).all()


@given(power=_powers, seed=st.integers(0, 2**16))
def test_with_a_true_counter_both_ways_agree_at_readings(power: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.uniform(0.01, 1, len(power)))
    counter = cumulative_energy(time, power, time).energy_J
    by_counter = cumulative_energy(time, power, time, counter_J=counter).energy_J
    assert np.diff(by_counter) == pytest.approx(np.diff(counter), abs=1e-6)
