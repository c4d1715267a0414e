"""Facts on GPUs by product name, from the packaged table `data/gpus.csv` (sources therein)."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Gpu:
    """Data-sheet values of one product.

    Attributes:
        name: product name as NVML gives it, without "NVIDIA".
        tdp_W: board power in watts.
        peak_flops: precision -> dense peak in FLOP/s (a multiply and an add count as two).
        source: where the numbers stand.
    """

    name: str
    tdp_W: float
    peak_flops: dict[str, float]
    source: str


def find_gpu(name: str) -> Gpu | None:
    """The GPU of that product name ("NVIDIA A40", "A40"), or None if the table lacks it."""
    return _table().get(_key(name))


@cache
def _table() -> dict[str, Gpu]:
    text = (resources.files("energyest") / "data" / "gpus.csv").read_text(encoding="utf-8")
    gpus = (_parse(row) for row in csv.DictReader(text.splitlines()))
    return {_key(gpu.name): gpu for gpu in gpus}


def _parse(row: dict[str, str]) -> Gpu:
    suffix = "_TFLOPs"
    peaks = {
        name.removesuffix(suffix): float(value) * 1e12
        for name, value in row.items()
        if name.endswith(suffix) and value
    }
    tdp_W = float(row["tdp_W"]) if row["tdp_W"] else math.nan
    return Gpu(row["name"], tdp_W, peaks, row["source"])


def _key(name: str) -> str:
    """Drivers differ in brand prefixes, spaces and dashes; the rest identifies the product."""
    return re.sub(r"nvidia|geforce|quadro|tesla|[^a-z0-9]", "", name.lower())
