"""A simulated `amdsmi`, the Python module of AMD SMI, for machines without an AMD GPU.

Its functions take and return what those of release 7.0 do (amdsmi_interface.py): power in whole
watts, or "N/A"; an accumulator that counts steps of 15.259 microjoules; a power cap in microwatts;
errors that carry AMD SMI's number as `err_code`. Each GPU draws a power that the test sets, and its
accumulator integrates it by the test's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType
from typing import Any

RESOLUTION_uJ = 15.259
NO_PERM, NOT_SUPPORTED, NOT_INIT, BUSY, UNKNOWN = 10, 2, 32, 30, 4294967295
_NAMES = {
    NO_PERM: "AMDSMI_STATUS_NO_PERM - Permission Denied",
    NOT_SUPPORTED: "AMDSMI_STATUS_NOT_SUPPORTED - Feature not supported",
    NOT_INIT: "AMDSMI_STATUS_NOT_INIT - Device not initialized",
    BUSY: "AMDSMI_STATUS_BUSY - Device busy",
}


class AmdSmiTemperatureType(IntEnum):
    """As in the module."""

    EDGE = 0
    HOTSPOT = 1


class AmdSmiTemperatureMetric(IntEnum):
    """As in the module."""

    CURRENT = 0


class AmdSmiMemoryType(IntEnum):
    """As in the module."""

    VRAM = 0
    GTT = 2


class AmdSmiLibraryException(Exception):  # noqa: N818  (its name in the module)
    """As in the module: the library answered with an error."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = err_code
        self.err_info = _NAMES.get(err_code, "AMDSMI_STATUS_UNKNOWN_ERROR")


@dataclass
class Gpu:
    """One GPU.

    Attributes:
        name: market name.
        uuid: HIP's UUID.
        bdf: domain, bus, device and function.
        power_W: what it draws.
        hip_id: HIP's number; "N/A" if the driver does not say.
        shows: keys of `amdsmi_get_power_info` that have a value; the others are "N/A".
        said_W: what it says that it draws, if something else.
        cap_uW: the power cap.
        counter: steps of the accumulator at the start.
        faults: function -> number of the error with which it fails.
    """

    name: str = "AMD Instinct MI300X OAM"
    uuid: str = "GPU-1a2b3c4d5e6f7081"
    bdf: str = "0000:05:00.0"
    power_W: float = 300.0
    hip_id: int | str = "N/A"
    shows: tuple[str, ...] = ("current_socket_power", "socket_power")
    said_W: Any = None
    cap_uW: int = 750_000_000
    counter: float = 4_000_000_000.0
    faults: dict[str, int] = field(default_factory=dict)
    counted_s: float = 0.0


class FakeAmdSmi:
    """The simulated library; `module` is what `import amdsmi` has to find.

    Args:
        gpus: the GPUs, in the library's order.
        clock: the clock by which accumulators run.
    """

    def __init__(self, *gpus: Gpu, clock: Callable[[], float] = time.monotonic) -> None:
        self.gpus = list(gpus) or [Gpu()]
        self.clock = clock
        self.is_initialised = False
        for gpu in self.gpus:
            gpu.counted_s = clock()

    def module(self) -> ModuleType:
        """The module."""
        module = ModuleType("amdsmi")
        for name in dir(self):
            if name.startswith("amdsmi_"):
                setattr(module, name, getattr(self, name))
        for kind in (
            AmdSmiLibraryException,
            AmdSmiTemperatureType,
            AmdSmiTemperatureMetric,
            AmdSmiMemoryType,
        ):
            setattr(module, kind.__name__, kind)
        return module

    # ------------------------------------------------------------------ its functions

    def amdsmi_init(self, flag: int = 2) -> None:
        self.is_initialised = True

    def amdsmi_get_processor_handles(self) -> list[Gpu]:
        if not self.is_initialised:
            raise AmdSmiLibraryException(NOT_INIT)
        return list(self.gpus)

    def amdsmi_get_power_info(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_power_info", handle)
        keys = ("socket_power", "current_socket_power", "average_socket_power")
        watts = round(handle.power_W) if handle.said_W is None else handle.said_W
        values = {key: watts if key in handle.shows else "N/A" for key in keys}
        return {**values, "gfx_voltage": "N/A", "power_limit": 750}

    def amdsmi_get_energy_count(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_energy_count", handle)
        self._count(handle)
        return {
            "energy_accumulator": int(handle.counter),
            "counter_resolution": RESOLUTION_uJ,
            "timestamp": int(self.clock() * 1e9),
        }

    def amdsmi_get_power_cap_info(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_power_cap_info", handle)
        return {"power_cap": handle.cap_uW, "default_power_cap": 750_000_000}

    def amdsmi_get_gpu_asic_info(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_gpu_asic_info", handle)
        return {"market_name": handle.name, "vendor_id": "0x1002"}

    def amdsmi_get_gpu_device_bdf(self, handle: Gpu) -> str:
        self._check("amdsmi_get_gpu_device_bdf", handle)
        return handle.bdf

    def amdsmi_get_gpu_device_uuid(self, handle: Gpu) -> str:
        self._check("amdsmi_get_gpu_device_uuid", handle)
        return "ff" + handle.uuid[4:10] + "-0000-1000-80ff-ffffffffffff"

    def amdsmi_get_gpu_enumeration_info(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_gpu_enumeration_info", handle)
        return {"hip_id": handle.hip_id, "hip_uuid": handle.uuid, "drm_card": 0}

    def amdsmi_get_gpu_driver_info(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_gpu_driver_info", handle)
        return {"driver_name": "amdgpu", "driver_version": "6.14.14"}

    def amdsmi_get_gpu_activity(self, handle: Gpu) -> dict[str, Any]:
        self._check("amdsmi_get_gpu_activity", handle)
        return {"gfx_activity": 87, "umc_activity": 12, "mm_activity": "N/A"}

    def amdsmi_get_gpu_memory_total(self, handle: Gpu, kind: AmdSmiMemoryType) -> int:
        self._check("amdsmi_get_gpu_memory_total", handle)
        return 192 * 2**30 if kind is AmdSmiMemoryType.VRAM else 0

    def amdsmi_get_gpu_memory_usage(self, handle: Gpu, kind: AmdSmiMemoryType) -> int:
        self._check("amdsmi_get_gpu_memory_usage", handle)
        return 40 * 2**30 if kind is AmdSmiMemoryType.VRAM else 0

    def amdsmi_get_temp_metric(
        self, handle: Gpu, kind: AmdSmiTemperatureType, metric: AmdSmiTemperatureMetric
    ) -> int:
        self._check("amdsmi_get_temp_metric", handle)
        if kind is AmdSmiTemperatureType.EDGE:  # Instinct GPUs have none
            raise AmdSmiLibraryException(NOT_SUPPORTED)
        return 61

    def _check(self, function: str, handle: Gpu) -> None:
        if function in handle.faults:
            raise AmdSmiLibraryException(handle.faults[function])

    def _count(self, gpu: Gpu) -> None:
        now_s = self.clock()
        gpu.counter += gpu.power_W * (now_s - gpu.counted_s) / (RESOLUTION_uJ * 1e-6)
        gpu.counted_s = now_s
