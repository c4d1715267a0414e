"""Match the GPUs of torch with those of the library that reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch

from energyest.gpus.driver import NvmlError, is_hanging, soon
from energyest.measure.sensors.apple import is_apple
from energyest.measure.sensors.makers import maker_in_use
from energyest.measure.sensors.visible import gpu_of_torch


def address_of(device: torch.device) -> str:
    """The name by which `detect(gpus=[...])` finds the GPU of a CUDA device: its UUID.

    For a MIG device, it is the UUID of the GPU of which it is a part. For a GPU that is not known,
    or without a working driver, it is a name that matches no GPU.

    Raises:
        RuntimeError, AssertionError: torch cannot use the device.
    """
    properties, maker = torch.cuda.get_device_properties(device), maker_in_use()
    failures: tuple[type[Exception], ...] = (NvmlError, *maker.failures)
    try:
        present = soon(maker.list_gpus)
    except failures:
        present = []
        if is_hanging():
            return _told_by_torch(properties) or str(device)
    gpu = gpu_of_torch(present, properties)
    if gpu is None and not hasattr(properties, "uuid"):
        # With an older torch, a device is only a number among those that CUDA shows.
        index = torch.cuda.current_device() if device.index is None else device.index
        gpu = dict(enumerate(maker.visible(present, os.environ).gpus)).get(index)
    return str(device) if gpu is None else gpu.name


def _told_by_torch(properties: Any) -> str:
    """The address of a device that NVML will know once it answers; empty if torch has none."""
    try:
        place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
    except AttributeError:  # an older torch
        return f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else ""
    return "{:08X}:{:02X}:{:02X}.0".format(*place)


def unreadable(root_device: torch.device) -> list[str]:
    """The accelerator on which a process trains, if no sensor here can read it."""
    if root_device.type == "xpu" and _addresses_of_xpu([root_device]):
        return []
    if root_device.type == "mps" and is_apple():
        return []
    return [] if root_device.type in ("cpu", "cuda", "meta") else [str(root_device)]


def trained_on(module: torch.nn.Module, root_device: torch.device) -> list[str]:
    """The names by which `detect(gpus=[...])` finds the GPUs on which this process trains a model.

    Args:
        module: the model; it may be spread over several GPUs.
        root_device: the device of the process's inputs, as a Trainer's `strategy.root_device`.

    Returns:
        The addresses of the root device and of the CUDA devices that hold parameters or buffers or
        that `DataParallel` uses; each GPU once, the root device first. Empty if there are none.
    """
    tensors = chain(module.parameters(), module.buffers())
    # These copy the model to each GPU for each batch.
    copied = [part for part in module.modules() if isinstance(part, torch.nn.DataParallel)]
    copies = [torch.device("cuda", index) for part in copied for index in part.device_ids]
    devices = dict.fromkeys([root_device, *(tensor.device for tensor in tensors), *copies])
    found = [address_of(it) for it in devices if it.type == "cuda"]
    found += ["0"] if is_apple() and any(it.type == "mps" for it in devices) else []
    return list(dict.fromkeys([*found, *_addresses_of_xpu(devices)]))


def _addresses_of_xpu(devices: Iterable[torch.device]) -> list[str]:
    """The names by which `detect(gpus=[...])` finds Intel's GPUs: PCI bus ids."""
    numbers = [it.index or 0 for it in devices if it.type == "xpu"]
    maker = maker_in_use()
    if not numbers or maker.torch_type != "xpu":
        return []
    try:
        shown = dict(enumerate(maker.visible(maker.list_gpus(), os.environ).gpus))
    except maker.failures:
        shown = {}
    return [shown[number].name for number in numbers if number in shown]
