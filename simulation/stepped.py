"""A recorder on a simulated clock, and devices whose power and energy are known at any instant.

GPUs with an energy counter, processors without one and memory go through recorder and disk as in a
training; only the clock is a simulated one. Rounds of readings follow each other at once, and what
is new is written between two of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from energyest import EnergyTrace
from energyest.measure import recorder as recorder_module
from energyest.measure.recorder import Recorder
from energyest.measure.sampling.sampler import Sampler
from energyest.measure.sensors.base import Device, Kind, Reading
from energyest.measure.writer import TraceWriter
from simulation.fake_nvml import FakeNvml

WRITE_S = 30.0  # from one time that the disk is brought up to date to the next
STATED = 1.03  # power that a GPU states ÷ what it draws
READ_S = 0.004  # an energy counter takes so long


class Clock:
    """Seconds that pass when they are told to: all at once, or by `sleep`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.samplers: list[SteppedSampler] = []

    def __call__(self) -> float:
        return self.now_s

    def __deepcopy__(self, _: object) -> Clock:
        return self  # a model that sleeps by it may be copied; time is the same for all

    def sleep(self, seconds: float) -> None:
        """Let time pass, in which those that measure read at their beat."""
        until_s = self.now_s + seconds
        while self.samplers:
            sampler = min(self.samplers, key=lambda one: one.next_s)
            if sampler.next_s > until_s:
                break
            self.now_s = max(self.now_s, sampler.next_s)
            sampler.beat()
        self.now_s = max(self.now_s, until_s)


