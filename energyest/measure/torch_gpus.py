"""The GPUs of torch, as NVML knows them."""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

import torch

from energyest.gpus.driver import FAILURES, is_hanging, soon
from energyest.measure.sensors.nvml import list_gpus
from energyest.measure.sensors.visible import gpu_of_torch, visible_gpus


def address_of(device: torch.device) -> str:
    """What `detect(gpus=[...])` finds the GPU behind a CUDA device by: its UUID.

    Of a MIG device, it is the UUID of the GPU that it is a part of. A GPU that NVML does not know,
    or of which no driver tells, comes out as what no GPU is found by.

    Raises:
        RuntimeError, AssertionError: torch cannot use the device.
    """
    properties = torch.cuda.get_device_properties(device)
    try:
        present = soon(list_gpus)
    except FAILURES:
        present = []
        if is_hanging():
            return _told_by_torch(properties) or str(device)
    gpu = gpu_of_torch(present, properties)
    if gpu is None and not hasattr(properties, "uuid"):
        # Of an older torch, a device is but a number among those that CUDA shows.
        index = torch.cuda.current_device() if device.index is None else device.index
        gpu = dict(enumerate(visible_gpus(present, os.environ).gpus)).get(index)
    return str(device) if gpu is None else gpu.name


def _told_by_torch(properties: Any) -> str:
    """The address of a device that NVML will know once it answers; empty if torch tells none."""
    try:
        place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
    except AttributeError:  # an older torch
        return f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else ""
    return "{:08X}:{:02X}:{:02X}.0".format(*place)


def unreadable(root_device: torch.device) -> list[str]:
    """The accelerator that a process trains on, if it is one that no sensor here can read."""
    return [] if root_device.type in ("cpu", "cuda", "meta") else [str(root_device)]


def trained_on(module: torch.nn.Module, root_device: torch.device) -> list[str]:
    """What `detect(gpus=[...])` finds the GPUs by on which this process trains a model.

    Args:
        module: the model; it may be spread over several GPUs.
        root_device: where the process has its inputs, as a Trainer's `strategy.root_device`.

    Returns:
        The addresses of the CUDA devices on which the root device, parameters and buffers are, and
        of those that `DataParallel` uses,
        each GPU once and that of the root device first; empty if there are none.
    """
    tensors = chain(module.parameters(), module.buffers())
    # These make a copy of the model on each GPU with each batch.
    copied = [part for part in module.modules() if isinstance(part, torch.nn.DataParallel)]
    copies = [torch.device("cuda", index) for part in copied for index in part.device_ids]
    devices = dict.fromkeys([root_device, *(tensor.device for tensor in tensors), *copies])
    return list(dict.fromkeys(address_of(it) for it in devices if it.type == "cuda"))
