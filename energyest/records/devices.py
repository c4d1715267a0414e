"""Which devices does a trace have? The one answer, from what its meta says of them.

A meta may have been written by hand: an entry that does not say what kind it is of is of the kind
that its name begins with, as in `cpu:0`, and else a GPU.
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
    """The entries of a trace's meta; what is no entry is left out."""
    devices = meta.get("devices")
    return [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []


def kind_of(device: Mapping[str, Any]) -> str:
    """What a device is: gpu, cpu, ram, or whatever else its entry says."""
    if device.get("kind"):
        return str(device["kind"])
    prefix = str(device.get("device", "")).partition(":")[0]
    return prefix if prefix in (*KINDS, "system") else "gpu"


def of_kind(devices: Iterable[Device], *kinds: str) -> list[Device]:
    """The devices of these kinds, in their order."""
    return [device for device in devices if kind_of(device) in kinds]


def gpus_of(devices: Iterable[Device]) -> list[Device]:
    """The GPUs, in their order."""
    return of_kind(devices, "gpu")


def accelerators_of(devices: Iterable[Device]) -> list[Device]:
    """What the training ran on: the GPUs or, where there is none, the processors."""
    every = list(devices)
    return gpus_of(every) or of_kind(every, "cpu")


def name_of(device: Mapping[str, Any]) -> str:
    """The product's name or, where that is not known, the device's own."""
    return str(device.get("name") or device.get("device") or kind_of(device))


def counts_by_name(devices: Iterable[Device]) -> dict[str, int]:
    """How many there are of each name, in their order."""
    return dict(Counter(map(name_of, devices)))


def names_with_counts(devices: Iterable[Device]) -> list[str]:
    """Their names, such as "2 x NVIDIA A40", each once."""
    counts = counts_by_name(devices)
    return [name if count == 1 else f"{count} x {name}" for name, count in counts.items()]


def rows_of_devices(device: NDArray[Any]) -> dict[str, NDArray[np.intp]]:
    """The rows of each device, in their order; at once, however many devices there are."""
    if not len(device):
        return {}
    numbers: dict[str, int] = {}
    of_row = np.array([numbers.setdefault(name, len(numbers)) for name in device])
    order = np.argsort(of_row, kind="stable")
    ends = np.cumsum(np.bincount(of_row))[:-1]
    return dict(zip(numbers, np.split(order, ends), strict=True))
