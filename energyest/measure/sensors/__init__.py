"""Sources of watts, one file each, and `detect()`, which finds the sensors of this machine."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from energyest.errors import ConfigurationError
from energyest.measure.sensors.apple import detect_apple, is_apple
from energyest.measure.sensors.base import KINDS, Device, Kind, Reading, Sensor, Source
from energyest.measure.sensors.cpu import CpuModelSensor
from energyest.measure.sensors.detection import Detection, lost
from energyest.measure.sensors.gpus import detect_gpus
from energyest.measure.sensors.kernel.amd_energy import AmdEnergySensor
from energyest.measure.sensors.kernel.jetson import detect_jetson, is_jetson
from energyest.measure.sensors.kernel.rapl import RaplDramSensor, RaplSensor
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
    """Find the sensors of this machine. Never raises for what a machine lacks.

    A machine without a GPU, a driver, or permission to read a counter is an ordinary machine; the
    `notes` of the result say what is missing. Devices that are asked for or in use but cannot be
    read are in `unmeasured`. A driver that does not answer is waited for at most 1.5 s; its later
    answer is in `late`.

    Args:
        gpus: the GPUs to measure: NVML's numbers (as nvidia-smi shows them), UUIDs or their
            beginnings, names of MIG devices, or PCI bus ids; by default the GPUs that torch sees
            or, if torch does not use CUDA yet, those that `CUDA_VISIBLE_DEVICES` leaves to this
            process. The power of a MIG device is unknown: its whole GPU is measured.
        components: the kinds of sensors wanted: gpu, cpu and ram; module is a package of GPU and
            CPU, such as Grace Hopper's; system is the whole node, where its management controller
            tells its power.

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
    if is_apple():
        is_without_gpu = gpus is not None and len(gpus) == 0
        found = detect_apple([k for k in components if not (k == "gpu" and is_without_gpu)])
        measured = {sensor.device.kind for sensor in found}
        components = [kind for kind in components if kind not in measured]
    if "gpu" in components:
        of_gpus = detect_gpus(gpus)
        found = replace(found + of_gpus, late=of_gpus.late, is_by_use=gpus is None)
    if "module" in components and not is_jetson():
        found += _detect_modules(found if "gpu" in components else None, gpus)
    if "cpu" in components:
        found += _detect_cpu()
    if "ram" in components:
        found += _detect_ram()
    if is_jetson():
        found += detect_jetson(components)
    if "system" in components:
        # Loaded on request: nobody else pays for it.
        from energyest.measure.sensors.external.detect import detect_system  # noqa: PLC0415

        found += detect_system()
    return found


def check_components(components: Sequence[str]) -> None:
    """Refuse unknown kinds of sensors."""
    unknown = [kind for kind in components if kind not in KINDS]
    if unknown:
        names = f"{', '.join(map(repr, KINDS[:-1]))} or {KINDS[-1]!r}"
        raise ConfigurationError(f"components={unknown}: must be {names}")


def _detect_cpu() -> Detection:
    counters = (RaplSensor, AmdEnergySensor, functools.partial(_of_daemon, "cpu"))
    return _first(counters, "CPU", CpuModelSensor, "cpu", "processors")


def _detect_ram() -> Detection:
    counters = (RaplDramSensor, functools.partial(_of_daemon, "ram"))
    found = _first(counters, "RAM", RamSensor, "ram", "memory")
    # Only servers count it: that there is no counter is usual.
    usual = [note for note in found.notes if "processor packages in" in note]
    return replace(found, notes=tuple(note for note in found.notes if note not in usual))


def _detect_modules(known: Detection | None, gpus: Sequence[int | str] | None) -> Detection:
    """The modules of the GPUs that are known, or that would be measured."""
    from energyest.measure.sensors.module import detect_modules  # noqa: PLC0415

    of_gpus = detect_gpus(gpus) if known is None else known
    found = detect_modules(sensor for sensor in of_gpus if sensor.device.kind == "gpu")
    if known is None:
        of_gpus.close()
    return found


def _of_daemon(kind: str) -> Sensor:
    """Zeus's daemon, where the environment names one."""
    if "ZEUSD_SOCK_PATH" not in os.environ:
        raise FileNotFoundError("ZEUSD_SOCK_PATH names no daemon")
    from energyest.measure.sensors.external.zeusd import ZeusdSensor  # noqa: PLC0415

    return ZeusdSensor(kind)


def _first(
    counters: Sequence[Callable[[], Sensor]],
    what: str,
    model: Callable[[], Sensor],
    kind: Kind,
    name: str,
) -> Detection:
    """The first counter that can be read; else the model, with a note that says why.

    A counter that is there and cannot be read is worth more words than one that is not there; of
    several, those of the last one, which stands in for the others.
    """
    notes: list[str] = []
    missing: list[str] = []
    for counter in counters:
        try:
            return Detection((counter(),))
        except FileNotFoundError as error:
            missing.append(f"{what} power is modelled, not measured: {error}")
        except (OSError, ValueError) as error:
            notes.append(f"{what} power is modelled, not measured: {error}")
    return Detection((), tuple((notes or missing[:1])[-1:])) + _opened(model, kind, name)


def _opened(make: Callable[[], Sensor], kind: Kind, name: str) -> Detection:
    """A sensor that may fail to open, as without /proc, or with too many open files."""
    try:
        return Detection((make(),))
    except Exception as error:
        note = f"{kind}:0 ({name}) is not measured: {error}"
        return Detection((), (note,), (lost(kind, f"{kind}:0", name, str(error)),), (note,))
