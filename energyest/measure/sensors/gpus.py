"""Find the GPUs to measure: those asked for, or those that the process uses."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from energyest.gpus.driver import begin
from energyest.measure.sensors.base import Device, Sensor
from energyest.measure.sensors.detection import LATE, Detection, lost
from energyest.measure.sensors.maker import Maker
from energyest.measure.sensors.makers import maker_in_use
from energyest.measure.sensors.nvml import GpuAddress
from energyest.measure.sensors.visible import gpus_of_torch, match_gpu

# A CUDA_VISIBLE_DEVICES with this beginning leaves no GPU: it is read up to an invalid entry.
_NO_GPU = re.compile(r"\s*(-\s*\d+\s*)?(,|$)")


def detect_gpus(gpus: Sequence[int | str] | None) -> Detection:
    """Find the requested GPUs, without waiting long for their driver, which may hang.

    Args:
        gpus: as for `detect`.
    """
    if gpus is not None and len(gpus) == 0:
        return Detection(())
    library = maker_in_use().library
    errand = begin(lambda: find_gpus(gpus))
    if errand.is_done:
        return errand.result()
    if gpus is None and _are_hidden():
        Detection((), late=errand).close()
        return Detection((), ("no GPU is measured: CUDA_VISIBLE_DEVICES leaves none",))
    names = "the GPUs" if gpus is None else ", ".join(f"GPU {gpu!r}" for gpu in gpus)
    note = f"{names} cannot be measured until {library} answers, which it has not done yet"
    late = lost("gpu", LATE, names, f"{library} has not answered yet")
    return Detection((), (note,), (late,), (note,), late=errand)


def _are_hidden() -> bool:
    return bool(_NO_GPU.match(os.environ.get("CUDA_VISIBLE_DEVICES", "0")))


def find_gpus(gpus: Sequence[int | str] | None) -> Detection:
    """Find the requested GPUs, however long their driver takes to answer."""
    maker = maker_in_use()
    try:
        present = maker.list_gpus()
    except maker.failures as error:
        note = f"no GPU is measured: {error}"
        if gpus is None:
            found = Detection((), (note,))
            if maker.may_use_gpus(error) and not _are_hidden():
                device = lost("gpu", "gpu:unknown", "GPU", str(error))
                found = replace(found, unmeasured=(device,), losses=(note,))
        else:
            losses = tuple(f"GPU {gpu!r} is not measured: {error}" for gpu in gpus)
            unknown = tuple(_unknown(gpu, str(error)) for gpu in gpus)
            found = Detection((), (note, *losses), unknown, losses)
    else:
        found = _of_process(maker, present) if gpus is None else _named(maker, present, gpus)
    if gpus is not None or found.is_by_torch:
        return found
    return found + overlooked_gpus(len(found.sensors) + len(found.unmeasured))


def overlooked_gpus(accounted: int) -> Detection:
    """The GPUs that torch uses beyond the first `accounted`, which are not measured."""
    used = _count_of_torch()
    if used <= accounted:
        return Detection(())
    library = maker_in_use().library
    names = [_name_of_torch(index) for index in range(accounted, used)]
    reason = f"{library} does not know it, or does not answer"
    losses = [f"{name}, which torch uses, is not measured: {reason}" for name in names]
    devices = [
        lost("gpu", f"gpu:torch{accounted + number}", name, reason)
        for number, name in enumerate(names)
    ]
    return Detection((), tuple(losses), tuple(devices), tuple(losses))


def _of_process(maker: Maker, present: list[GpuAddress]) -> Detection:
    if not present:
        return Detection((), (f"no GPU is measured: {maker.library} knows none on this machine",))
    notes: list[str] = []
    used = wanted = gpus_of_torch(present)
    if wanted is None:
        wanted, notes = maker.visible(present, os.environ)
    if not wanted:
        notes.append(f"no GPU is measured: {maker.variable} leaves none to this process")
    # A GPU that this user may not open belongs to another, unless the process is known to use it.
    by_torch = used is not None
    return Detection((), tuple(notes), is_by_torch=by_torch) + _opened(
        maker, wanted, present, are_ours=by_torch
    )


def _named(maker: Maker, present: list[GpuAddress], gpus: Sequence[int | str]) -> Detection:
    wanted: list[GpuAddress] = []
    absent = Detection(())
    for entry in gpus:
        gpu = match_gpu(present, entry)
        if gpu is None:
            reason = (
                f"{maker.library} knows {len(present)} GPU(s), but none with that number, UUID or "
                "PCI bus id"
            )
            note = f"GPU {entry!r} is not measured: {reason}"
            absent += Detection((), (note,), (_unknown(entry, reason),), (note,))
        elif gpu not in wanted:
            wanted.append(gpu)
    return absent + _opened(maker, wanted, present, are_ours=True)


def _opened(
    maker: Maker, wanted: Sequence[GpuAddress], present: Sequence[GpuAddress], *, are_ours: bool
) -> Detection:
    sensors: list[Sensor] = []
    notes: list[str] = []
    losses: list[str] = []
    unmeasured: list[Device] = []
    for gpu in dict.fromkeys(maker.read_for(gpu, present) for gpu in wanted):
        named = f"GPU {gpu.index} ({gpu.uuid})" if gpu.uuid else f"GPU {gpu.index}"
        try:
            sensor = maker.open_sensor(gpu.index)
        except Exception as error:
            note = f"{named} is not measured: {error}"
            notes.append(note)
            if are_ours or not maker.is_forbidden(error):
                losses.append(note)
                unmeasured.append(_lost_gpu(gpu, str(error)))
            continue
        sensors.append(sensor)
        if not getattr(sensor, "tells_energy", True):
            note = f"{named} is not measured: the board reports neither its power nor its energy"
            notes.append(note)
            losses.append(note)
    return Detection(tuple(sensors), tuple(notes), tuple(unmeasured), tuple(losses))


def _lost_gpu(gpu: GpuAddress, reason: str) -> Device:
    known = {"uuid": gpu.uuid, "index": gpu.index, "pci_bus_id": gpu.pci_bus_id}
    details = {name: value for name, value in known.items() if value != ""}
    return lost("gpu", f"gpu:{gpu.index}", gpu.model or f"GPU {gpu.index}", reason, **details)


def _unknown(entry: int | str, reason: str) -> Device:
    """A requested GPU that its library does not know, or for which it does not answer."""
    plain = re.sub(r"[^0-9a-z]", "", str(entry).lower())
    if plain != str(entry):  # not a GPU's number, whatever digits it has
        plain = f"unknown{plain}"
    return lost("gpu", f"gpu:{plain}", f"GPU {entry}", reason)


def _count_of_torch() -> int:
    """The number of GPUs that torch uses; 0 if it does not use CUDA (yet)."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return 0
    except AttributeError:  # half imported
        return 0
    try:
        return int(torch._C._cuda_getDeviceCount())
    except (AttributeError, RuntimeError):  # another torch, or CUDA failed: one GPU was in use
        return 1


def _name_of_torch(index: int) -> str:
    try:
        name = str(sys.modules["torch"].cuda._get_device_properties(index).name)
    except Exception:  # whatever torch is there
        return f"GPU cuda:{index}"
    return f"GPU cuda:{index} ({name})"
