"""AMD's GPUs through AMD SMI.

Units, as its documentation states them (rocm.docs.amd.com/projects/amdsmi, Python API): the energy
accumulator counts steps of `counter_resolution` microjoules (15.3 on Instinct GPUs); power is in
whole watts, current on MI300 and later, an average on others; the power cap is in microwatts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from energyest.gpus.table import find_gpu
from energyest.measure.sensors.amd.library import (
    FAILURES,
    STATUS_NO_PERM,
    AmdError,
    call,
    number,
)
from energyest.measure.sensors.amd.visible import visible_gpus
from energyest.measure.sensors.answers import or_nan, or_none
from energyest.measure.sensors.base import Device, Reading
from energyest.measure.sensors.maker import Maker, torch_is_for_amd
from energyest.measure.sensors.nvml import GpuAddress

# How often slow quantities (utilisation, memory in use, temperature) are read.
_SLOW_S = 0.95
# A cap of less is in another unit than microwatts, as of some releases; one of more is none.
_LEAST_CAP_W, _MOST_CAP_W = 5.0, 10_000.0
# Power of the current moment, and averages, by preference.
_CURRENT, _AVERAGES = "current_socket_power", ("average_socket_power", "socket_power")
_TEMPERATURES = ("HOTSPOT", "EDGE")


class AmdSensor:
    """One AMD GPU.

    Args:
        index: AMD SMI's number of the GPU.

    Raises:
        AmdError: no driver, no such GPU, or no permission.
    """

    def __init__(self, index: int) -> None:
        handles = call("amdsmi_get_processor_handles")
        if not 0 <= index < len(handles):
            raise AmdError(f"AMD SMI knows {len(handles)} GPU(s)")
        self._handle = handles[index]
        self._slow_s = -math.inf
        self._power_key = self._find_power()
        self._has_counter = _is_supported(self._counter_J)
        self._slow = {
            name: ask
            for name, ask in (
                ("utilization", self._utilization),
                ("memory_bytes", self._memory_bytes),
                ("temperature_C", self._temperature_C),
            )
            if _is_supported(ask)
        }
        self.device = self._describe(index)
        self._most_W = self.device.most_power_W

    @property
    def tells_energy(self) -> bool:
        """Whether the GPU reports its power or its energy at all."""
        return bool(self._power_key) or self._has_counter

    def read(self, time_s: float) -> Reading:
        """Read power and counter and, once a second, the rest; what fails is NaN, also 0 W."""
        power_W = or_nan(self._power_W, FAILURES) if self._power_key else math.nan
        counter_J = or_nan(self._counter_J, FAILURES) if self._has_counter else math.nan
        values: dict[str, float] = {}
        if time_s >= self._slow_s:
            self._slow_s = time_s + _SLOW_S
            values = {name: or_nan(ask, FAILURES) for name, ask in self._slow.items()}
        return Reading(
            time_s,
            self.device.device,
            power_W=power_W if 0 < power_W <= self._most_W else math.nan,
            energy_J=counter_J,
            **values,
        )

    def close(self) -> None:
        """Nothing is released: others in this process may use the library."""

    def _find_power(self) -> str:
        info = or_none(lambda: call("amdsmi_get_power_info", self._handle), FAILURES)
        if not isinstance(info, dict):
            return ""
        keys = (_CURRENT, *_AVERAGES)
        return next((key for key in keys if number(info.get(key)) > 0), "")

    def _describe(self, index: int) -> Device:
        address = _address(index, self._handle)
        gpu = find_gpu(address.model) if address.model else None
        power = {"": "no power", _CURRENT: "current power"}.get(self._power_key, "average power")
        counter = "energy counter and " if self._has_counter else ""
        whole = "; both dies of the board" if _has_two_dies(address) else ""
        details = {
            "uuid": address.uuid,
            "index": index,
            "pci_bus_id": address.pci_bus_id,
            "driver_version": or_none(
                lambda: str(call("amdsmi_get_gpu_driver_info", self._handle)["driver_version"]),
                FAILURES,
            ),
        }
        return Device(
            device=f"gpu:{index}",
            kind="gpu",
            name=address.model or f"AMD GPU {index}",
            source="measured",
            method=f"AMD SMI, {counter}{power}{whole}",
            power_limit_W=self._limit_W(),
            memory_bytes=or_nan(
                lambda: number(
                    call("amdsmi_get_gpu_memory_total", self._handle, "AmdSmiMemoryType.VRAM")
                ),
                FAILURES,
            ),
            rated_power_W=math.nan if gpu is None else gpu.tdp_W,
            has_instant_power=self._power_key == _CURRENT,
            details={
                name: value for name, value in details.items() if value not in ("", None, "N/A")
            },
        )

    def _limit_W(self) -> float:
        cap_W = or_nan(
            lambda: number(call("amdsmi_get_power_cap_info", self._handle)["power_cap"]) / 1e6,
            FAILURES,
        )
        return cap_W if _LEAST_CAP_W <= cap_W <= _MOST_CAP_W else math.nan

    # Each of these makes one query, and raises one of FAILURES if it fails.

    def _power_W(self) -> float:
        return number(call("amdsmi_get_power_info", self._handle)[self._power_key])

    def _counter_J(self) -> float:
        answer = call("amdsmi_get_energy_count", self._handle)
        # "power" until release 6.2.
        count = answer.get("energy_accumulator", answer.get("power"))
        return _known(number(count) * number(answer["counter_resolution"]) * 1e-6)

    def _utilization(self) -> float:
        return _known(number(call("amdsmi_get_gpu_activity", self._handle)["gfx_activity"]) / 100)

    def _memory_bytes(self) -> float:
        return _known(
            number(call("amdsmi_get_gpu_memory_usage", self._handle, "AmdSmiMemoryType.VRAM"))
        )

    def _temperature_C(self) -> float:
        found = [
            or_nan(functools.partial(_temperature_C, self._handle, k), FAILURES)
            for k in _TEMPERATURES
        ]
        return _known(next((celsius for celsius in found if celsius > 0), math.nan))


def list_gpus() -> list[GpuAddress]:
    """The GPUs of this machine in HIP's order, where AMD SMI knows it; else in its own.

    Raises:
        AmdError: no library, no driver or no permission.
    """
    handles = call("amdsmi_get_processor_handles")
    gpus = [_address(index, handle) for index, handle in enumerate(handles)]
    ids = [or_nan(functools.partial(_hip_id, handle), FAILURES) for handle in handles]
    if sorted(ids) == list(range(len(gpus))):
        gpus = [gpu for _, gpu in sorted(zip(ids, gpus, strict=True), key=lambda one: one[0])]
    return gpus


def _hip_id(handle: Any) -> float:
    return number(call("amdsmi_get_gpu_enumeration_info", handle)["hip_id"])


def _temperature_C(handle: Any, kind: str) -> float:
    arguments = (f"AmdSmiTemperatureType.{kind}", "AmdSmiTemperatureMetric.CURRENT")
    return number(call("amdsmi_get_temp_metric", handle, *arguments))


def _address(index: int, handle: Any) -> GpuAddress:
    uuid = or_none(
        lambda: str(call("amdsmi_get_gpu_enumeration_info", handle)["hip_uuid"]), FAILURES
    )
    other = or_none(lambda: str(call("amdsmi_get_gpu_device_uuid", handle)), FAILURES)
    name = or_none(lambda: str(call("amdsmi_get_gpu_asic_info", handle)["market_name"]), FAILURES)
    return GpuAddress(
        index,
        uuid=next((one for one in (uuid, other) if one not in (None, "", "N/A")), "") or "",
        pci_bus_id=or_none(lambda: str(call("amdsmi_get_gpu_device_bdf", handle)), FAILURES) or "",
        model="" if name in (None, "N/A") else str(name),
    )


def _has_two_dies(gpu: GpuAddress) -> bool:
    # MI250 and MI250X: two GPUs to ROCm on one board, whose power the first one reports.
    return "MI250" in gpu.model


def _read_for(gpu: GpuAddress, present: Sequence[GpuAddress]) -> GpuAddress:
    """The first die of a board, for its second one, which reports no power."""
    if _has_two_dies(gpu) and gpu.index % 2:
        first = next((one for one in present if one.index == gpu.index - 1), gpu)
        return first if first.model == gpu.model else gpu
    return gpu


def _known(value: float) -> float:
    if math.isnan(value):
        raise AmdError("not available", None)
    return value


def _is_supported(ask: Callable[[], float]) -> bool:
    try:
        ask()
    except AmdError as error:
        return not error.is_final and error.code is not None
    except FAILURES:
        return False
    return True


AMD = Maker(
    library="AMD SMI",
    torch_type="cuda",
    variable="ROCR_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES",
    failures=FAILURES,
    list_gpus=list_gpus,
    visible=visible_gpus,
    open_sensor=AmdSensor,
    read_for=_read_for,
    is_forbidden=lambda error: isinstance(error, AmdError) and error.code == STATUS_NO_PERM,
    # Many machines have such a GPU for their screen: it counts if torch can compute on it.
    may_use_gpus=lambda _: bool(torch_is_for_amd()),
)
