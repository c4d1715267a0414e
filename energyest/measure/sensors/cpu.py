"""Power of the CPUs: RAPL where it can be read, else a model based on utilisation."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path

import psutil

from energyest.measure.sensors.base import Device, Reading

RAPL_ROOT = Path("/sys/class/powercap")
# Watts per hardware thread at no and full load, for an unspecified CPU: averages over server CPUs
# from SPECpower results, Cloud Carbon Footprint, "Methodology", table of energy coefficients for
# AWS (read 2026-11).
IDLE_W_PER_THREAD = 0.74
FULL_W_PER_THREAD = 3.5
_TICK_S = 0.01
_TICKS_TO_WAIT = 10


class RaplSensor:
    """All CPU packages of the machine, read through Intel's and AMD's energy counters.

    Raises:
        OSError: no package's counter can be read (usually for lack of permission).
    """

    #: Power is a mean since the last reading.
    every_s = 1.0

    def __init__(self, root: Path = RAPL_ROOT) -> None:
        domains = sorted(root.glob("intel-rapl:[0-9]*"))
        self._packages = [_Package(path) for path in domains if _is_package(path)]
        if not self._packages:
            raise FileNotFoundError(f"no processor package in {root}")
        self._last: tuple[float, float] | None = None
        self.device = Device(
            device="cpu:0",
            kind="cpu",
            name=processor_name(),
            source="measured",
            method=f"RAPL, {len(self._packages)} package(s) of this machine",
            power_limit_W=sum(package.limit_W() for package in self._packages),
            details={"threads": os.cpu_count()},
        )
        self._utilization = _Utilization()

    def read(self, time_s: float) -> Reading:
        """Read the counters; power is their mean slope since the last reading."""
        try:
            energy_J = sum(package.energy_J() for package in self._packages)
        except (OSError, ValueError):
            return Reading(time_s, self.device.device)
        power_W = math.nan
        if self._last is not None and time_s > self._last[0]:
            power_W = (energy_J - self._last[1]) / (time_s - self._last[0])
        self._last = (time_s, energy_J)
        return Reading(
            time_s,
            self.device.device,
            power_W=power_W,
            energy_J=energy_J,
            utilization=self._utilization.since_last_call(),
        )

    def close(self) -> None:
        """Nothing is held."""


class CpuModelSensor:
    """All CPUs of the machine, with power modelled as linear in utilisation."""

    #: Power is a mean since the last reading.
    every_s = 1.0

    def __init__(self) -> None:
        self._threads = os.cpu_count() or 1
        self._utilization = _Utilization()
        self.device = Device(
            device="cpu:0",
            kind="cpu",
            name=processor_name(),
            source="modelled",
            method=(
                f"{IDLE_W_PER_THREAD} W idle to {FULL_W_PER_THREAD} W busy per hardware thread of "
                "this machine, linear in utilisation (Cloud Carbon Footprint, AWS average)"
            ),
            power_limit_W=FULL_W_PER_THREAD * self._threads,
            details={"threads": self._threads},
        )

    def read(self, time_s: float) -> Reading:
        """Model the power from the utilisation since the last reading."""
        busy = self._utilization.since_last_call()
        per_thread_W = IDLE_W_PER_THREAD + busy * (FULL_W_PER_THREAD - IDLE_W_PER_THREAD)
        return Reading(
            time_s,
            self.device.device,
            power_W=per_thread_W * self._threads,
            utilization=busy,
        )

    def close(self) -> None:
        """Nothing is held."""


def _is_package(domain: Path) -> bool:
    # intel-rapl:0 is a package (also on AMD), intel-rapl:0:1 a part of one. Besides packages there
    # may be "psys": the whole platform, including the packages.
    top_level = domain.name.count(":") == 1
    return top_level and (domain / "name").read_text(encoding="ascii").startswith("package")


class _Package:
    """One RAPL counter, continued beyond its wraps."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counter = path / "energy_uj"
        self._range_uJ = _read_number(path / "max_energy_range_uj")
        self._last_uJ = _read_number(self._counter)
        self._total_uJ = 0.0

    def energy_J(self) -> float:
        """Joules since this object was made."""
        now_uJ = _read_number(self._counter)
        step_uJ = now_uJ - self._last_uJ
        # A falling counter has wrapped; it does so every few minutes to hours.
        self._total_uJ += step_uJ if step_uJ >= 0 else step_uJ + self._range_uJ
        self._last_uJ = now_uJ
        return self._total_uJ / 1e6

    def limit_W(self) -> float:
        """The long-term power limit, usually the TDP; NaN if it cannot be read."""
        try:
            return _read_number(self._path / "constraint_0_power_limit_uw") / 1e6
        except (OSError, ValueError):
            return math.nan


class _Utilization:
    """Share of time, 0 to 1, in which the CPUs were busy between two calls.

    psutil.cpu_percent stores its last call per thread for all callers in the process; reading the
    times ourselves does not disturb other callers.
    """

    def __init__(self) -> None:
        self._busy_s, self._total_s = self._times()
        self._share = math.nan

    def since_last_call(self) -> float:
        busy_s, total_s = self._times()
        # The kernel counts in ticks of 10 ms: two calls within a tick give no result. The first
        # call after the constructor may be within its tick.
        for _ in range(_TICKS_TO_WAIT if math.isnan(self._share) else 0):
            if total_s > self._total_s:
                break
            time.sleep(_TICK_S)
            busy_s, total_s = self._times()
        if total_s > self._total_s:
            share = (busy_s - self._busy_s) / (total_s - self._total_s)
            self._share = min(1.0, max(0.0, share))
            self._busy_s, self._total_s = busy_s, total_s
        return self._share

    @staticmethod
    def _times() -> tuple[float, float]:
        times = psutil.cpu_times()
        idle_s = times.idle + getattr(times, "iowait", 0.0)
        # The kernel counts guest time in user time as well.
        total_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return total_s - idle_s, total_s


def _read_number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))


def processor_name() -> str:
    """The CPU's name as Linux reports it, or else the kind of machine."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
