"""Power of the CPUs, modelled from their utilisation; name and utilisation of the CPUs."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path

import psutil

from energyest.measure.sensors.base import Device, Reading

# Watts per hardware thread at no and full load, for an unspecified CPU: averages over server CPUs
# from SPECpower results, Cloud Carbon Footprint, "Methodology", table of energy coefficients for
# AWS (read 2026-11).
IDLE_W_PER_THREAD = 0.74
FULL_W_PER_THREAD = 3.5
_TICK_S = 0.01
_TICKS_TO_WAIT = 10


class CpuModelSensor:
    """All CPUs of the machine, with power modelled as linear in utilisation."""

    #: Power is a mean since the last reading.
    every_s = 2.0

    def __init__(self) -> None:
        self._threads = os.cpu_count() or 1
        self._utilization = Utilization()
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


class Utilization:
    """Share of time, 0 to 1, in which the CPUs were busy between two calls.

    psutil.cpu_percent stores its last call per thread for all callers in the process; reading the
    times ourselves does not disturb other callers.
    """

    def __init__(self) -> None:
        self._busy_s, self._total_s = self._times()
        self._share = math.nan

    def since_last_call(self) -> float:
        """The share since the last call, or since this object was made; NaN if not known yet."""
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


def processor_name() -> str:
    """The CPU's name as Linux reports it, or else the kind of machine."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
