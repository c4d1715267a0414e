"""A month of recording in minutes: memory, folder, accuracy of epochs, opening of the trace.

GPUs with an energy counter, CPUs without one, and memory are recorded and written to disk as in a
training; only the clock is simulated (`simulation.stepped`). Rounds of readings follow each other
at once instead of every tenth of a second, and new content is written between rounds, every half a
simulated minute, with the newest totals, instead of by a thread every second.

The power of every device is a triangular wave with known integral; the power reported by the GPUs
is 3 % too high, so that only their counters are right.

Exits with 1 if a figure misses its goal.

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
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import energyest
from energyest import EnergyTrace, load_trace
from energyest.integration import energy_between
from simulation.stepped import Run, WaveSensor, epoch_errors, sensors, true_J, without_threads

MEMORY_AIM_MB, FOLDER_AIM_MB, OPENING_AIM_S = 60.0, 2000.0, 2.0
# A counter counts millijoules, and is interpolated at edges between two of its readings.
ENERGY_AIM, DURATION_AIM_S = 1e-6, 1e-6
# Error of the thinned readings, which give the energy outside of epochs for a killed run.
READINGS_AIM = 1e-3


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
    """The peak memory of this process."""
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
