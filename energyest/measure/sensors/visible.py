"""The GPUs of a machine that this process uses, by CUDA's rules.

The rules of `CUDA_VISIBLE_DEVICES` follow the CUDA programming guide ("CUDA Environment
Variables"), the MIG user guide ("CUDA Device Enumeration") and, where these are silent, the
behaviour of an H100's driver (CUDA 13.0). A number ends where strtol ends it, the hexadecimal
digits of a UUID may be of either case but its prefix may not, and text after a whole UUID is
ignored.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

from energyest.measure.sensors.nvml import GpuAddress

_NUMBER = re.compile(r"\s*([+-]?\d+)", re.ASCII)
# Form of drivers before 470: UUID of the GPU, numbers of GPU instance and compute instance.
_OLD_MIG = re.compile(r"mig-(gpu-[^/]+)/\d+/\d+")
_PCI_BUS_ID = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.[0-7]", re.IGNORECASE)


class Visible(NamedTuple):
    """The GPUs that CUDA shows to a process, in its order, and notes on doubts about them."""

    gpus: list[GpuAddress]
    notes: list[str]


def visible_gpus(gpus: Sequence[GpuAddress], environment: Mapping[str, str]) -> Visible:
    """The GPUs that CUDA will show to a process with this environment.

    `CUDA_VISIBLE_DEVICES` is a list of numbers, of GPU UUIDs, or of MIG device names; the first
    entry decides which. UUIDs may be abbreviated. The list is read up to the first entry that names
    no GPU; a duplicate before that makes the whole list void. Numbers follow the order of the PCI
    bus, which is NVML's, if all GPUs are alike or `CUDA_DEVICE_ORDER=PCI_BUS_ID`; otherwise they
    run from the fastest GPU to the slowest, which is estimated here.

    CUDA gives a process a single MIG device and no GPU besides it. So if any of the listed GPUs (or
    of all GPUs, if the variable is not set) has MIG devices, only the first such GPU is left.

    Args:
        gpus: all GPUs of the machine, in NVML's order.
        environment: the process's variables.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    numbered = list(gpus)
    is_estimate = environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and _are_unlike(gpus)
    if is_estimate:
        numbered.sort(key=lambda gpu: -gpu.speed)  # equal ones stay in NVML's order
    chosen = numbered if listed is None else _read_list(numbered, listed)
    sliced = [gpu for gpu in chosen if gpu.mig]
    notes = []
    is_by_number = listed is None or not _is_by_name(listed)
    if is_by_number and is_estimate and (0 < len(chosen) < len(gpus) or len(sliced) > 1):
        notes.append(
            "the GPUs are not alike, and the order in which CUDA numbers them is an estimate: set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID, or UUIDs in CUDA_VISIBLE_DEVICES, to be sure"
        )
    if sliced and len(set(chosen)) > 1:
        notes.append(
            f"only GPU {sliced[0].index} is measured: it is in MIG mode, and CUDA shows a process "
            "one MIG device and no other GPU"
        )
    return Visible(sliced[:1] or chosen, notes)


def gpus_of_torch(gpus: Sequence[GpuAddress]) -> list[GpuAddress] | None:
    """The GPUs that torch sees, in its order; None if torch does not use CUDA (yet).

    Also None if one of them cannot be identified, with a torch that gives neither UUID nor PCI bus.

    Environment variables may have changed since CUDA read them; CUDA's answer has not. So this
    calls the functions behind torch's public ones: the public functions consult the variables at
    their first call, and cache the result.
    """
    torch = sys.modules.get("torch")  # not imported here: a training with torch has imported it
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        devices = range(torch._C._cuda_getDeviceCount())
        found = [gpu_of_torch(gpus, torch.cuda._get_device_properties(i)) for i in devices]
    except (AttributeError, RuntimeError):  # another torch, half imported, or CUDA failed
        return None
    seen = dict.fromkeys(gpu for gpu in found if gpu is not None)
    return None if None in found else list(seen)


