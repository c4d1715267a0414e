"""An energy counter takes milliseconds to read: it is read rarely, and when it is most useful."""

from __future__ import annotations

import math
import random
import time

import numpy as np
import pytest
from scipy.integrate import trapezoid

from energyest import track
from energyest.integration import cumulative_energy
from energyest.measure.meter import Meter
from energyest.measure.sampling.counter_tick import CounterTick
from energyest.measure.sampling.sampler import Sampler
from energyest.measure.sensors.base import Device, Reading
from simulation.fake_nvml import FakeNvml
from simulation.scene import COUNTER, POWER
from simulation.stepped import NvmlClock

PERIOD_S = 0.1

# ---------------------------------------------------------------------- how often it is read


@pytest.mark.parametrize("gpus", [1, 8])
def test_what_is_costly_is_read_rarely(nvml: FakeNvml, gpus: int) -> None:
    """As on an H200: reading it in each round would take 4 % of a CPU core per GPU."""
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
    # Edges may use 0.05 s at once and 0.02 of each second: 0.11 s, or 11 readings. Up to 16 find
    # out when it is renewed. One for each epoch would be 150.
    assert reads <= 11 + 16
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


class Reader:
    """Reads a counter whenever a `CounterTick` asks for it.

    Args:
        phase_s: time of an update of the counter.
        period_s: time between updates.
        reading_s: shortest and longest duration of a reading; its value is from any instant in it.
        late_s: the most by which a reading begins later than requested.
        seed: seed of the random numbers.
    """

    def __init__(
        self,
        phase_s: float,
        *,
        period_s: float = PERIOD_S,
        reading_s: tuple[float, float] = (0.0, 0.0),
        late_s: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.tick = CounterTick()
        self.reads = 0
        self.phase_s, self.period_s = phase_s, period_s
        self.reading_s, self.late_s = reading_s, late_s
        self.chance = random.Random(seed)

    def read(self, time_s: float) -> float:
        """Read it, and as often as it is asked for; returns when the last reading ended."""
        ended_s = time_s
        while time_s < math.inf:
            began_s = max(time_s, ended_s) + self.chance.uniform(0, self.late_s)
            reading_s = self.chance.uniform(*self.reading_s)
            ended_s = began_s + reading_s
            at_s = began_s + self.chance.uniform(0, reading_s)
            self.tick.see(began_s, ended_s, counter_J(at_s, self.phase_s, self.period_s))
            self.reads += 1
            time_s = self.tick.again_s()
        return ended_s

    def off_s(self, time_s: float) -> float:
        """By how much the instant before `time_s` is off; NaN if it is not known."""
        off_s = (self.tick.renewed_s(time_s) - self.phase_s) % PERIOD_S
        return min(off_s, PERIOD_S - off_s)


@pytest.mark.parametrize("phase_s", np.arange(0.0031, 0.1, 0.0071))
def test_the_renewals_are_found(phase_s: float) -> None:
    reader = Reader(phase_s)
    reader.read(0.0)
    assert reader.reads <= 10
    for time_s in np.arange(5, 5.2, 0.0093):
        best_s = reader.tick.best_s(time_s)
        assert time_s <= best_s < time_s + PERIOD_S
        into_s = (best_s - phase_s) % PERIOD_S
        assert 0.007 < into_s < 0.093  # not while it is renewed
        truth_s = best_s - into_s
        assert reader.tick.renewed_s(best_s) == pytest.approx(truth_s, abs=0.005)


@pytest.mark.parametrize("period_s", [0.001, 0.02, 0.05, 1.0])
def test_no_updates_are_made_up(period_s: float) -> None:
    for start_s in np.arange(0, 1.1, 0.13):
        reader = Reader(0.0, period_s=period_s, reading_s=(0.001, 0.004))
        reader.read(start_s)
        assert reader.reads <= 16
        assert math.isnan(reader.tick.renewed_s(5.0))
        assert reader.tick.best_s(5.0) == 5.0


def test_the_updates_are_found_again() -> None:
    reader = Reader(0.01)
    reader.read(0.0)
    assert reader.tick.renewed_s(1.0) == pytest.approx(0.91, abs=0.005)
    reader.phase_s = 0.06  # by then it has wandered
    reader.read(700.0)
    assert reader.tick.renewed_s(702.0) == pytest.approx(701.96, abs=0.005)


def test_a_counter_without_updates_is_tried_less_and_less_often() -> None:
    reader = Reader(0.0, period_s=0.001)
    for time_s in np.arange(0.0, 4000.0, 4.0):
        reader.read(float(time_s))
    searches = 6  # after 0, 60, 180, 420, 900, 1860 and 3780 s, of 5 readings each, and the rest
    assert reader.reads - 1000 < (searches + 1) * 16


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("reading_s", "late_s", "share", "most_off_s"),
    [
        ((0.003, 0.005), 0.001, 1.0, 0.005),
        # Beside another process that asks the driver all the time; what is good enough is known
        # to 15 ms, and to a cell.
        ((0.004, 0.012), 0.003, 0.9, 0.017),
        ((0.005, 0.020), 0.010, 0.7, 0.017),
        ((0.003, 0.005), 0.030, 0.8, 0.017),
    ],
)
def test_slow_readings_and_late_ones_find_them_too(
    reading_s: tuple[float, float], late_s: float, share: float, most_off_s: float, seed: int
) -> None:
    chance = random.Random(seed)
    off_s = []
    for run in range(40):
        reader = Reader(
            chance.uniform(0, PERIOD_S), reading_s=reading_s, late_s=late_s, seed=100 * seed + run
        )
        ended_s = reader.read(chance.uniform(0, 1))
        assert reader.reads <= 16
        off_s.append(reader.off_s(ended_s + 1))
    found = np.isfinite(off_s)
    assert found.mean() >= share
    assert np.max(np.array(off_s)[found]) < most_off_s


