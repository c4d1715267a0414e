"""What `energyest doctor` looks at: the driver, the counters, libraries and settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from energyest.measure.sensors import Detection

# Since 2020 root alone may read RAPL's counters (CVE-2020-8694: power tells what others compute).
UDEV_RULE = """\
as root, make a file /etc/udev/rules.d/99-rapl.rules with this line:
SUBSYSTEM=="powercap", ACTION=="add", KERNEL=="intel-rapl:*", RUN+="/bin/chmod a+r /sys%p/energy_uj"
and run: udevadm control --reload && udevadm trigger -s powercap -c add
(on a shared machine, think twice: power tells what others compute);
or let Zeus's daemon read them as root, and set ZEUSD_SOCK_PATH to its socket"""
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")
# What pip is to install for each package, and what it is for; None for what is always needed.
_LIBRARIES = {
    "numpy": (None, ""),
    "pandas": (None, ""),
    "nvidia-ml-py": (None, ""),
    "torch": (None, ""),
    "pytorch-lightning": (None, ""),
    "lightning": ("", "needed only where a training imports lightning"),
    "transformers": ("transformers accelerate", "EnergyCallback"),
    "matplotlib": ("matplotlib", "pictures"),
    "pyarrow": ("pyarrow", "Parquet files"),
}


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        topic: what it is about.
        state: "ok", "note" or "missing".
        text: what was found.
        remedy: how to get what is missing; empty where nothing is.
    """

    topic: str
    state: str
    text: str
    remedy: str = ""


def findings(found: Detection) -> Iterator[Finding]:
    """What is here and what is missing, for what `detect` has found."""
    yield from _driver(found)
    yield from _gpus(found)
    yield from _variables()
    yield _processors(found)
    yield _node()


def libraries() -> dict[str, str | None]:
    """Versions of what is installed, by package; None for what is not."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from energyest import __version__

    found: dict[str, str | None] = {"energyest": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def missing_libraries() -> Iterator[Finding]:
    """Libraries that are not installed, and what for."""
    for name, version in libraries().items():
        if version is not None:
            continue
        packages, purpose = _LIBRARIES[name]
        if packages is None:
            yield Finding("library", "missing", f"{name} is not installed", f"pip install {name}")
        else:
            remedy = f"pip install {packages}" if packages else ""
            yield Finding("library", "note", f"{name} is not installed ({purpose})", remedy)


def settings_in_effect() -> list[dict[str, Any]]:
    """Each setting, its value, and where it stands."""
    from dataclasses import asdict

    from energyest.settings import origins, settings

    where = origins()
    return [
        {"setting": name, "value": value, "from": where.get(name, "default")}
        for name, value in asdict(settings()).items()
    ]


# ---------------------------------------------------------------------- GPUs


def _driver(found: Detection) -> Iterator[Finding]:
    from energyest.measure.sensors.apple import is_apple
    from energyest.measure.sensors.makers import NVIDIA, maker_in_use

    if is_apple():
        yield _apple(found)
    elif maker_in_use() is not NVIDIA:
        yield _other_driver(found)
    else:
        yield from _nvidia_driver()
    for note in found.notes:
        if note.startswith("the module is not measured"):
            yield Finding("module", "note", note)


def _apple(found: Detection) -> Finding:
    told = next((note for note in found.notes if note.startswith("Apple Silicon")), "")
    if told:
        return Finding("Apple Silicon", "missing", told, "pip install energyest[apple]")
    return Finding("Apple Silicon", "ok", "its counters are read")


def _other_driver(found: Detection) -> Finding:
    from energyest.measure.sensors.makers import maker_in_use

    library = maker_in_use().library
    gpus = [device for device in found.devices if device.kind == "gpu"]
    if gpus and not set(found.unread) & {gpu.device for gpu in gpus}:
        version = gpus[0].details.get("driver_version", "")
        return Finding("driver", "ok", f"{library} answers{version and f', driver {version}'}")
    told = next((note for note in found.notes if "GPU" in note), f"{library} shows no GPU")
    remedy = "pip install energyest[amd], as new as the ROCm here" if library == "AMD SMI" else ""
    return Finding("driver", "missing", told, remedy)


def _nvidia_driver() -> Iterator[Finding]:
    from energyest.gpus.driver import (
        ERROR_LIB_RM_VERSION_MISMATCH,
        ERROR_LIBRARY_NOT_FOUND,
        ERROR_NO_PERMISSION,
        NvmlError,
        call,
        connected,
        soon,
        text,
    )

    def ask() -> tuple[str, str]:
        with connected():
            names = ("nvmlSystemGetDriverVersion", "nvmlSystemGetNVMLVersion")
            driver, nvml = (text(call(name)) for name in names)
            return driver, nvml

    try:
        driver, nvml = soon(ask)
    except NvmlError as error:
        remedy = {
            ERROR_LIBRARY_NOT_FOUND: "with an NVIDIA GPU, install its driver; a container\n"
            "needs --gpus all (NVIDIA Container Toolkit)",
            ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated: restart the machine",
            ERROR_NO_PERMISSION: "this user needs access to /dev/nvidia*",
        }.get(error.code or 0, "nvidia-smi should work: if it does not, the driver is at fault")
        yield Finding("driver", "missing", f"NVML does not answer: {error}", remedy)
    else:
        yield Finding("driver", "ok", f"NVIDIA driver {driver}, NVML {nvml}")


def _gpus(found: Detection) -> Iterator[Finding]:
    unread = set(found.unread)
    for device in found.devices:
        if device.kind != "gpu":
            continue
        if device.device in unread:
            text = f"{device.name}: {device.method}"
            if device.device in found.unknown:
                yield Finding(device.device, "missing", text, _LOST)
            else:
                yield Finding(device.device, "note", text, "a device that contains it is measured")
        elif "energy counter" in device.method:
            yield Finding(device.device, "ok", f"{device.name}: read from its energy counter")
        else:
            text = f"{device.name}: it has no energy counter; its power is integrated"
            remedy = "boards from Volta on have one" if "NVML" in device.method else ""
            yield Finding(device.device, "note", text, remedy)
        if device.details.get("shared"):
            text = (
                "MIG is on: the power of a slice is not known, and the whole GPU's is measured, "
                "with what others compute on it"
            )
            yield Finding(device.device, "note", text)
    for loss in found.notes:
        if "CUDA" in loss:
            yield Finding("GPUs", "note", loss)


_LOST = "the energy of a run would not be known (NaN): does nvidia-smi show its power?"


def _variables() -> Iterator[Finding]:
    for name in _VARIABLES:
        if name in os.environ:
            yield Finding("environment", "note", f"{name}={os.environ[name]}")


# ---------------------------------------------------------------------- processors


def _processors(found: Detection) -> Finding:
    from energyest.measure.sensors.kernel.rapl import RAPL_ROOT, energy_files

    device = next((device for device in found.devices if device.kind == "cpu"), None)
    if device is not None and device.source == "measured" and device.device not in found.unread:
        return Finding("processors", "ok", f"{device.name}: {device.method}")
    locked = [str(file) for file in energy_files(RAPL_ROOT) if not os.access(file, os.R_OK)]
    if locked:
        text = f"modelled: this user may not read {locked[0]}"
        return Finding("processors", "missing", text, UDEV_RULE)
    if sys.platform != "linux":
        return Finding("processors", "note", f"modelled: {sys.platform} shows no RAPL counters")
    return Finding(
        "processors",
        "note",
        f"modelled: there is no RAPL counter in {RAPL_ROOT}",
        "virtual machines and many containers hide it; where the machine has it,\n"
        "modprobe intel_rapl_msr loads its driver",
    )


# ---------------------------------------------------------------------- the whole node


def _node() -> Finding:
    from energyest.measure.sensors.external.detect import detect_system

    found = detect_system()
    found.close()
    if found.unread:
        return Finding("whole node", "note", f"{found.devices[0].method}", _NO_NODE)
    text = f"{found.devices[0].method}; it is measured where it is asked for"
    remedy = (
        'EnergyMonitor(components=["gpu", "cpu", "ram", "system"]), or\n'
        "energyest run --components gpu,cpu,ram,system"
    )
    return Finding("whole node", "ok", text, remedy)


_NO_NODE = """\
a server's management controller can tell it: apt install ipmitool, modprobe ipmi_devintf,
and let this user read /dev/ipmi0; a smart plug: energyest.measure.CommandSensor"""
