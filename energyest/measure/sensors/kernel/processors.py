"""`ProcessorSensor`: the machine's processors, as the sum of their energy counters."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from energyest.measure.sensors.base import Device, Reading
from energyest.measure.sensors.cpu import Utilization, processor_name
from energyest.measure.sensors.kernel.counters import CounterSensor, EnergyCounter


class ProcessorSensor(CounterSensor):
    """The processors of this machine.

    Args:
        counters: one for each package or socket.
        method: how they are read.
        power_limit_W: sum of their power limits; NaN if unknown.
    """

    def __init__(
        self, counters: Sequence[EnergyCounter], method: str, *, power_limit_W: float = math.nan
    ) -> None:
        device = Device(
            device="cpu:0",
            kind="cpu",
            name=processor_name(),
            source="measured",
            method=method,
            power_limit_W=power_limit_W,
            details={"threads": os.cpu_count()},
        )
        super().__init__(device, counters)
        self._utilization = Utilization()

    def read(self, time_s: float) -> Reading:
        """Read the counters and the utilisation; power is the mean since the last reading."""
        return super().read(time_s)._replace(utilization=self._utilization.since_last_call())