def gpu_of_torch(gpus: Sequence[GpuAddress], properties: Any) -> GpuAddress | None:
    """The GPU for the result of `torch.cuda.get_device_properties`; None if not identified.

    A MIG device has a UUID of its own; torch gives UUIDs without their prefix. If NVML does not
    know the UUID, the PCI bus id, which is that of the whole GPU, identifies it.
    """
    uuid = getattr(properties, "uuid", None)
    for gpu in gpus if uuid is not None else ():
        if str(uuid).lower() in (name[4:].lower() for name in (gpu.uuid, *(gpu.mig or ()))):
            return gpu
    try:
        place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
    except AttributeError:  # an older torch
        return None
    return _at_pci(gpus, place)


def match_gpu(gpus: Sequence[GpuAddress], entry: object) -> GpuAddress | None:
    """The GPU that a user means by `entry`; None if there is none, or more than one.

    Args:
        gpus: all GPUs of the machine.
        entry: NVML's number, as nvidia-smi shows it; a UUID or the beginning of one; the name of a
            MIG device, which stands for its GPU; or a PCI bus id, such as `0000:19:00.0`.
    """
    if isinstance(entry, bool) or not isinstance(entry, (Integral, str)):
        return None
    text = str(entry).strip()
    if text.isdecimal():
        return next((gpu for gpu in gpus if gpu.index == int(text)), None)
    pci = _PCI_BUS_ID.fullmatch(text)
    if pci:
        return _at_pci(gpus, _place(pci))
    found = _find_name(gpus, text)
    return None if found is None else found.gpu


class _Found(NamedTuple):
    uuid: str  # of the GPU or of a MIG device on it
    gpu: GpuAddress


def _read_list(numbered: Sequence[GpuAddress], listed: str) -> list[GpuAddress]:
    """The GPUs in `CUDA_VISIBLE_DEVICES`; a GPU is repeated for each of its MIG devices listed."""
    chosen: list[_Found] = []
    for entry in listed.split(","):
        if not _is_by_name(listed):
            found = _find_number(numbered, entry)
        else:
            found = _find_name(numbered, entry) if entry.startswith(listed[:4]) else None
        if found is None:
            break
        if found in chosen:
            return []
        chosen.append(found)
    return [found.gpu for found in chosen]


def _is_by_name(listed: str) -> bool:
    return listed.startswith(("GPU-", "MIG-"))


def _find_number(numbered: Sequence[GpuAddress], entry: str) -> _Found | None:
    number = _NUMBER.match(entry)
    if number is None or not 0 <= int(number[1]) < len(numbered):
        return None
    gpu = numbered[int(number[1])]
    return _Found(gpu.uuid, gpu)


def _find_name(gpus: Sequence[GpuAddress], name: str) -> _Found | None:
    name = name.lower()
    old_mig = _OLD_MIG.fullmatch(name)
    if old_mig:
        parent = _find_name(gpus, old_mig[1])
        return _Found(name, parent.gpu) if parent is not None and parent.gpu.mig else None
    if len(name) <= len("GPU-"):
        return None  # the prefix alone is not an abbreviation, even if there is only one GPU
    known = [_Found(uuid, gpu) for gpu in gpus for uuid in (gpu.uuid, *(gpu.mig or ())) if uuid]
    fitting = [it for it in known if it.uuid.lower().startswith(name[: len(it.uuid)])]
    return fitting[0] if len(fitting) == 1 else None


def _are_unlike(gpus: Sequence[GpuAddress]) -> bool:
    return len({gpu.model for gpu in gpus if gpu.model}) > 1


def _place(pci_bus_id: re.Match[str]) -> tuple[int, ...]:
    """Domain, bus and device; NVML writes the domain with eight digits, others with four."""
    return tuple(int(part or "0", 16) for part in pci_bus_id.groups())


def _at_pci(gpus: Sequence[GpuAddress], place: tuple[int, ...]) -> GpuAddress | None:
    for gpu in gpus:
        pci = _PCI_BUS_ID.fullmatch(gpu.pci_bus_id)
        if pci and _place(pci) == place:
            return gpu
    return None