def test_who_is_held_up_always_does_not_read_on_and_on() -> None:
    tick = CounterTick()
    reads = 0
    for beat in range(500):
        if tick.again_s() <= beat * 0.1 or beat == 0:
            tick.see(beat * 0.1, beat * 0.1, counter_J(beat * 0.1, 0.05))
            reads += 1
    assert reads <= 16
    assert math.isnan(tick.renewed_s(50.0))


def test_a_failed_reading_is_not_an_update() -> None:
    tick, time_s, reads = CounterTick(), 0.0, 0
    while time_s < math.inf:
        has_failed = reads % 5 == 2
        tick.see(time_s, time_s, math.nan if has_failed else counter_J(time_s, 0.03))
        reads += 1
        time_s = tick.again_s()
    assert reads <= 16
    assert tick.renewed_s(5.0) == pytest.approx(4.93, abs=0.017)


# ---------------------------------------------------------------------- between two of its readings


def test_power_tells_how_the_rise_is_spread() -> None:
    time_s = np.arange(0, 10.05, 0.1)
    power_W = np.where(time_s < 4, 100.0, 400.0)
    counter = np.full(len(time_s), math.nan)
    counter[0], counter[-1] = 0.0, 1.03 * trapezoid(power_W, time_s)  # it counts 3 % more
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


def test_what_is_read_later_does_not_change_whether_a_counter_is_believed() -> None:
    """Else a row that is final is corrected in a later one, which may fall below 0 by that."""
    time_s = np.arange(0, 16.05, 0.1)
    # In the second 4 s the counter shows 80 J of 400 J too little: more than 12 % and 0.15 s of
    # the 100 W that were drawn, but not of the 600 W that come later.
    power_W = np.where(time_s < 10, 100.0, 600.0)
    counter = np.full(len(time_s), math.nan)
    counter[[0, 40, 80, 120]] = [0, 400, 720, 720 + 1400]
    at_s = [4.0, 8.0]
    first, whole = (
        cumulative_energy(
            time_s[:n], power_W[:n], at_s, counter_J=counter[:n], has_instant_power=True
        )
        for n in (81, len(time_s))
    )
    assert np.diff(first.energy_J) == pytest.approx([400])
    assert whole.energy_J == pytest.approx(first.energy_J)


def test_what_was_drawn_just_before_may_be_shown_late() -> None:
    time_s = np.arange(0, 8.05, 0.1)
    power_W = np.where(time_s < 3.95, 600.0, 100.0)
    counter = np.full(len(time_s), math.nan)
    # At 4 s it shows what was drawn up to 3.9 s, and all of it 0.5 s later.
    counter[[0, 40, 45, 80]] = [0, 2340, 2340 + 60 + 45, 2340 + 60 + 395]
    (energy_J,), _ = cumulative_energy(
        time_s, power_W, [8.0], counter_J=counter, has_instant_power=True
    )
    assert energy_J == pytest.approx(2795)


