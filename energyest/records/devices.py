"""The devices of a trace, as its meta lists them.

A meta may have been written by hand. If an entry does not state its kind, the kind is the prefix
of its name, as in `cpu:0`; without such a prefix, it is a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Device = dict[str, Any]
KINDS = ("gpu", "cpu", "ram")


def devices_of(meta: Mapping[str, Any]) -> list[Device]:
    """The device entries in a trace's meta; values that are not objects are left out."""
    devices = meta.get("devices")
    return [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []


def kind_of(device: Mapping[str, Any]) -> str:
    """The kind of a device: gpu, cpu, ram, or whatever else its entry states."""
    if device.get("kind"):
        return str(device["kind"])
    prefix = str(device.get("device", "")).partition(":")[0]
    return prefix if prefix in (*KINDS, "system") else "gpu"


def of_kind(devices: Iterable[Device], *kinds: str) -> list[Device]:
    """The devices of these kinds, in order."""
    return [device for device in devices if kind_of(device) in kinds]


def gpus_of(devices: Iterable[Device]) -> list[Device]:
    """The GPUs, in order."""
    return of_kind(devices, "gpu")


def accelerators_of(devices: Iterable[Device]) -> list[Device]:
    """The devices that the training ran on: the GPUs or, if there are none, the CPUs."""
    every = list(devices)
    return gpus_of(every) or of_kind(every, "cpu")


def name_of(device: Mapping[str, Any]) -> str:
    """The product name or, if unknown, the device's own name."""
    return str(device.get("name") or device.get("device") or kind_of(device))


def counts_by_name(devices: Iterable[Device]) -> dict[str, int]:
    """The number of devices of each name, in order."""
    return dict(Counter(map(name_of, devices)))


def names_with_counts(devices: Iterable[Device]) -> list[str]:
    """Each name once, with its count, such as "2 x NVIDIA A40"."""
    counts = counts_by_name(devices)
    return [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]


def rows_of_devices(device: NDArray[Any]) -> dict[str, NDArray[np.intp]]:
    """The row numbers of each device, in order, found in one pass for any number of devices."""
    if not len(device):
        return {}
    numbers: dict[str, int] = {}
    of_row = np.array([numbers.setdefault(name, len(numbers)) for name in device])
    order = np.argsort(of_row, kind="stable")
    ends = np.cumsum(np.bincount(of_row))[:-1]
    return dict(zip(numbers, np.split(order, ends), strict=True))
