"""Sources of watts, one file each, and `detect()`, which finds those of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pynvml

from energyest.errors import ConfigurationError
from energyest.measure.sensors.base import KINDS, Device, Kind, Reading, Sensor, Source
from energyest.measure.sensors.cpu import CpuModelSensor, RaplSensor
from energyest.measure.sensors.nvml import GpuAddress, NvmlSensor, list_gpus
from energyest.measure.sensors.ram import RamSensor
from energyest.measure.sensors.replay import ReplaySensor
from energyest.measure.sensors.visible import gpus_of_torch, match_gpu, visible_gpus

__all__ = [
    "Detection",
    "Device",
    "Kind",
    "Reading",
    "ReplaySensor",
    "Sensor",
    "Source",
    "check_components",
    "detect",
]


@dataclass(frozen=True)
class Detection(Sequence[Sensor]):
    """The sensors of this machine, as a sequence.

    Attributes:
        sensors: the sensors; close them when done.
        notes: what is missing, and why.
    """

    sensors: tuple[Sensor, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.sensors[index]

    def __len__(self) -> int:
        return len(self.sensors)

    def __iter__(self) -> Iterator[Sensor]:
        return iter(self.sensors)

    def close(self) -> None:
        """Release all sensors."""
        for sensor in self.sensors:
            sensor.close()

    def __str__(self) -> str:
        lines = [
            f"{s.device.device}  {s.device.name}: {s.device.source}, {s.device.method}"
            for s in self.sensors
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def detect(
    gpus: Sequence[int | str] | None = None,
    *,
    components: Sequence[Kind] = ("gpu", "cpu", "ram"),
) -> Detection:
    """The sensors that this machine has. Never raises for what a machine lacks.

    A machine without a GPU, without a driver or without permission to read a counter is an
    ordinary machine; `notes` of the result say what is missing.

    Args:
        gpus: the GPUs to measure: NVML's numbers (nvidia-smi shows them), UUIDs or their
            beginnings, names of MIG devices, PCI bus ids; by default those which torch sees or,
            where torch does not use CUDA yet, `CUDA_VISIBLE_DEVICES` leaves to this process.
            A MIG device's power is not known: its whole GPU is measured.
        components: kinds of sources wanted.

    Raises:
        ConfigurationError: `components` names an unknown kind.
    """
    check_components(components)
    sensors: list[Sensor] = []
    notes: list[str] = []
    if "gpu" in components:
        sensors += _gpu_sensors(gpus, notes)
    if "cpu" in components:
        sensors += _cpu_sensors(notes)
    if "ram" in components:
        sensors.append(RamSensor())
    return Detection(tuple(sensors), tuple(notes))


def check_components(components: Sequence[str]) -> None:
    """Refuse kinds of sources that do not exist."""
    unknown = [kind for kind in components if kind not in KINDS]
    if unknown:
        raise ConfigurationError(f"components={unknown}: known are 'gpu', 'cpu' and 'ram'")


def _gpu_sensors(gpus: Sequence[int | str] | None, notes: list[str]) -> list[Sensor]:
    try:
        present = list_gpus()
    except pynvml.NVMLError as error:
        notes.append(f"no GPU is measured: {error}")
        return []
    wanted = _of_process(present, notes) if gpus is None else _named(present, gpus, notes)
    sensors: list[Sensor] = []
    for gpu in wanted:
        try:
            sensors.append(NvmlSensor(gpu.index))
        except pynvml.NVMLError as error:
            uuid = f" ({gpu.uuid})" if gpu.uuid else ""
            notes.append(f"GPU {gpu.index}{uuid} is not measured: {error}")
    return sensors


def _of_process(present: list[GpuAddress], notes: list[str]) -> list[GpuAddress]:
    if not present:
        notes.append("no GPU is measured: NVML knows none on this machine")
        return []
    wanted = gpus_of_torch(present)
    if wanted is None:
        wanted, doubts = visible_gpus(present, os.environ)
        notes += doubts
    if not wanted:
        notes.append("no GPU is measured: CUDA_VISIBLE_DEVICES leaves none to this process")
    return wanted


def _named(
    present: list[GpuAddress], gpus: Sequence[int | str], notes: list[str]
) -> list[GpuAddress]:
    wanted: list[GpuAddress] = []
    for entry in gpus:
        gpu = match_gpu(present, entry)
        if gpu is None:
            notes.append(
                f"GPU {entry!r} is not measured: NVML knows {len(present)} GPU(s), "
                "and none of that number, UUID or PCI bus id"
            )
        elif gpu not in wanted:
            wanted.append(gpu)
    return wanted


def _cpu_sensors(notes: list[str]) -> list[Sensor]:
    try:
        return [RaplSensor()]
    except (OSError, ValueError) as error:
        notes.append(f"CPU power is modelled, not measured: {error}")
        return [CpuModelSensor()]
