"""An energy counter costs milliseconds to read: it is read rarely, and where it tells most."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest

from energyest import track
from energyest.integration import cumulative_energy
from energyest.measure.sensors.counter_tick import CounterTick
from simulation.fake_nvml import FakeNvml
from simulation.scene import COUNTER, POWER
from simulation.stepped import NvmlClock

PERIOD_S = 0.1

# ---------------------------------------------------------------------- how often it is read


@pytest.mark.parametrize("gpus", [1, 8])
def test_what_is_costly_is_read_rarely(nvml: FakeNvml, gpus: int) -> None:
    """As of an H200: in each round, it would take 4 % of a processor for each GPU."""
    nvml.set_device_count(gpus)
    nvml.spin(COUNTER, seconds=0.0036)
    with track(gpus=list(range(gpus)), components=["gpu"]):
        began_s, cpu_s = time.monotonic(), time.process_time()
        reads = nvml.calls(COUNTER)
        time.sleep(6.0)
        share = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
        reads = nvml.calls(COUNTER) - reads
    # Two by the clock and, once in a while, up to 16 to find out when it is renewed, as others are
    # read in between; in each round, they were sixty.
    assert reads <= 20 * gpus
    # Generous: so many take 0.012 × the number of GPUs, all else 0.01 on a slow machine.
    assert share <= 0.03 + 0.015 * gpus
    assert nvml.calls(POWER, device=0) > 40


def test_short_epochs_do_not_make_it_more(nvml: FakeNvml) -> None:
    nvml.spin(COUNTER, seconds=0.01)
    with track(gpus=[0], components=["gpu"]) as run:
        reads = nvml.calls(COUNTER)
        for _ in run.epochs(150):
            time.sleep(0.02)
        reads = nvml.calls(COUNTER) - reads
    # 10 ms may be spent in 2 s: two in 3 s, the three that find out when it is renewed, and the
    # last; one for each epoch would be 150.
    assert reads <= 12
    assert len(run.trace) == 150


def test_it_is_read_at_the_edges(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=100)
    with track(gpus=[0], components=["gpu"]) as run:
        for _ in run.epochs(3):
            nvml_clock.sleep(2.03)
            nvml.set_power(0, watts=500)
            nvml_clock.sleep(1.04)
            nvml.set_power(0, watts=100)
    # Power is read ten times a second, and changed between two readings.
    expected_J = 100 * 2.03 + 500 * 1.04
    assert run.trace.column("energy_J") == pytest.approx([expected_J] * 3, rel=1e-5)


# ---------------------------------------------------------------------- when it is renewed


def counter_J(time_s: float, phase_s: float, period_s: float = PERIOD_S) -> float:
    """A counter of 300 W that is renewed at `phase_s`, and every period after."""
    return 300 * (math.floor((time_s - phase_s) / period_s) * period_s + phase_s)


def watched(phase_s: float, *, period_s: float = PERIOD_S, start_s: float = 0.0) -> CounterTick:
    """What is found out in the readings that are asked for."""
    tick, time_s = CounterTick(), start_s
    while time_s < math.inf:
        tick.see(time_s, counter_J(time_s, phase_s, period_s))
        time_s = tick.again_s() - 0.001  # the sampler comes a moment early
    return tick


@pytest.mark.parametrize("phase_s", np.arange(0.0031, 0.1, 0.0071))
def test_the_renewals_are_found(phase_s: float) -> None:
    tick = watched(phase_s)
    for time_s in np.arange(5, 5.2, 0.0093):
        best_s = tick.best_s(time_s)
        assert time_s <= best_s < time_s + PERIOD_S
        into_s = (best_s - phase_s) % PERIOD_S
        assert 0.007 < into_s < 0.093  # not while it is renewed
        truth_s = best_s - into_s
        assert tick.renewed_s(best_s) == pytest.approx(truth_s, abs=0.007)


@pytest.mark.parametrize("period_s", [0.001, 0.02, 1.0])
def test_no_renewals_are_made_up(period_s: float) -> None:
    tick = watched(0.0, period_s=period_s, start_s=0.2)
    assert math.isnan(tick.renewed_s(5.0))
    assert tick.best_s(5.0) == 5.0


def test_the_renewals_are_found_anew() -> None:
    tick = watched(0.01)
    assert tick.renewed_s(1.0) == pytest.approx(0.91, abs=0.02)
    time_s = 700.0  # by now it has wandered
    while time_s < math.inf:
        tick.see(time_s, counter_J(time_s, 0.06))
        time_s = tick.again_s()
    assert tick.renewed_s(701.0) == pytest.approx(700.96, abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_who_is_held_up_finds_them_all_the_same(seed: int) -> None:
    chance = random.Random(seed)
    phase_s = chance.uniform(0, PERIOD_S)
    tick, time_s, reads = CounterTick(), 0.0, 0
    while time_s < math.inf:
        # Held up now and then, by up to a period; and half a second once.
        time_s += chance.choice((0.0, 0.0, 0.0, 0.001, 0.004, chance.uniform(0, PERIOD_S)))
        time_s += 0.5 * (reads == 2)
        tick.see(time_s, counter_J(time_s, phase_s))
        reads += 1
        time_s = tick.again_s()
    assert reads <= 2 * 8 * 4
    if not math.isnan(tick.renewed_s(5.0)):  # it may be held up each time
        off_s = (tick.renewed_s(5.0) - phase_s) % PERIOD_S
        assert min(off_s, PERIOD_S - off_s) < 0.02


def test_a_moment_in_which_two_periods_meet_is_no_steady_counter() -> None:
    # The first reading and the last lie on both sides of a renewal: of four, two pairs differ.
    tick = CounterTick()
    for time_s in (0.0, 0.04, 0.08, 0.12):
        tick.see(time_s, counter_J(time_s, 0.01))
    time_s = tick.again_s()
    while time_s < math.inf:
        tick.see(time_s, counter_J(time_s, 0.01))
        time_s = tick.again_s()
    assert tick.renewed_s(5.0) == pytest.approx(4.91, abs=0.007)


def test_who_is_held_up_always_does_not_read_on_and_on() -> None:
    tick = CounterTick()
    reads = 0
    for beat in range(500):
        if tick.again_s() <= beat * 0.1 or beat == 0:
            tick.see(beat * 0.1, counter_J(beat * 0.1, 0.05))
            reads += 1
    assert reads <= 2 * 8


# ---------------------------------------------------------------------- between two of its readings


def test_power_tells_how_the_rise_is_spread() -> None:
    time_s = np.arange(0, 10.05, 0.1)
    power_W = np.where(time_s < 4, 100.0, 400.0)
    counter = np.full(len(time_s), math.nan)
    counter[0], counter[-1] = 0.0, 1.03 * np.trapezoid(power_W, time_s)  # it counts 3 % more
    at_s = np.array([0.0, 2.0, 5.0, 10.0])
    energy_J, missing_s = cumulative_energy(time_s, power_W, at_s, counter_J=counter)
    by_power_J, _ = cumulative_energy(time_s, power_W, at_s)
    assert np.allclose(energy_J, 1.03 * by_power_J)
    assert not missing_s.any()


def test_what_was_shown_late_counts_where_it_was_so() -> None:
    time_s = np.arange(0, 10.05, 0.1)
    power_W = np.full(len(time_s), 300.0)
    counter, counter_s = np.full(len(time_s), math.nan), np.full(len(time_s), math.nan)
    for i, age_s in ((0, 0.0), (40, 0.09), (90, 0.02)):
        counter[i], counter_s[i] = 300 * (time_s[i] - age_s), time_s[i] - age_s
    energy_J, _ = cumulative_energy(
        time_s, power_W, [1.0, 5.0, 9.5], counter_J=counter, counter_s=counter_s
    )
    assert np.allclose(np.diff(energy_J), [1200, 1350])


@pytest.mark.parametrize("is_instant", [True, False])
def test_instant_power_shows_a_counter_that_stood_still_for_a_while(is_instant: bool) -> None:
    time_s = np.arange(0, 12.05, 0.1)
    power_W = np.full(len(time_s), 300.0)
    counter = np.full(len(time_s), math.nan)
    counter[[0, 40, 80, 120]] = [0, 1200, 1200 + 750, 3150]  # 1.5 s of the second 4 s
    (energy_J,), _ = cumulative_energy(
        time_s, power_W, [12.0], counter_J=counter, has_instant_power=is_instant
    )
    assert energy_J == pytest.approx(3600 if is_instant else 3150)
