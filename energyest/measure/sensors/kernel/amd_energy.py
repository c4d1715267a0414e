"""AMD's processors through the driver `amd_energy`, where the kernel has no RAPL for them.

The driver (github.com/amd/amd_energy; part of Linux 5.8 to 5.12) is a hardware monitor with a
channel for each core and each socket, in microjoules. It continues the 32-bit registers of the CPU
to 64 bits, so they do not wrap. A socket includes its cores. `zenergy` is the same driver, for all
users; the original is for root alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from energyest.measure.sensors.base import Device, Reading
from energyest.measure.sensors.cpu import Utilization, processor_name
from energyest.measure.sensors.kernel.counters import CounterSensor, EnergyCounter, read_number
from energyest.measure.sensors.kernel.hwmon import HWMON_ROOT, channels, chips

_DRIVERS = ("amd_energy", "zenergy")
# More than any socket can draw.
_MOST_W = 2000.0


class AmdEnergySensor(CounterSensor):
    """All sockets of the machine, through AMD's energy driver.

    Args:
        root: the folder of hardware monitors.

    Raises:
        OSError: there is no such driver, or a counter cannot be read.
    """

    def __init__(self, root: Path = HWMON_ROOT) -> None:
        sockets = [
            chip / f"{name}_input"
            for chip in chips(root, *_DRIVERS)
            for label, name in channels(chip, "energy")
            if label.startswith("Esocket")
        ]
        if not sockets:
            raise FileNotFoundError(f"no driver {' or '.join(_DRIVERS)} in {root}")
        device = Device(
            device="cpu:0",
            kind="cpu",
            name=processor_name(),
            source="measured",
            method=f"amd_energy, {len(sockets)} socket(s) of this machine",
            details={"threads": os.cpu_count()},
        )
        super().__init__(device, [_counter(file) for file in sockets])
        self._utilization = Utilization()

    def read(self, time_s: float) -> Reading:
        """Read the counters and the utilisation; power is the mean since the last reading."""
        return super().read(time_s)._replace(utilization=self._utilization.since_last_call())


def _counter(file: Path) -> EnergyCounter:
    return EnergyCounter(lambda: read_number(file), unit_J=1e-6, most_W=_MOST_W)
