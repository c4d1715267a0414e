"""A month of recording in minutes: memory, folder, exactness of the epochs, opening of the trace.

GPUs with an energy counter, processors without one and memory go through recorder and disk as in
a training; only the clock is a simulated one. Rounds of readings follow each other at once instead
of every tenth of a second, and what is new is written between two of them, every half a simulated
minute, with the newest totals, instead of by a thread every second.

Every device draws power as a triangular wave, whose integral is known; the power that the GPUs
state is 3 % too high, so that only their counters are right.

Exits with 1 if a figure misses its aim.

    python -m benchmarks.endurance.long_run --days 30 --gpus 8
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil

import energyest
from energyest import EnergyTrace, load_trace
from energyest.integration import energy_between
from energyest.measure import recorder as recorder_module
from energyest.measure.recorder import Recorder
from energyest.measure.sampler import Sampler
from energyest.measure.sensors.base import Device, Kind, Reading
from energyest.measure.writer import TraceWriter

MEMORY_AIM_MB, FOLDER_AIM_MB, OPENING_AIM_S = 60.0, 2000.0, 2.0
# A counter tells millijoules, and is interpolated at edges between two of its readings.
ENERGY_AIM, DURATION_AIM_S = 1e-6, 1e-6
# Of the readings, once thinned: what of a run that was killed is known outside of epochs.
READINGS_AIM = 1e-3
WRITE_S = 30.0  # from one time that the disk is brought up to date to the next
STATED = 1.03  # power that a GPU states ÷ what it draws
READ_S = 0.004  # an energy counter takes so long


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SteppedSampler(Sampler):
    """Reads when it is asked to, without a thread."""

    def start(self, timeout_s: float = 2.0) -> None:
        self.read_round()

    def sample_now(self, timeout_s: float) -> bool:
        self._clock.now_s += READ_S
        self.read_round()
        return True

    def stop(self, timeout_s: float = 2.0) -> bool:
        self.read_round()
        return True


class SteppedWriter(TraceWriter):
    """Writes when it is asked to, without a thread."""

    def start(self) -> None:
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
def without_threads() -> Iterator[None]:
    """Recorders that are made and run in here read and write when they are asked to."""
    stepped = {"Sampler": SteppedSampler, "TraceWriter": SteppedWriter, "_FLUSH_S": WRITE_S}
    usual = {name: getattr(recorder_module, name) for name in stepped}
    vars(recorder_module).update(stepped)
    try:
        yield
    finally:
        vars(recorder_module).update(usual)


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


# ---------------------------------------------------------------------- what came out


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


def readings_error(devices: list[WaveSensor], trace: EnergyTrace) -> float:
    """The worst relative error of a device's energy as the integral of the readings on disk."""
    columns = trace.power_columns
    errors = []
    for device in devices:
        rows = columns["device"] == device.device.device
        first_s, *_, last_s = time_s = columns["time_s"][rows]
        counter_J = columns["energy_J"][rows]
        power_W = columns["power_W"][rows]
        energy_J = energy_between(time_s, power_W, first_s, last_s, counter_J=counter_J)
        first_J, last_J = true_J([device], np.array([first_s, last_s]))
        errors.append(abs(energy_J / (last_J - first_J) - 1))
    return float(np.max(errors))  # NaN if one is


def peak_MB() -> float:
    """The most memory that this process has held at once."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


OPENING = """
import sys, time
from energyest import load_trace
before_s = time.perf_counter()
load_trace(sys.argv[1])
print(time.perf_counter() - before_s)
"""


def opening_s(folder: Path, times: int = 5) -> float:
    """Median time that load_trace takes in a fresh process, with the import of pandas."""
    command = [sys.executable, "-c", OPENING, str(folder)]
    outputs = [subprocess.run(command, capture_output=True, check=True) for _ in range(times)]
    return float(np.median([float(output.stdout) for output in outputs]))


def check(what: str, value: float, aim: float, unit: str) -> bool:
    met = value <= aim
    print(f"{'met   ' if met else 'MISSED'} {what}: {value:.4g} {unit} (aim {aim:g})")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--hz", type=float, default=10.0, help="rounds a second")
    parser.add_argument("--epoch-s", type=float, default=601.3, help="length of an epoch")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary one")
    given = parser.parse_args()
    process = psutil.Process()
    imported_MB = process.memory_info().rss / 1e6
    print(f"# long_run, {datetime.now(timezone.utc):%Y-%m-%d}\n")
    print(
        f"energyest {energyest.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores\n"
    )
    devices = sensors(given.gpus)
    with tempfile.TemporaryDirectory() as temporary, without_threads():
        run = Run(devices, given.folder or Path(temporary) / "energy", given.hz, given.epoch_s)
        began_s, resident_MB = time.perf_counter(), []
        hours = round(24 * given.days)
        for hour in range(1, hours + 1):
            run.go_on(3600.0 * hour)
            if hour % 24 == 0 or hour == hours:
                run.recorder.trace()  # as a user does who looks at monitor.trace
            resident_MB.append(process.memory_info().rss / 1e6)
            if hour % 24 == 0:
                print(f"day {hour // 24}: {resident_MB[-1]:.1f} MB", file=sys.stderr, flush=True)
        run.recorder.stop()
        took_s, worked_s = time.perf_counter() - began_s, time.process_time()
        peak = peak_MB()
        folder = run.recorder.folder
        assert folder is not None
        loaded = {"torch", "pandas"} & sys.modules.keys()
        size_MB = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        opened_s = opening_s(folder)
        trace = load_trace(folder)
    energy_error, duration_error_s = epoch_errors(devices, trace, given.epoch_s)
    rows = len(trace.power_columns["time_s"])
    readings = int(hours * 3600 * given.hz) * len(devices)
    print(
        f"{given.days:g} days of {given.gpus} GPUs, processors and memory at {given.hz:g} Hz: "
        f"{readings / 1e6:.1f} million readings, {len(trace)} epochs of {given.epoch_s:g} s\n"
        f"took {took_s:.0f} s, {worked_s:.0f} s of them on a processor: "
        f"{1e6 * worked_s * len(devices) / readings:.1f} us a round with the simulated devices\n"
        f"memory in MB: {imported_MB:.1f} once imported, {resident_MB[0]:.1f} after an hour, "
        f"{resident_MB[len(resident_MB) // 2]:.1f} half way, {resident_MB[-1]:.1f} at the end\n"
        f"rows: {rows}, {rows // len(devices)} a device\n"
    )
    epochs = int(3600 * hours // given.epoch_s)
    if len(trace) != epochs:
        print(f"MISSED {len(trace)} epochs, not {epochs}")
    if loaded:
        print(f"MISSED {', '.join(sorted(loaded))} loaded in the recording process")
    met = [
        len(trace) == epochs,
        not loaded,
        check("memory of the whole process, at its peak", peak, MEMORY_AIM_MB, "MB"),
        check("folder", size_MB, FOLDER_AIM_MB, "MB"),
        check("energy of the worst epoch, relative error", abs(energy_error).max(), ENERGY_AIM, ""),
        check("duration of the worst epoch", abs(duration_error_s).max(), DURATION_AIM_S, "s off"),
        check("the run from its readings", readings_error(devices, trace), READINGS_AIM, "off"),
        check("load_trace in a fresh process, median of 5", opened_s, OPENING_AIM_S, "s"),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
