"""The packaged table of GPUs.

`data/gpus.csv` has one row per board. Its columns follow NVIDIA's data sheets; the compute
capability is from NVIDIA's list of CUDA GPUs; the column `source` names the source of the other
numbers. An empty cell is a number for which no source was found.

A row is one device as listed by NVML. For boards with two or four chips (K80, TITAN Z, M60, M10,
A16) this is one chip, with its share of the board's power; for a GPU made of two dies (B100, B200,
B300, GB200, GB300) it is both. Figures for systems of many GPUs (DGX, NVL72) were divided by their
number.

Peaks are dense: if a data sheet assumes sparsity, half of its figure. The peaks of fp16 and bf16
are for tensor products with 32-bit sums, as in torch's trainings. GeForce boards compute these at
half the rate of products with 16-bit sums, and the table has the lower figure. Workstation boards
(TITAN RTX, Quadro RTX, RTX A, RTX Ada, RTX PRO) and data-centre boards compute both at the same
rate. Hence an RTX 6000 Ada has 2.2 times the fp16 peak of an RTX 4090, which has the same kind of
chip. Without tensor cores, the peak is that of 16-bit arithmetic on the ordinary cores.

`aliases` are short names that people type. If a name fits several boards, it means the one most
common in trainings, and its row says so. "H100" is the SXM board with 80 GB, "A100" the SXM board
with 80 GB, "V100" the SXM2 board with 16 GB, "P100" the PCIe board with 16 GB, "RTX 6000" the
Turing board called Quadro RTX 6000 ("RTX 6000 Ada" is the newer one). A name that fits two boards
about equally common is not an alias: "TITAN X" was sold with a Maxwell and with a Pascal chip. If
NVML gives boards with different memory the same name (RTX 4060 Ti with 8 or 16 GB), the size
distinguishes them: "RTX 4060 Ti 8GB". Laptop GPUs are left out, because their power and clocks are
each manufacturer's choice.
"""

from __future__ import annotations

import csv
import math
import re
from functools import cache
from importlib import resources

from energyest.gpus.gpu import Gpu

# Sizes of memory and caches are binary: an H100 of "80 GB" has 80 × 2^30 bytes, of which NVML shows
# 81559 MiB. Bandwidths are decimal: bus width times clock.
_GIB = 2**30
_MIB = 2**20


def find_gpu(name: str) -> Gpu | None:
    """The GPU with this name ("NVIDIA A40", "A40", "3090"), or None if the table lacks it.

    Brand names, case, spaces and dashes are ignored, and the memory size may follow the name
    ("RTX 3090 24GB"). Everything else matters: a MIG slice or a laptop GPU is a different GPU.

    Examples:
        >>> from energyest.gpus import find_gpu
        >>> find_gpu('NVIDIA A100-SXM4-80GB').name
        'A100-SXM4-80GB'
        >>> find_gpu('a GPU that nobody has made') is None
        True
    """
    return spellings().get(spelling(name))


def known_gpus() -> tuple[Gpu, ...]:
    """All GPUs of the table, oldest generation first.

    Examples:
        >>> from energyest.gpus import known_gpus
        >>> 'H200' in [gpu.name for gpu in known_gpus()]
        True
    """
    return tuple(gpu for gpu, _ in _rows())


def spelling(name: str) -> str:
    """Normalise a name: remove case, spaces, dashes and brand names, in which spellings differ."""
    return re.sub(r"nvidia|geforce|quadro|tesla|[^a-z0-9]", "", name.lower())


@cache
def spellings() -> dict[str, Gpu]:
    """All GPUs by the `spelling` of their names and aliases, with and without the memory size."""
    found: dict[str, Gpu] = {}
    for gpu, aliases in _rows():
        for name in (gpu.name, *aliases):
            found[spelling(name)] = gpu
            found.setdefault(spelling(f"{name} {gpu.memory_bytes / _GIB:g}GB"), gpu)
    return found


@cache
def _rows() -> tuple[tuple[Gpu, tuple[str, ...]], ...]:
    text = (resources.files("energyest") / "data" / "gpus.csv").read_text(encoding="utf-8")
    return tuple(
        (_parse(row), tuple(filter(None, row["aliases"].split(";"))))
        for row in csv.DictReader(text.splitlines())
    )


def _parse(row: dict[str, str]) -> Gpu:
    suffix = "_TFLOPs"
    peaks = {
        name.removesuffix(suffix): float(value) * 1e12
        for name, value in row.items()
        if name.endswith(suffix) and value
    }
    major, _, minor = row["compute_capability"].partition(".")
    return Gpu(
        name=row["name"],
        tdp_W=_number(row["tdp_W"]),
        peak_flops_per_s=peaks,
        source=row["source"],
        bandwidth_bytes_per_s=_number(row["bandwidth_GB_per_s"]) * 1e9,
        memory_bytes=_number(row["memory_GB"]) * _GIB,
        cuda_cores=_number(row["cuda_cores"]),
        l2_bytes=_number(row["l2_MB"]) * _MIB,
        compute_capability=(int(major), int(minor)),
        generation=row["generation"],
    )


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan
