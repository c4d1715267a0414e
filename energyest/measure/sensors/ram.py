"""Power of memory, modelled from the memory in use."""

from __future__ import annotations

import psutil

from energyest.measure.sensors.base import Device, Reading

# W per GB used: the constant of del Rey et al., arXiv 2307.05520, section on energy measurement.
W_PER_GB_USED = 0.375


class RamSensor:
    """The machine's memory: 0.375 W per GB in use, as modelled in arXiv 2307.05520."""

    #: Memory use changes slowly.
    every_s = 2.0

    def __init__(self) -> None:
        total = float(psutil.virtual_memory().total)
        self.device = Device(
            device="ram:0",
            kind="ram",
            name="memory",
            source="modelled",
            method=f"{W_PER_GB_USED} W per GB in use on this machine (arXiv 2307.05520)",
            power_limit_W=W_PER_GB_USED * total / 1e9,
            memory_bytes=total,
        )

    def read(self, time_s: float) -> Reading:
        """Model the power from the memory in use now."""
        used, share = memory_in_use()
        return Reading(
            time_s,
            self.device.device,
            power_W=W_PER_GB_USED * used / 1e9,
            utilization=share,
            memory_bytes=used,
        )

    def close(self) -> None:
        """Nothing is held."""


def memory_in_use() -> tuple[float, float]:
    """Bytes of the machine's memory in use, and their share of it."""
    memory = psutil.virtual_memory()
    used = float(memory.total - memory.available)
    return used, used / memory.total
