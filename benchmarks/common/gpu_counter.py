"""NVML's energy counter, read when it is renewed, or that of a simulated GPU."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from energyest.gpus.driver import FIELD_POWER_INSTANT

# A GPU renews its counter every 0.1 s.
_LONGEST_S = 1.0


@dataclass(frozen=True)
class Renewal:
    """The counter just after it was renewed.

    Attributes:
        time_s: when, on the clock of `time.monotonic`.
        energy_J: its value.
        power_W: instantaneous power right after it.
    """

    time_s: float
    energy_J: float
    power_W: float

    def at(self, time_s: float) -> float:
        """The energy at a time close to it, in joules, if power was the same in between."""
        return self.energy_J + self.power_W * (time_s - self.time_s)


class GpuCounter:
    """The counter of a GPU.

    Args:
        uuid: UUID of the GPU, as NVML writes it, because NVML's numbers need not be CUDA's.
    """

    def __init__(self, uuid: str) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self.uuid = uuid
        self._handle: Any = pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def read_J(self) -> float:
        """Its value now, up to 0.1 s old."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def power_W(self) -> float:
        """Instantaneous power; on GPUs that do not tell it, the mean of the last second."""
        (field,) = self._nvml.nvmlDeviceGetFieldValues(self._handle, [FIELD_POWER_INSTANT])
        if field.nvmlReturn == self._nvml.NVML_SUCCESS:
            return float(field.value.uiVal) / 1e3
        return float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1e3

    def renewed(self) -> Renewal:
        """Wait until it is renewed.

        Raises:
            RuntimeError: it is not renewed for a second.
        """
        first_J = self.read_J()
        began_s = time.monotonic()
        while (now_J := self.read_J()) == first_J:
            if time.monotonic() - began_s > _LONGEST_S:
                raise RuntimeError(f"the energy counter of {self.uuid} stands still")
        return Renewal(time.monotonic(), now_J, self.power_W())


class ConstantCounter:
    """The counter of a simulated GPU of constant power, which is always up to date.

    Args:
        watts: its power.
    """

    def __init__(self, watts: float) -> None:
        self.uuid, self._watts = "", watts

    def read_J(self) -> float:
        return self._watts * time.monotonic()

    def power_W(self) -> float:
        return self._watts

    def renewed(self) -> Renewal:
        now_s = time.monotonic()
        return Renewal(now_s, self._watts * now_s, self._watts)


Counter = GpuCounter | ConstantCounter


def uuid_of_current_gpu() -> str:
    """UUID of the GPU that torch uses in this process, as NVML writes it."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def off(value: float, truth: float) -> float:
    """By how many per cent a value is above the truth; NaN if there is none."""
    return 100 * (value / truth - 1) if truth else math.nan
