"""The GPUs that ROCm shows to a process.

`ROCR_VISIBLE_DEVICES` (numbers or UUIDs) applies first. `HIP_VISIBLE_DEVICES` chooses among what it
leaves, which is numbered anew; `CUDA_VISIBLE_DEVICES`, or else `GPU_DEVICE_ORDINAL`, stands in for
it (rocm.docs.amd.com, "GPU isolation techniques", "HIP environment variables"; AMD lab notes,
"Affinity", part 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from energyest.measure.sensors.nvml import GpuAddress
from energyest.measure.sensors.visible import Visible

_LOWER = "ROCR_VISIBLE_DEVICES"
_UPPER = ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")


def visible_gpus(gpus: Sequence[GpuAddress], environment: Mapping[str, str]) -> Visible:
    """The GPUs that HIP will show to a process with this environment.

    Each list is read up to the first entry that names no GPU.

    Args:
        gpus: all GPUs of the machine, in HIP's order.
        environment: the process's variables.
    """
    names = [_LOWER] if _LOWER in environment else []
    names += [name for name in _UPPER if name in environment][:1]
    chosen = list(gpus)
    for name in names:
        chosen = _read_list(chosen, environment[name])
    notes = []
    by_number = any(not environment[name].startswith("GPU-") for name in names)
    if by_number and 0 < len(chosen) < len(gpus) and len({gpu.model for gpu in gpus}) > 1:
        notes.append(
            "the GPUs are not alike, and the order in which ROCm numbers them is an estimate: use "
            "UUIDs in ROCR_VISIBLE_DEVICES to be sure"
        )
    return Visible(chosen, notes)


def _read_list(gpus: Sequence[GpuAddress], listed: str) -> list[GpuAddress]:
    chosen: dict[GpuAddress, None] = {}
    for entry in map(str.strip, listed.split(",")):
        if entry.isdecimal() and int(entry) < len(gpus):
            chosen[gpus[int(entry)]] = None
            continue
        named = [g for g in gpus if entry and g.uuid.lower() == entry.lower()]
        if len(named) != 1:
            break
        chosen[named[0]] = None
    return list(chosen)
