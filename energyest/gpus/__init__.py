"""Facts about GPUs: data-sheet values by product name, the GPUs of this machine, and precisions.

The numbers come from the packaged table `data/gpus.csv`, which names the source of each row, or,
for a GPU that the table lacks, from NVML on a machine that has it.
"""

from energyest.gpus.embodied import Embodied, embodied_kg, known_embodied
from energyest.gpus.gpu import Gpu
from energyest.gpus.interconnect import link_bytes_per_s
from energyest.gpus.lookup import resolve_gpu
from energyest.gpus.precision import PRECISIONS, check_precision, peak_flops_per_s, supports
from energyest.gpus.present import gpu_of, gpus_present
from energyest.gpus.table import find_gpu, known_gpus

__all__ = [
    "PRECISIONS",
    "Embodied",
    "Gpu",
    "check_precision",
    "embodied_kg",
    "find_gpu",
    "gpu_of",
    "gpus_present",
    "known_embodied",
    "known_gpus",
    "link_bytes_per_s",
    "peak_flops_per_s",
    "resolve_gpu",
    "supports",
]
