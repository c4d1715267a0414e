"""How fast GPUs of one host exchange numbers."""

from __future__ import annotations

import re

from energyest.gpus.gpu import Gpu

# Bytes per second and direction of all NVLinks of a GPU: NVIDIA's data sheets and architecture
# whitepapers, which name both directions together. The first that fits counts.
_NVLINK = (
    (r"A800.*SXM", 200e9),
    (r"^H800( |$)(?!PCIe)", 200e9),
    (r"P100.*SXM", 80e9),
    (r"V100.*SXM", 150e9),
    (r"A100.*SXM", 300e9),
    (r"^(H100|H200|H20)(?!.*(PCIe|NVL))|^GH200", 450e9),
    (r"^(B100|B200|B300|GB200|GB300)", 900e9),
)
# The same through the PCI Express slot with 16 lanes, by generation of the GPU: version 3, 4, 5.
_PCIE = {"Ampere": 32e9, "Ada": 32e9, "Hopper": 64e9, "Blackwell": 64e9}
_PCIE_BEFORE = 16e9
# GeForce boards since then may not read each other's memory: all goes through the host's.
_THROUGH_HOST = ("Ampere", "Ada", "Blackwell")


def link_bytes_per_s(gpu: Gpu) -> float:
    """What one GPU can send to others of its host, in bytes per second.

    The NVLinks of the boards that servers connect all to all; of others, the PCI Express slot, also
    where a bridge may join two of them. What a training reaches is less.

    Examples:
        >>> from energyest.gpus import find_gpu, link_bytes_per_s
        >>> link_bytes_per_s(find_gpu('H100')) > link_bytes_per_s(find_gpu('L4'))
        True
    """
    for pattern, rate in _NVLINK:
        if re.search(pattern, gpu.name):
            return rate
    rate = _PCIE.get(gpu.generation, _PCIE_BEFORE)
    through_host = gpu.name.startswith("GeForce") and gpu.generation in _THROUGH_HOST
    return rate / 2 if through_host else rate
