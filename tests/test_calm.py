"""While nothing is lost by it, sensors are read less often."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from energyest import track
from energyest.measure.ledger import Event, Mark
from energyest.measure.run_account import RunAccount
from energyest.measure.sampling.sampler import Round, Sampler
from energyest.measure.sampling.steadiness import Steadiness
from energyest.measure.sensors.base import Device, Reading, Sensor
from simulation.stepped import Clock, without_threads

STATED = 1.03  # power that the device states ÷ what its counter says


class Gpu:
    """A GPU whose counter is always up to date, and whose power readings are 3 % too high."""

    def __init__(
        self, clock: Clock, watts: Callable[[float], float], *, counter: bool = True
    ) -> None:
        self.device = Device("gpu:0", "gpu", "GPU", "measured", "simulated", has_instant_power=True)
        self._clock, self._watts = clock, watts
        self.has_counter = counter
        self._last_s, self._energy_J = 0.0, 0.0
        self.often_s: list[float] = []
        self.whole_s: list[float] = []

    def advance(self) -> None:
        """Add what was drawn since the last call; power changes between calls only."""
        now_s = self._clock.now_s
        self._energy_J += (now_s - self._last_s) * self._watts(self._last_s)
        self._last_s = now_s

    def read(self, time_s: float) -> Reading:
        self.advance()
        self.whole_s.append(time_s)
        counter_J = self._energy_J if self.has_counter else math.nan
        return Reading(time_s, "gpu:0", STATED * self._watts(time_s), counter_J)

    def read_often(self, time_s: float) -> Reading:
        self.advance()
        self.often_s.append(time_s)
        return Reading(time_s, "gpu:0", STATED * self._watts(time_s))

    def close(self) -> None:
        pass

    @property
    def rounds_s(self) -> np.ndarray:
        return np.unique(np.array(self.often_s + self.whole_s).round(6))


def rounds_per_s(gpu: Gpu, start_s: float, end_s: float) -> float:
    rounds_s = gpu.rounds_s
    return np.count_nonzero((rounds_s > start_s) & (rounds_s <= end_s)) / (end_s - start_s)


def steady(_: float) -> float:
    return 300.0


def bursts(time_s: float) -> float:
    return 600.0 if int(time_s / 0.3) % 2 else 150.0


def run_of(gpu: Gpu, clock: Clock, *epochs_s: float, beside: Sensor | None = None) -> list[float]:
    """The energies of epochs of these lengths."""
    sensors = [gpu] if beside is None else [gpu, beside]
    with without_threads(clock), track(sensors=sensors) as run:
        for length_s in epochs_s:
            run.start_epoch()
            clock.sleep(length_s)
            run.end_epoch()
    return run.trace.column("energy_J").tolist()


def test_a_long_epoch_of_steady_power_is_read_twice_a_second() -> None:
    clock = Clock()
    gpu = Gpu(clock, steady)
    energies_J = run_of(gpu, clock, 60.03, 40.06)
    assert rounds_per_s(gpu, 0, 4.9) == pytest.approx(10, abs=0.5)
    assert rounds_per_s(gpu, 8, 60) == pytest.approx(2, abs=0.1)
    # Right after the edge as often as before; then it is calm again.
    assert rounds_per_s(gpu, 60.1, 65) == pytest.approx(10, abs=0.5)
    assert rounds_per_s(gpu, 68, 100) == pytest.approx(2, abs=0.1)
    whole_s = np.array(gpu.whole_s)
    assert np.diff(whole_s[(whole_s > 12) & (whole_s < 60)]) == pytest.approx(8)
    # Not by power alone, which is 3 % off, although the counter was last read long before the edge.
    assert energies_J == pytest.approx([300 * 60.03, 300 * 40.06], rel=1e-9)


@pytest.mark.parametrize("watts", [bursts, lambda at_s: 300 + 100 * math.sin(at_s)])
def test_varying_power_is_read_as_often_as_ever(watts: Callable[[float], float]) -> None:
    clock = Clock()
    gpu = Gpu(clock, watts)
    run_of(gpu, clock, 60.0)
    assert rounds_per_s(gpu, 0, 60) == pytest.approx(10, abs=0.1)


def test_so_is_a_gpu_without_a_counter() -> None:
    clock = Clock()
    gpu = Gpu(clock, steady, counter=False)
    energies_J = run_of(gpu, clock, 60.0)
    assert rounds_per_s(gpu, 0, 60) == pytest.approx(10, abs=0.1)
    assert energies_J == pytest.approx([STATED * 300 * 60], rel=1e-3)


def test_after_a_contradiction_of_counter_and_power_it_is_not_calm_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training whose steps follow the beat shows one level of power, which is not the mean."""
    monkeypatch.setattr("simulation.stepped.WRITE_S", 0.85)  # account as often as in a training
    clock = Clock()

    class Beating(Gpu):
        shown = 1.0

        def read(self, time_s: float) -> Reading:
            reading = super().read(time_s)
            return reading._replace(power_W=self.shown * reading.power_W)

        def read_often(self, time_s: float) -> Reading:
            reading = super().read_often(time_s)
            return reading._replace(power_W=self.shown * reading.power_W)

    gpu = Beating(clock, steady)
    with without_threads(clock), track(sensors=[gpu]) as run:
        for gpu.shown in (1.0, 1.5, 1.5, 1.5):
            run.start_epoch()
            clock.sleep(60.06)
            run.end_epoch()
    assert rounds_per_s(gpu, 8, 60) == pytest.approx(2, abs=0.1)
    assert rounds_per_s(gpu, 85, 240) == pytest.approx(10, abs=0.3)
    energies_J = run.trace.column("energy_J")
    # By power over eight seconds at the first contradiction, and four at the next, of a minute.
    assert energies_J[0] == pytest.approx(300 * 60.06)
    assert energies_J[2:] == pytest.approx(300 * 60.06, rel=1.01 * 4 / 60 * (1.5 * STATED - 1))


