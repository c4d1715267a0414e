"""The devices of a trace, as its meta lists them, and which of them a sum of energies adds up.

A meta may have been written by hand. If an entry does not state its kind, the kind is the prefix
of its name, as in `cpu:0`; without such a prefix, it is a GPU.

A module or a whole node draws what its parts draw, and more. An entry says in `contains` what it
contains: kinds (`gpu` is every GPU of that machine) or names (`gpu:0`). A joule that a whole and
its part both measured is counted once, with the whole (`summed_columns`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Device = dict[str, Any]
#: Kinds of devices with an energy column of their own.
KINDS = ("gpu", "cpu", "ram")
#: Kinds that contain others: a package of several chips, and all that one plug feeds.
WHOLES = ("module", "system")
#: What a `system` contains if it does not say: whatever else is measured of its machine.
IN_A_SYSTEM = (*KINDS, "module")


def devices_of(meta: Mapping[str, Any]) -> list[Device]:
    """The device entries in a trace's meta; values that are not objects are left out."""
    devices = meta.get("devices")
    return [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []


def kind_of(device: Mapping[str, Any]) -> str:
    """The kind of a device: gpu, cpu, ram, or whatever else its entry states."""
    if device.get("kind"):
        return str(device["kind"])
    prefix = str(device.get("device", "")).partition(":")[0]
    return prefix if prefix in (*KINDS, *WHOLES) else "gpu"


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


# ---------------------------------------------------------------------- what contains what


def energy_column(kind: str) -> str:
    """The energy column of a kind of devices."""
    return f"{kind}_energy_J"


def containers(devices: Sequence[Mapping[str, Any]]) -> list[frozenset[int]]:
    """For each device, the places of those that contain it, directly or through others.

    Args:
        devices: the entries. Those of several machines have a `host` each; a device contains only
            devices of its own machine.
    """
    if not any(map(contents_of, devices)):
        return [frozenset()] * len(devices)
    places: defaultdict[tuple[Any, str], list[int]] = defaultdict(list)
    for place, device in enumerate(devices):
        # The name is followed by the rank where several processes are summed.
        name = str(device.get("device", "")).partition("@")[0]
        for key in {kind_of(device), name}:
            places[device.get("host"), key].append(place)
    inside: dict[int, set[int]] = {}
    for place, device in enumerate(devices):
        found = {at for key in contents_of(device) for at in places[device.get("host"), key]}
        if found - {place}:
            inside[place] = found - {place}
    around: list[set[int]] = [set() for _ in devices]
    for whole in inside:
        left, seen = [whole], {whole}
        while left:
            for part in inside.get(left.pop(), set()) - seen:
                seen.add(part)
                left.append(part)
                around[part].add(whole)
    return [frozenset(wholes) for wholes in around]


def contents_of(device: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds and names of what a device contains, whether it is measured or not."""
    stated = device.get("contains")
    if isinstance(stated, list | tuple):
        return tuple(map(str, stated))
    return IN_A_SYSTEM if kind_of(device) == "system" else ()


def summed_columns(devices: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, ...]]:
    """For each energy column, the places of the devices that it adds up.

    A device is left out if another one among those of the column contains it, so that each joule
    counts once. `energy_J` covers all devices, the others those of one kind.
    """
    around = containers(devices)
    kinds = [kind_of(device) for device in devices]
    columns = {"energy_J": _outermost(range(len(devices)), around)}
    for kind in KINDS:
        mine = [place for place, of in enumerate(kinds) if of == kind]
        columns[energy_column(kind)] = _outermost(mine, around)
    return columns


def counted_devices(devices: Sequence[Device]) -> list[Device]:
    """The devices of whose energies the total is the sum."""
    return [devices[place] for place in summed_columns(devices)["energy_J"]]


def contained_names(devices: Sequence[Device]) -> set[str]:
    """Names of the devices whose joules count with another one that contains them."""
    counted = {str(device.get("device")) for device in counted_devices(devices)}
    return {str(device.get("device")) for device in devices} - counted


def unread_devices(meta: Mapping[str, Any], read: Iterable[str]) -> list[Device]:
    """The devices without a reading that make the total of a run that was cut off unknown.

    Args:
        meta: the trace's meta.
        read: the device of each reading.
    """
    if meta.get("status") != "running":
        return []
    names = set(read)
    return [d for d in counted_devices(devices_of(meta)) if d.get("device") not in names]


def _outermost(places: Sequence[int], around: Sequence[frozenset[int]]) -> tuple[int, ...]:
    """Those of the places that none of the others contains.

    Of devices that are said to contain each other, which an edited trace may have, the first.
    """
    if not any(around[place] for place in places):
        return tuple(places)
    among = set(places)
    return tuple(
        place
        for place in places
        if not any(at < place or place not in around[at] for at in around[place] & among)
    )
