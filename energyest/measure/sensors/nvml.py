"""NVIDIA GPUs through NVML."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from energyest.gpus.driver import (
    CLOCK_SM,
    FAILURES,
    FIELD_POWER_INSTANT,
    MIG_ENABLED,
    TEMPERATURE_GPU,
    NvmlError,
    ask_field,
    call,
    connected,
    text,
)
from energyest.gpus.table import find_gpu, known_gpus
from energyest.measure.sensors.answers import or_nan, or_none
from energyest.measure.sensors.base import Device, Reading

# Some drivers return all ones if there is no limit: a limit above this is not one.
_MOST_LIMIT_W = 10_000.0
# How often slow quantities (utilisation, memory in use, temperature) are read.
_SLOW_S = 1.95


@dataclass(frozen=True)
class GpuAddress:
    """The identity of a GPU on this machine; what cannot be read is empty, or 0.

    Attributes:
        index: NVML's number.
        uuid: such as `GPU-8d3f1b62-...`.
        pci_bus_id: domain, bus, device and function, such as `00000000:19:00.0`.
        mig: UUIDs of the MIG devices into which it is divided; None if MIG is off.
        model: product name.
        speed: cores × highest clock in MHz, for comparison with other GPUs of this machine.
    """

    index: int
    uuid: str = ""
    pci_bus_id: str = ""
    mig: tuple[str, ...] | None = None
    model: str = ""
    speed: float = 0.0

    @property
    def name(self) -> str:
        """The name by which `detect(gpus=[...])` finds this GPU."""
        return self.uuid or self.pci_bus_id or str(self.index)


class NvmlSensor:
    """One NVIDIA GPU.

    Power is instantaneous if the board supports that, else NVML's own average (over one second on
    recent generations). Each quantity is tried once at the start; quantities that the board does
    not support are not read again.

    Reading power takes microseconds of CPU time; reading the energy counter takes milliseconds.

    Args:
        index: NVML's number of the GPU.

    Raises:
        NvmlError: no driver, no such GPU, or no permission.
    """

    def __init__(self, index: int) -> None:
        call("nvmlInit")
        self._open = True
        self._lacks_counter = self._lacks_power = False
        self._slow_s = -math.inf
        try:
            self._handle = call("nvmlDeviceGetHandleByIndex", index)
            self._ask_instant = ask_field(self._handle, FIELD_POWER_INSTANT)
            self._slow_questions = self._probe()
            self._ask_power = self._slow_questions.pop("power_W", None)
            self._ask_counter = self._slow_questions.pop("energy_J", None)
            self._lacks_power = self._ask_power is None
            self.device = self._describe(index)
            self._name, self._most_power_W = self.device.device, self.device.most_power_W
        except BaseException:
            self.close()
            raise

    @property
    def tells_energy(self) -> bool:
        """Whether the board reports its power or its energy at all."""
        return self._ask_power is not None or self._ask_counter is not None

    def read(self, time_s: float) -> Reading:
        """Read every supported quantity; one that fails is NaN.

        Power of 0 W or far above the limit is NaN too: a board that responds draws power.
        """
        return self._with_counter(self._ask(time_s))

    def read_often(self, time_s: float) -> Reading:
        """Read the power and, every two seconds, the slow quantities.

        The counter is read only if its last reading failed, or if it must replace power, which has
        failed twice in a row.
        """
        is_due = time_s >= self._slow_s
        reading = self._ask(time_s) if is_due else Reading(time_s, self._name, self._power_W())
        lacked_power, self._lacks_power = self._lacks_power, math.isnan(reading.power_W)
        needs_counter = self._lacks_counter or (lacked_power and self._lacks_power)
        return self._with_counter(reading) if needs_counter else reading

    def close(self) -> None:
        """Release NVML; a second call does nothing."""
        if not self._open:
            return  # NVML counts its users: a second shutdown would take away another user's
        self._open = False
        # If the library is gone, or others shut it down, there is nothing left to release.
        with contextlib.suppress(NvmlError):
            call("nvmlShutdown")

    def _ask(self, time_s: float) -> Reading:
        """Read everything except the counter."""
        self._slow_s = time_s + _SLOW_S
        values = {}
        for quantity, ask in self._slow_questions.items():
            try:
                values[quantity] = ask()
            except FAILURES:
                values[quantity] = math.nan
        return Reading(time_s, self._name, self._power_W(), **values)

    def _with_counter(self, reading: Reading) -> Reading:
        if self._ask_counter is None:
            return reading
        try:
            counter_J = self._ask_counter()
        except FAILURES:
            counter_J = math.nan
        self._lacks_counter = math.isnan(counter_J)
        return reading._replace(energy_J=counter_J)

    def _power_W(self) -> float:
        """Watts; NaN if the board does not report power, or reports an impossible value."""
        if self._ask_power is None:
            return math.nan
        try:
            power_W = self._ask_power()
        except FAILURES:
            return math.nan
        return power_W if 0 < power_W <= self._most_power_W else math.nan

    def _probe(self) -> dict[str, Callable[[], float]]:
        candidates = {
            "power_W": self._instant_W,
            "energy_J": self._counter_J,
            "utilization": self._utilization,
            "memory_bytes": self._memory_bytes,
            "temperature_C": self._temperature_C,
        }
        questions = {q: ask for q, ask in candidates.items() if _is_supported(ask)}
        if "power_W" not in questions and _is_supported(self._average_W):
            questions["power_W"] = self._average_W
        return questions

    def _describe(self, index: int) -> Device:
        handle = self._handle
        is_instant = self._ask_power == self._instant_W
        if is_instant:
            power = "instant power"
        else:
            power = "no power" if self._ask_power is None else "average power"
        counter = "" if self._ask_counter is None else "energy counter and "
        mig = _mig_devices(handle)
        whole = "" if mig is None else "; of the whole GPU, whose other MIG devices may share it"
        name = or_none(lambda: _name(handle), FAILURES)
        details = {
            "uuid": or_none(lambda: _uuid(handle), FAILURES),
            "index": index,
            "pci_bus_id": or_none(lambda: _pci_bus_id(handle), FAILURES),
            "driver_version": or_none(lambda: text(call("nvmlSystemGetDriverVersion")), FAILURES),
            "mig": None if mig is None else list(mig),
            "shared": None if mig is None else True,
        }
        return Device(
            device=f"gpu:{index}",
            kind="gpu",
            name=name or f"GPU {index}",
            source="measured",
            method=f"NVML, {counter}{power}{whole}",
            power_limit_W=_limit_W(handle),
            memory_bytes=or_nan(lambda: call("nvmlDeviceGetMemoryInfo", handle).total, FAILURES),
            rated_power_W=_rated_power_W(name or ""),
            has_instant_power=is_instant,
            details={name: value for name, value in details.items() if value is not None},
        )

    # Each of these makes one query to the driver, and raises NvmlError if it fails.

    def _instant_W(self) -> float:
        field = self._ask_instant()
        if field.nvmlReturn:
            raise NvmlError("no instant power", field.nvmlReturn)
        return float(field.value.uiVal) / 1e3

    def _average_W(self) -> float:
        return float(call("nvmlDeviceGetPowerUsage", self._handle)) / 1e3

    def _counter_J(self) -> float:
        return float(call("nvmlDeviceGetTotalEnergyConsumption", self._handle)) / 1e3

    def _utilization(self) -> float:
        return float(call("nvmlDeviceGetUtilizationRates", self._handle).gpu) / 100

    def _memory_bytes(self) -> float:
        return float(call("nvmlDeviceGetMemoryInfo", self._handle).used)

    def _temperature_C(self) -> float:
        return float(call("nvmlDeviceGetTemperature", self._handle, TEMPERATURE_GPU))


def list_gpus() -> list[GpuAddress]:
    """The GPUs of this machine, in NVML's order (the order of the PCI bus).

    Raises:
        NvmlError: no driver or no permission.
    """
    with connected():
        return [_address(index) for index in range(call("nvmlDeviceGetCount"))]


def _address(index: int) -> GpuAddress:
    try:
        handle = call("nvmlDeviceGetHandleByIndex", index)
    except FAILURES:
        return GpuAddress(index)  # a lost GPU, or another user's: its sensor will say why
    return GpuAddress(
        index,
        uuid=or_none(lambda: _uuid(handle), FAILURES) or "",
        pci_bus_id=or_none(lambda: _pci_bus_id(handle), FAILURES) or "",
        mig=_mig_devices(handle),
        model=or_none(lambda: _name(handle), FAILURES) or "",
        speed=or_none(lambda: _speed(handle), FAILURES) or 0.0,
    )


def _mig_devices(handle: Any) -> tuple[str, ...] | None:
    """UUIDs of the MIG devices on a GPU; None if MIG is off or not supported."""
    uuids = []
    try:
        if call("nvmlDeviceGetMigMode", handle)[0] != MIG_ENABLED:
            return None
    except FAILURES:
        return None
    with contextlib.suppress(*FAILURES):  # a GPU can be measured without them
        for number in range(call("nvmlDeviceGetMaxMigDeviceCount", handle)):
            with contextlib.suppress(*FAILURES):  # there is none with that number, or not for us
                uuids.append(_uuid(call("nvmlDeviceGetMigDeviceHandleByIndex", handle, number)))
    return tuple(uuids)


def _limit_W(handle: Any) -> float:
    """The enforced power limit; NaN if the board's value is impossible."""
    limit_W = or_nan(lambda: call("nvmlDeviceGetEnforcedPowerLimit", handle) / 1e3, FAILURES)
    return limit_W if 0 < limit_W <= _MOST_LIMIT_W else math.nan


def _rated_power_W(name: str) -> float:
    """The rated power of a board by its name; if unknown, the highest of any known board."""
    try:
        gpu = find_gpu(name)
        if gpu is not None and gpu.tdp_W > 0:
            return gpu.tdp_W
        return max(gpu.tdp_W for gpu in known_gpus() if gpu.tdp_W > 0)
    except OSError:  # the table is a file
        return math.nan


def _name(handle: Any) -> str:
    return text(call("nvmlDeviceGetName", handle))


def _uuid(handle: Any) -> str:
    return text(call("nvmlDeviceGetUUID", handle))


def _pci_bus_id(handle: Any) -> str:
    return text(call("nvmlDeviceGetPciInfo", handle).busId)


def _speed(handle: Any) -> float:
    clock_MHz = call("nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM)
    return float(call("nvmlDeviceGetNumGpuCores", handle) * clock_MHz)


def _is_supported(ask: Callable[[], float]) -> bool:
    try:
        ask()
    except FAILURES as error:
        return isinstance(error, NvmlError) and not error.is_final
    return True