def test_forgetting_does_not_change_whether_a_counter_is_believed() -> None:
    forgetful, whole = (Meter(5.0, has_instant_power=True) for _ in range(2))
    counted_J = 0.0
    for step in range(400):
        at_s = step / 10
        power_W = 600.0 if at_s < 20 else 100.0
        # For some seconds it counts a quarter too little, and is read every 4 s.
        counted_J += power_W / 10 * (0.75 if 28 < at_s < 36 else 1)
        reading = Reading(at_s, "gpu:0", power_W, counted_J if step % 40 == 0 else math.nan)
        for meter in (forgetful, whole):
            meter.add(reading)
        forgetful.forget(at_s)
        assert forgetful.value_at(at_s) == pytest.approx(whole.value_at(at_s))
    assert len(forgetful._time) < len(whole._time)


# ---------------------------------------------------------------------- the sampler


class OftenSensor:
    """A device of 300 W with a counter; its readings of that can fail.

    Args:
        fails_from: which reading of the counter raises first.
        phase_s: when the counter is renewed.
    """

    device = Device("gpu:0", "gpu", "made up", "measured", "made up", has_instant_power=True)

    def __init__(self, fails_from: int = 10**9, phase_s: float = 0.0) -> None:
        self.reads, self.fails_from, self.phase_s = 0, fails_from, phase_s

    def read(self, time_s: float) -> Reading:
        self.reads += 1
        if self.reads >= self.fails_from:
            raise ValueError("not one of the driver's errors")
        return Reading(time_s, "gpu:0", 300.0, counter_J(time_s, self.phase_s))

    def read_often(self, time_s: float) -> Reading:
        return Reading(time_s, "gpu:0", 300.0)

    def close(self) -> None:
        pass


def test_a_reading_that_raises_is_not_repeated_at_once() -> None:
    sensor, rounds = OftenSensor(fails_from=4), []
    sampler = Sampler([sensor], rounds.append)
    sampler.start()
    time.sleep(1.0)
    sampler.stop()
    assert sensor.reads <= 20
    assert len(rounds) <= 40


def test_edges_that_could_not_be_afforded_are_not_owed_for_minutes() -> None:
    now_s = [0.0]

    class Slow(OftenSensor):
        def read(self, time_s: float) -> Reading:
            now_s[0] += 0.0036
            return super().read(time_s)

    sensor = Slow()
    sampler = Sampler([sensor], lambda _: None, clock=lambda: now_s[0])
    # Ten seconds in which power and counter contradict each other, with ten edges in each.
    sampler.whole_until_s = 10.0
    reads = []
    for beat in range(200):
        now_s[0] = 0.1 * beat
        sampler.expect_edge()
        sampler.read_round()
        reads.append(sensor.reads)
    assert reads[99] >= 100  # each round while there was doubt
    assert 10 < reads[-1] - reads[99] <= 100


@pytest.mark.parametrize("edge_s", [5.041, 5.06, 5.1, 5.115, 5.12])
def test_an_edge_lies_between_two_values_of_the_counter(edge_s: float) -> None:
    now_s, rounds = [0.0], []
    sensor = OftenSensor(phase_s=0.03)
    sampler = Sampler([sensor], rounds.append, clock=lambda: now_s[0])
    (source,) = sampler._sources

    def read_what_is_due() -> None:
        while source.whole_s < math.inf:
            now_s[0] = max(now_s[0], source.whole_s)
            sampler.read_round(is_between=True)

    sampler.read_round()
    read_what_is_due()  # which finds out when the counter is renewed
    now_s[0], before = edge_s, sensor.reads
    sampler.expect_edge()
    now_s[0] += 0.003
    sampler.read_round()
    read_what_is_due()
    later = [taken.counters_s for taken in rounds if taken.began_s >= edge_s]
    shown_s = [counters_s["gpu:0"] for counters_s in later if counters_s]
    # Just before a renewal, the next value is as good as the one before the edge.
    assert sensor.reads - before == (1 if edge_s > 5.11 else 2)
    assert shown_s[-1] == pytest.approx(5.13, abs=0.005)
    if len(shown_s) > 1:
        assert shown_s[0] == pytest.approx(5.03, abs=0.005)
    # That was all: nothing more is read before the next edge.
    assert source.whole_s == math.inf
