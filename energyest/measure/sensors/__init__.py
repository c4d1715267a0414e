"""Sources of watts, one file each, and `detect()`, which finds those of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from energyest.errors import ConfigurationError
from energyest.measure.sensors.base import KINDS, Device, Kind, Reading, Sensor, Source
from energyest.measure.sensors.cpu import CpuModelSensor, RaplSensor
from energyest.measure.sensors.detection import Detection, lost
from energyest.measure.sensors.gpus import detect_gpus
from energyest.measure.sensors.ram import RamSensor
from energyest.measure.sensors.replay import ReplaySensor

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


def detect(
    gpus: Sequence[int | str] | None = None,
    *,
    components: Sequence[Kind] = ("gpu", "cpu", "ram"),
) -> Detection:
    """The sensors that this machine has. Never raises for what a machine lacks.

    A machine without a GPU, without a driver or without permission to read a counter is an
    ordinary machine; `notes` of the result say what is missing. What is asked for or in use and
    cannot be read is in `unmeasured`. A driver that does not answer is waited for no longer than
    1.5 s; what it says afterwards is in `late`.

    Args:
        gpus: the GPUs to measure: NVML's numbers (nvidia-smi shows them), UUIDs or their
            beginnings, names of MIG devices, PCI bus ids; by default those which torch sees or,
            where torch does not use CUDA yet, `CUDA_VISIBLE_DEVICES` leaves to this process.
            A MIG device's power is not known: its whole GPU is measured.
        components: kinds of sources wanted.

    Raises:
        ConfigurationError: `components` names an unknown kind.

    Examples:
        >>> from energyest import detect
        >>> found = detect()  # print(found) says what is measured, and what is missing and why
        >>> any(device.kind == 'ram' for device in found.devices)
        True
        >>> found.close()
    """
    check_components(components)
    found = Detection(())
    if "gpu" in components:
        of_gpus = detect_gpus(gpus)
        found = replace(found + of_gpus, late=of_gpus.late, is_by_use=gpus is None)
    if "cpu" in components:
        found += _detect_cpu()
    if "ram" in components:
        found += _opened(RamSensor, "ram", "memory")
    return found


def check_components(components: Sequence[str]) -> None:
    """Refuse kinds of sources that do not exist."""
    unknown = [kind for kind in components if kind not in KINDS]
    if unknown:
        raise ConfigurationError(f"components={unknown}: known are 'gpu', 'cpu' and 'ram'")


def _detect_cpu() -> Detection:
    try:
        return Detection((RaplSensor(),))
    except (OSError, ValueError) as error:
        note = f"CPU power is modelled, not measured: {error}"
        return Detection((), (note,)) + _opened(CpuModelSensor, "cpu", "processors")


def _opened(make: Callable[[], Sensor], kind: Kind, name: str) -> Detection:
    """A sensor of this machine, whose system may tell nothing: without /proc, or out of files."""
    try:
        return Detection((make(),))
    except Exception as error:
        note = f"{kind}:0 ({name}) is not measured: {error}"
        return Detection((), (note,), (lost(kind, f"{kind}:0", name, str(error)),), (note,))
