"""The bandwidth between the GPUs of one host."""

from __future__ import annotations

import re

from energyest.gpus.gpu import Gpu

# Bytes per second and direction of all NVLinks of a GPU: NVIDIA's data sheets and architecture
# whitepapers, which state both directions together. The first matching pattern counts.
_NVLINK = (
    (r"A800.*SXM", 200e9),
    (r"^H800( |$)(?!PCIe)", 200e9),
    (r"P100.*SXM", 80e9),
    (r"V100.*SXM", 150e9),
    (r"A100.*SXM", 300e9),
    (r"^(H100|H200|H20)(?!.*(PCIe|NVL))|^GH200", 450e9),
    (r"^(B100|B200|B300|GB200|GB300)", 900e9),
)
# The same for a PCI Express slot with 16 lanes, by GPU generation: version 3, 4, 5.
_PCIE = {"Ampere": 32e9, "Ada": 32e9, "Hopper": 64e9, "Blackwell": 64e9}
_PCIE_BEFORE = 16e9
# Newer GeForce boards may not access each other's memory: all data goes through host memory.
_THROUGH_HOST = ("Ampere", "Ada", "Blackwell")


def link_bytes_per_s(gpu: Gpu) -> float:
    """The rate at which a GPU can send to others of its host, in bytes per second.

    It is that of the NVLinks, for boards that servers connect all to all, else that of the PCI
    Express slot, even if a bridge may join two boards. A training reaches less.

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
