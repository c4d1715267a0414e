"""AMD's processors through the driver `amd_energy`, where the kernel has no RAPL for them.

The driver (github.com/amd/amd_energy; part of Linux 5.8 to 5.12) is a hardware monitor with a
channel for each core and each socket, in microjoules. It continues the 32-bit registers of the CPU
to 64 bits, so they do not wrap. A socket includes its cores. `zenergy` is the same driver, for all
users; the original is for root alone.
"""

from __future__ import annotations

from pathlib import Path

from energyest.measure.sensors.kernel.counters import EnergyCounter, read_number
from energyest.measure.sensors.kernel.hwmon import HWMON_ROOT, channels, chips
from energyest.measure.sensors.kernel.processors import ProcessorSensor

_DRIVERS = ("amd_energy", "zenergy")
# More than any socket can draw.
_MOST_W = 2000.0


class AmdEnergySensor(ProcessorSensor):
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
        method = f"amd_energy, {len(sockets)} socket(s) of this machine"
        super().__init__([_counter(file) for file in sockets], method)


def _counter(file: Path) -> EnergyCounter:
    return EnergyCounter(lambda: read_number(file), unit_J=1e-6, most_W=_MOST_W)
