"""Modules of GPU and CPU, such as Grace Hopper, through NVML.

NVML tells some power fields by scope: 0 is the GPU, 1 the module, with the CPU, its memory and
losses (nvml.h: NVML_POWER_SCOPE_MODULE; "Total Module" in its documentation). Boards without a CPU
do not support it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

from energyest.gpus.driver import (
    FAILURES,
    FIELD_POWER_INSTANT,
    POWER_SCOPE_MODULE,
    NvmlError,
    ask_field,
    call,
)
from energyest.measure.sensors.base import Device, Reading, Sensor
from energyest.measure.sensors.detection import Detection, lost

# More than any module can draw.
_MOST_W = 10_000.0


class ModuleSensor:
    """One module, with its GPU, CPU and memory.

    Args:
        index: NVML's number of its GPU.
        contains: the devices in it.

    Raises:
        NvmlError: no driver, no such GPU, or no module.
    """

    def __init__(self, index: int, contains: tuple[str, ...]) -> None:
        call("nvmlInit")
        self._open = True
        try:
            handle = call("nvmlDeviceGetHandleByIndex", index)
            self._ask = ask_field(handle, FIELD_POWER_INSTANT, POWER_SCOPE_MODULE)
            self._power_W()
        except BaseException:
            self.close()
            raise
        self.device = Device(
            device=f"module:{index}",
            kind="module",
            name=f"module of GPU {index}",
            source="measured",
            method="NVML, instant power of the module",
            contains=contains,
            has_instant_power=True,
        )

    def read(self, time_s: float) -> Reading:
        """Read the power; NaN if it fails, or is 0 W or absurd."""
        try:
            power_W = self._power_W()
        except FAILURES:
            power_W = math.nan
        is_possible = 0 < power_W <= _MOST_W
        return Reading(time_s, self.device.device, power_W=power_W if is_possible else math.nan)

    def close(self) -> None:
        """Release NVML; a second call does nothing."""
        if self._open:
            self._open = False
            with contextlib.suppress(NvmlError):  # it is gone, or others shut it down
                call("nvmlShutdown")

    def _power_W(self) -> float:
        field = self._ask()
        if field.nvmlReturn:
            raise NvmlError("no power of a module", field.nvmlReturn)
        return float(field.value.uiVal) / 1e3


def detect_modules(gpus: Iterable[Sensor]) -> Detection:
    """The modules of these GPUs; each contains its GPU, and the first also CPU and memory.

    The processors and the memory of the machine are one device each, and lie in its modules: their
    sum contains them, once.

    Args:
        gpus: the sensors of the GPUs.
    """
    found = Detection(())
    reason = "no GPU is measured"
    for sensor in gpus:
        index = sensor.device.details.get("index")
        inside = (sensor.device.device, *(() if found.sensors else ("cpu", "ram")))
        try:
            found += [ModuleSensor(int(str(index)), inside)]
        except FAILURES as error:
            reason = f"NVML tells no power of a module: {error}"
    if found.sensors:
        return found
    note = f"module:0 is not measured: {reason}"
    return Detection((), (note,), (lost("module", "module:0", "module", reason),), (note,))