class RealClock:
    """Seconds that pass by themselves, for what can go by either clock."""

    def __call__(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


class NvmlClock(Clock):
    """The clock of the simulated driver: a call of it that hangs lets time pass."""

    def __init__(self, driver: FakeNvml) -> None:
        self._driver = driver
        super().__init__()

    @property
    def now_s(self) -> float:  # type: ignore[override]
        return self._driver.time()

    @now_s.setter
    def now_s(self, seconds: float) -> None:
        self._driver.set_time(seconds)


class SteppedSampler(Sampler):
    """Reads when it is asked to, and while its clock sleeps, without a thread."""

    next_s = 0.0
    _clock: Clock

    def start(self, timeout_s: float = 2.0) -> None:
        self.next_s = self._clock.now_s
        self.beat()
        self._clock.samplers.append(self)

    def beat(self) -> None:
        """Read as the thread does, which keeps to the beat whoever asks in between."""
        self.next_s = self.next_beat_s(self.next_s, self.read_round())

    def expect_edge(self) -> None:
        super().expect_edge()
        is_known = self._whole_at_s == self._clock.now_s
        if self in self._clock.samplers and not is_known:
            self.beat()

    def sample_now(self, timeout_s: float) -> bool:
        self._clock.now_s += READ_S
        self.beat()
        return True

    def stop(self, timeout_s: float = 2.0) -> bool:
        if self not in self._clock.samplers:
            return super().stop(timeout_s)  # never started
        wait_s = max(0.0, self.next_s - self._clock.now_s) % self._interval_s
        self._clock.now_s += wait_s
        self._stopping = True
        self.read_round()
        self._clock.samplers.remove(self)
        self.close_sensors()
        return True


class SteppedWriter(TraceWriter):
    """Writes when it is asked to, without a thread."""

    def start(self) -> None:  # type: ignore[override]
        pass


class Wave:
    """Power that rises and falls between two levels along straight lines.

    Args:
        low_W: the lower level.
        high_W: the higher level.
        period_s: from one low to the next.
        phase_s: how far into a period the wave begins.
    """

    def __init__(self, low_W: float, high_W: float, period_s: float, phase_s: float) -> None:
        self._low_W, self._phase_s, self._period_s = low_W, phase_s, period_s
        self._half_s = period_s / 2
        self._slope = (high_W - low_W) / self._half_s
        self._period_J = self._half_s * (low_W + high_W)

    def at(self, time_s: float) -> tuple[float, float]:
        """Watts at an instant, and joules up to it since the wave's first low."""
        periods, into_s = divmod(time_s + self._phase_s, self._period_s)
        energy_J = periods * self._period_J
        if into_s <= self._half_s:
            rise_W = self._slope * into_s
            return self._low_W + rise_W, energy_J + into_s * (self._low_W + rise_W / 2)
        left_s = self._period_s - into_s
        rise_W = self._slope * left_s
        energy_J += self._period_J - left_s * (self._low_W + rise_W / 2)
        return self._low_W + rise_W, energy_J


class WaveSensor:
    """A device that draws a wave."""

    def __init__(self, name: str, kind: Kind, wave: Wave, *, counter: bool) -> None:
        self.device = Device(name, kind, f"simulated {kind}", "measured", "a triangular wave")
        self.wave = wave
        self._name = name
        self._counter = counter

    def read(self, time_s: float) -> Reading:
        power_W, energy_J = self.wave.at(time_s)
        if not self._counter:
            return Reading(time_s, self._name, power_W)
        shown_J = int(energy_J * 1000) / 1000
        return Reading(time_s, self._name, STATED * power_W, shown_J, power_W / 1000, 6e10, 61.0)

    def close(self) -> None:
        pass


def sensors(gpus: int) -> list[WaveSensor]:
    """GPUs, processors and memory, each with a wave of its own."""
    return [
        *(
            WaveSensor(
                f"gpu:{i}", "gpu", Wave(120 + i, 700 - 9 * i, 472 + 10 * i, 37.0 * i), counter=True
            )
            for i in range(gpus)
        ),
        WaveSensor("cpu:0", "cpu", Wave(90, 240, 84, 0), counter=False),
        WaveSensor("ram:0", "ram", Wave(20, 28, 1208, 5), counter=False),
    ]


@contextmanager
def without_threads(clock: Clock | None = None) -> Iterator[None]:
    """Recorders that are made and run in here read and write when they are asked to.

    Args:
        clock: of those that are not given another.
    """
    stepped = {"Sampler": SteppedSampler, "TraceWriter": SteppedWriter, "_FLUSH_S": WRITE_S}
    usual = {name: getattr(recorder_module, name) for name in stepped}
    defaults = dict(Recorder.__init__.__kwdefaults__)
    vars(recorder_module).update(stepped)
    if clock is not None:
        Recorder.__init__.__kwdefaults__ = {**defaults, "clock": clock}
    try:
        yield
    finally:
        vars(recorder_module).update(usual)
        Recorder.__init__.__kwdefaults__ = defaults


class Run:
    """A recorder on a simulated clock; to be used within `without_threads`.

    Args:
        devices: what it reads.
        folder: where it writes; None for nowhere.
        hz: rounds a second.
        epoch_s: length of an epoch; better no multiple of the time between two rounds.
    """

    def __init__(
        self, devices: list[WaveSensor], folder: Path | None, hz: float, epoch_s: float
    ) -> None:
        self.clock = Clock()
        self._epoch_s = epoch_s
        self._interval_s = 1 / hz
        self._round = 0
        self.recorder = Recorder(
            devices, folder=folder, interval_s=self._interval_s, clock=self.clock
        )
        self.recorder.start()
        self.recorder.start_epoch(0)
        self._epoch = 1

    def go_on(self, until_s: float) -> None:
        """Let rounds and epochs come up to an instant."""
        clock, interval_s = self.clock, self._interval_s
        sampler, writer = self.recorder._sampler, self.recorder._writer
        rounds_to_a_write = max(1, round(WRITE_S / interval_s))
        while (self._round + 1) * interval_s <= until_s:
            self._round += 1
            beat_s = self._round * interval_s
            while self._epoch * self._epoch_s <= beat_s:
                clock.now_s = self._epoch * self._epoch_s
                self.recorder.end_epoch({"steps": 100.0, "samples": 6400.0})
                self.recorder.start_epoch(continues=True)
                self._epoch += 1
            clock.now_s = max(beat_s, clock.now_s)
            sampler.read_round()
            if writer is not None and self._round % rounds_to_a_write == 0:
                writer.write_waiting()


def true_J(devices: list[WaveSensor], at_s: np.ndarray) -> np.ndarray:
    """Joules of all devices together, up to each instant."""
    return np.array([sum(device.wave.at(s)[1] for device in devices) for s in at_s.tolist()])


def epoch_errors(
    devices: list[WaveSensor], trace: EnergyTrace, epoch_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Relative error of each epoch's energy, and error of its duration in seconds."""
    edges_s = np.arange(len(trace) + 1) * epoch_s
    energy_J = np.diff(true_J(devices, edges_s))
    return trace.column("energy_J") / energy_J - 1, trace.column("duration_s") - epoch_s
