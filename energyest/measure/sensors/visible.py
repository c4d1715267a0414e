"""Which of a machine's GPUs this process may use, by CUDA's rules."""

from __future__ import annotations

from collections.abc import Sequence

from energyest.measure.sensors.nvml import GpuAddress


def visible_gpus(gpus: Sequence[GpuAddress], visible: str | None) -> list[GpuAddress]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves, in its order.

    As CUDA does, the list is read up to its first entry that names no GPU; an entry is an index,
    a UUID or the beginning of one that fits a single GPU. A GPU that comes twice makes the whole
    list void (torch.cuda._parse_visible_devices describes these rules). An index counts in the
    order of the PCI bus, which is CUDA's own where all GPUs are alike or
    `CUDA_DEVICE_ORDER=PCI_BUS_ID`.

    Args:
        gpus: all GPUs of the machine.
        visible: the variable's value; None if it is not set, which leaves all GPUs.
    """
    if visible is None:
        return list(gpus)
    chosen: list[GpuAddress] = []
    for entry in visible.split(","):
        gpu = match_gpu(gpus, entry.strip())
        if gpu is None:
            break
        if gpu in chosen:
            return []
        chosen.append(gpu)
    return chosen


def match_gpu(gpus: Sequence[GpuAddress], entry: str) -> GpuAddress | None:
    """The one GPU of that index, UUID or beginning of a UUID; None if there is none."""
    if entry.isdecimal():
        found = [gpu for gpu in gpus if gpu.index == int(entry)]
    elif entry.upper().startswith("GPU-"):
        found = [gpu for gpu in gpus if gpu.uuid.lower().startswith(entry.lower())]
    else:
        found = []
    return found[0] if len(found) == 1 else None