def test_a_counter_that_fails_ends_the_calm() -> None:
    clock = Clock()
    gpu = Gpu(clock, steady)
    with without_threads(clock), track(sensors=[gpu]) as run:
        run.start_epoch()
        clock.sleep(30.0)
        gpu.has_counter = False
        clock.sleep(30.0)
        run.end_epoch()
    assert rounds_per_s(gpu, 20, 29) == pytest.approx(2, abs=0.2)
    assert rounds_per_s(gpu, 39, 60) == pytest.approx(10, abs=0.5)
    # Up to the last value of the counter by it, from there on by power.
    (energy_J,) = run.trace.column("energy_J")
    assert 300 * 60 < energy_J < STATED * 300 * 60


def test_a_sensor_of_ones_own_that_wants_to_be_read_often_is() -> None:
    clock = Clock()

    class Plain:
        device = Device("system:0", "system", "meter", "measured", "simulated")
        reads = 0

        def read(self, time_s: float) -> Reading:
            self.reads += 1
            return Reading(time_s, "system:0", 50.0)

        def close(self) -> None:
            pass

    plain, gpu = Plain(), Gpu(clock, steady)
    with without_threads(clock), track(sensors=[gpu, plain]) as run:
        run.start_epoch()
        clock.sleep(30.0)
        run.end_epoch()
    assert plain.reads >= 300


