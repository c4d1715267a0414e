"""`Gpu`: the data-sheet values of one GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

from energyest.errors import EstimateError


@dataclass(frozen=True)
class Gpu:  # noqa: PLW1641  (a dict in it has no hash)
    """Data-sheet values of one product; an unknown number is NaN, never 0.

    Attributes:
        name: product name as NVML gives it, without "NVIDIA".
        tdp_W: board power in watts.
        peak_flops_per_s: precision ("fp32", "tf32", "fp16", "bf16") -> dense peak in FLOP/s (two
            per multiply-add), for 16-bit products with 32-bit sums. A precision without a known
            peak is left out.
        source: source of the numbers.
        bandwidth_bytes_per_s: peak rate of the GPU's memory.
        memory_bytes: size of the GPU's memory.
        cuda_cores: number of fp32 lanes; if unknown, PRE takes it from the fp32 peak.
        l2_bytes: size of the L2 cache.
        compute_capability: (major, minor), or None.
        generation: Kepler, Maxwell, Pascal, Volta, Turing, Ampere, Ada, Hopper or Blackwell; else
            empty.

    Raises:
        EstimateError: a number is 0 or less, or infinite.

    Examples:
        >>> from energyest.gpus import find_gpu
        >>> gpu = find_gpu('H100')
        >>> gpu.name, gpu.memory_bytes
        ('H100 80GB HBM3', 85899345920.0)
    """

    name: str
    tdp_W: float
    peak_flops_per_s: dict[str, float]
    source: str = ""
    bandwidth_bytes_per_s: float = math.nan
    memory_bytes: float = math.nan
    cuda_cores: float = math.nan
    l2_bytes: float = math.nan
    compute_capability: tuple[int, int] | None = None
    generation: str = ""

    def __eq__(self, other: object) -> bool:
        """Whether all values are the same, or unknown of both: from Python 3.13 on, NaN differs."""
        if not isinstance(other, Gpu):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(a == b or (a != a and b != b) for a, b in pairs)  # noqa: PLR0124

    def __post_init__(self) -> None:
        numbers = {
            "tdp_W": self.tdp_W,
            "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "memory_bytes": self.memory_bytes,
            "cuda_cores": self.cuda_cores,
            "l2_bytes": self.l2_bytes,
            **{f"peak_flops_per_s[{p!r}]": peak for p, peak in self.peak_flops_per_s.items()},
        }
        for name, value in numbers.items():
            if value <= 0 or math.isinf(value):
                raise EstimateError(
                    f"{self.name}: {name}={value!r} must be positive and finite, or NaN if it is "
                    "not known"
                )
