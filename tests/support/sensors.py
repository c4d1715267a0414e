"""Devices whose watts are known, and how they can fail."""

from __future__ import annotations

import math
import threading
from typing import Any

from energyest.measure.sensors import Device, Reading


class Constant:
    """A device with constant power, so that the energy of any span of time is known.

    Args:
        watts: its power, which may be changed later.
        device: name such as `gpu:0`; the part before the colon is the kind.
        name: name of the product.
        counter_W: the power with which its energy counter grows; None for no counter.
        contains: as for `Device`.
        details: further facts, such as `uuid`.
    """

    def __init__(
        self,
        watts: float,
        device: str = "gpu:0",
        name: str = "constant",
        *,
        counter_W: float = math.nan,
        contains: tuple[str, ...] | None = None,
        **details: Any,
    ) -> None:
        kind = device.partition(":")[0]
        self.device = Device(
            device,
            kind,  # type: ignore[arg-type]
            name,
            "measured",
            "made up",
            details=details,
            contains=contains,
        )
        self.watts = watts
        self.counter_W = counter_W
        self.reads = 0
        self.closed = False
        self.reads_once_closed = 0

    def read(self, time_s: float) -> Reading:
        self.reads += 1
        self.reads_once_closed += self.closed
        return Reading(time_s, self.device.device, self.watts, self.counter_W * time_s)

    def close(self) -> None:
        self.closed = True


class Failing(Constant):
    """A device whose next readings fail a number of times; infinity for until that is changed.

    Args:
        watts: its power.
        device: as above.
        error: the error that a failing reading raises; without one, it is NaN.
        fails: number of failures.
        options: as above.
    """

    def __init__(
        self,
        watts: float = 100.0,
        device: str = "gpu:0",
        *,
        error: Exception | None = None,
        fails: float = math.inf,
        **options: Any,
    ) -> None:
        super().__init__(watts, device, **options)
        self.error = error
        self.fails = fails

    def read(self, time_s: float) -> Reading:
        reading = super().read(time_s)
        if not self.fails:
            return reading
        self.fails -= 1
        if self.error is not None:
            raise self.error
        return Reading(time_s, self.device.device)


class Hanging(Constant):
    """A device that is not read while `goes_on` is not set."""

    def __init__(self, watts: float = 100.0, device: str = "gpu:0", **options: Any) -> None:
        super().__init__(watts, device, **options)
        self.goes_on = threading.Event()
        self.goes_on.set()

    def read(self, time_s: float) -> Reading:
        self.goes_on.wait(600)
        return super().read(time_s)