@pytest.mark.parametrize(("every_s", "per_s"), [(0.1, 10), (1.0, 2)])
def test_each_answer_of_a_sensor_that_is_read_elsewhere_is_used(
    every_s: float, per_s: float
) -> None:
    """Such a sensor holds its newest answer only: one that is not read in time is lost."""
    clock = Clock()

    class Meter:
        device = Device("system:0", "system", "meter", "measured", "simulated")
        last = 0

        def __init__(self) -> None:
            self.every_s = every_s
            self.made_s: list[float] = []

        def has_news(self) -> bool:
            return int(clock.now_s / every_s + 1e-6) > self.last

        def read(self, time_s: float) -> Reading:
            self.last = int(clock.now_s / every_s + 1e-6)
            self.made_s.append(self.last * every_s)
            return Reading(self.made_s[-1], "system:0", 50.0)

        def close(self) -> None:
            pass

    meter, gpu = Meter(), Gpu(clock, steady)
    run_of(gpu, clock, 30.0, beside=meter)
    assert np.diff(meter.made_s) == pytest.approx(every_s)
    assert rounds_per_s(gpu, 8, 30) == pytest.approx(per_s, abs=0.2)


@pytest.mark.parametrize(("slow_s", "factor"), [(0.3, 1.0), (0.0, math.inf), (0.0, -1.0)])
def test_a_counter_whose_values_are_not_used_leaves_no_calm(slow_s: float, factor: float) -> None:
    """It takes too long, or tells what cannot be: energy is that by power."""
    clock = Clock()

    class Useless(Gpu):
        def read(self, time_s: float) -> Reading:
            reading = super().read(time_s)
            self._clock.now_s += slow_s
            return reading._replace(energy_J=factor * (1 + reading.energy_J))

    gpu = Useless(clock, steady)
    energies_J = run_of(gpu, clock, 60.0)
    assert rounds_per_s(gpu, 10, 60) > 8
    assert energies_J == pytest.approx([STATED * 300 * 60], rel=2e-3)


def test_a_rise_in_calm_is_shared_out_by_power() -> None:
    """Half of the epoch at one level, half at another; both epochs are exact by the counter."""
    clock = Clock()
    gpu = Gpu(clock, lambda at_s: 300.0 if at_s < 45.0 else 320.0)
    energies_J = run_of(gpu, clock, 30.0, 30.0)
    assert energies_J == pytest.approx([300 * 30, 300 * 15 + 320 * 15], rel=1e-3)


def test_the_end_of_a_run_does_not_wait_for_a_calm_beat() -> None:
    clock = Clock()
    gpu = Gpu(clock, steady)
    with without_threads(clock), track(sensors=[gpu]) as run:
        run.start_epoch()
        clock.sleep(30.21)
        run.end_epoch()
        before_s = clock.now_s
    assert clock.now_s - before_s <= 0.1


class Threadless:
    """A sampler's thread on a simulated clock, on which something happens at an instant."""

    def __init__(self, at_s: float, until_s: float, happens: Callable[[Sampler], None]) -> None:
        self.now_s, self._at_s, self._until_s = 0.0, at_s, until_s
        self._happens = happens
        self.rounds_s: list[float] = []
        self.sampler = Sampler(
            [Gpu(Clock(), steady)],
            lambda taken: self.rounds_s.append(taken.began_s),
            clock=lambda: self.now_s,
        )
        self.sampler._wake = self  # type: ignore[assignment]

    def set(self) -> None:
        pass

    def clear(self) -> None:
        pass

    def wait(self, timeout_s: float) -> None:
        if self.now_s < self._at_s <= self.now_s + timeout_s:
            self.now_s = self._at_s
            self._happens(self.sampler)
        else:
            self.now_s += timeout_s
        self.sampler._stopping |= self.now_s >= self._until_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    def rounds_s(*arguments: Any) -> np.ndarray:
        thread = Threadless(*arguments)
        monkeypatch.setattr(time, "sleep", thread.sleep)
        thread.sampler._run()
        return np.array(thread.rounds_s)

    return rounds_s


def test_an_edge_in_calm_brings_the_usual_beat_back_at_once(
    threadless: Callable[..., np.ndarray],
) -> None:
    times_s = threadless(20.17, 24.0, Sampler.expect_edge)
    assert np.diff(times_s[(times_s > 10) & (times_s < 20.1)]).max() == pytest.approx(0.5)
    at = np.searchsorted(times_s, 20.17)
    assert times_s[at] == pytest.approx(20.17, abs=0.01)
    # From then on again by tenths of a second.
    assert times_s[at + 1 : at + 30] == pytest.approx(20.2 + 0.1 * np.arange(29))


