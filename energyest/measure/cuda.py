"""The GPUs of torch, as NVML knows them."""

from __future__ import annotations

import torch


def uuid_of(device: torch.device) -> str:
    """UUID of the GPU behind a CUDA device, as NVML writes it; its index on an older torch."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is None:
        return str(device.index or 0)
    return str(uuid) if str(uuid).startswith("GPU-") else f"GPU-{uuid}"