def test_an_end_in_calm_does_not_wait_for_the_next_round(
    threadless: Callable[..., np.ndarray],
) -> None:
    def stop(sampler: Sampler) -> None:
        sampler._stopping = True

    assert threadless(20.17, 30.0, stop)[-1] == pytest.approx(20.2)


def test_an_edge_in_calm_waits_for_the_counter_that_was_put_off() -> None:
    """The counter was last read eight seconds ago, but it has not failed."""
    account = RunAccount([Gpu(Clock(), steady).device], 0.0, 0.1)

    def add(time_s: float, counter_J: float = math.nan, **flags: bool) -> None:
        reading = Reading(time_s, "gpu:0", STATED * 300, counter_J)
        account.see([reading])
        account.add_round(Round(time_s, [reading], {}, **{"is_whole": False, **flags}))
        account.settle(is_whole=not math.isnan(counter_J))

    add(0.0, 0.0, is_whole=True)
    account.post(Mark(0.0, Event.RUN_START))
    account.post(Mark(0.0, Event.EPOCH_START))
    for half in range(1, 15):
        add(0.5 * half, is_calm=True)
    account.post(Mark(7.3, Event.EPOCH_END))
    add(7.303, is_whole=True)  # an update of the counter was close: it is read after that
    assert account.has_pending
    add(7.35, 300 * 7.35, is_whole=True)
    assert not account.has_pending
    (row,), final = account.rows_from(0)
    assert final == 1
    assert row["energy_J"] == pytest.approx(300 * 7.3, rel=1e-6)


def test_an_epoch_right_after_an_edge_in_calm_is_not_charged_with_its_correction() -> None:
    """Of two counters, one was read after the edge; that corrects what power says of it by 63 J."""
    names = ("gpu:0", "gpu:1")
    devices = [dataclasses.replace(Gpu(Clock(), steady).device, device=name) for name in names]
    account = RunAccount(devices, 0.0, 0.1)

    def add(time_s: float, *counted: str, is_calm: bool = False) -> None:
        readings = [
            Reading(time_s, name, STATED * 300, 300 * time_s if name in counted else math.nan)
            for name in names
        ]
        account.see(readings)
        account.add_round(Round(time_s, readings, {}, bool(counted), is_calm))
        account.settle(is_whole=bool(counted))

    add(0.0, *names)
    account.post(Mark(0.0, Event.RUN_START))
    account.post(Mark(0.0, Event.EPOCH_START))
    for half in range(1, 15):
        add(0.5 * half, is_calm=True)
    account.post(Mark(7.3, Event.EPOCH_END))
    account.post(Mark(7.3, Event.EPOCH_START))
    add(7.303, "gpu:0")  # an update of the other one's counter was close
    account.post(Mark(7.34, Event.EPOCH_END))
    rows, final = account.rows_from(0)
    assert (len(rows), final) == (2, 0)
    assert rows[1]["energy_J"] == pytest.approx(2 * 300 * 0.04, rel=0.1)


def test_steadiness() -> None:
    steadiness = Steadiness()
    for _ in range(19):
        steadiness.add(300.0)
    assert not steadiness  # too few to tell
    steadiness.add(300.0)
    assert steadiness
    chance = np.random.default_rng(0)
    for _ in range(200):
        steadiness.add(300 * chance.normal(1, 0.05))
    assert steadiness
    for _ in range(200):
        steadiness.add(300 * chance.normal(1, 0.25))
    assert not steadiness
    for _ in range(200):
        steadiness.add(100.0)
    assert steadiness  # at another level
    steadiness.add(math.nan)
    assert not steadiness
    steadiness = Steadiness()
    steadiness.add(math.inf)
    for _ in range(20):
        steadiness.add(300.0)
    assert steadiness  # after a value that cannot be
