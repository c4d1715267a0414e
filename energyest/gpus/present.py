"""The GPUs of this machine, as NVML describes them."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

from energyest.errors import EstimateError
from energyest.gpus.driver import CLOCK_MEM, CLOCK_SM, FAILURES, call, connected, soon, text
from energyest.gpus.gpu import Gpu
from energyest.gpus.table import find_gpu

_GENERATIONS = {
    (3, 0): "Kepler",
    (3, 2): "Kepler",
    (3, 5): "Kepler",
    (3, 7): "Kepler",
    (5, 0): "Maxwell",
    (5, 2): "Maxwell",
    (5, 3): "Maxwell",
    (6, 0): "Pascal",
    (6, 1): "Pascal",
    (6, 2): "Pascal",
    (7, 0): "Volta",
    (7, 2): "Volta",
    (7, 5): "Turing",
    (8, 0): "Ampere",
    (8, 6): "Ampere",
    (8, 7): "Ampere",
    (8, 9): "Ada",
    (9, 0): "Hopper",
    (10, 0): "Blackwell",
    (10, 3): "Blackwell",
    (12, 0): "Blackwell",
    (12, 1): "Blackwell",
}
# Dense peaks of fp16 (with fp32 sums) and tf32 as multiples of the fp32 peak. Peaks are in FLOP
# per clock and SM, so the number of SMs and the clock cancel out. FLOP per clock and SM:
#   6.0   fp32 128, fp16 256                P100 whitepaper
#   6.1   fp32 256, fp16 4                  CUDA C++ Programming Guide, arithmetic throughput
#   7.0   fp32 128, fp16 1024               V100 whitepaper
#   7.5   fp32 128, fp16 1024               Turing whitepaper (256 without tensor cores)
#   8.0   fp32 128, fp16 2048, tf32 1024    A100 whitepaper
#   8.6   fp32 256, fp16 1024, tf32 512     GA102 whitepaper
#   8.9   fp32 256, fp16 1024, tf32 512     Ada whitepaper
#   9.0   fp32 256, fp16 4096, tf32 2048    H100 whitepaper
#   10.x  fp32 256, fp16 8192, tf32 4096    Blackwell technical brief (2250 TFLOP/s on 148 SMs)
#   12.x  fp32 256, fp16 1024, tf32 512     RTX Blackwell whitepapers
# bf16 runs at fp16's rate from 8.0 on.
_RATES: dict[tuple[int, int], dict[str, float]] = {
    (6, 0): {"fp16": 2},
    (6, 1): {"fp16": 1 / 64},
    (7, 0): {"fp16": 8},
    (7, 5): {"fp16": 8},
    (8, 0): {"fp16": 16, "bf16": 16, "tf32": 8},
    (8, 6): {"fp16": 4, "bf16": 4, "tf32": 2},
    (8, 9): {"fp16": 4, "bf16": 4, "tf32": 2},
    (9, 0): {"fp16": 16, "bf16": 16, "tf32": 8},
    (10, 0): {"fp16": 32, "bf16": 32, "tf32": 16},
    (10, 3): {"fp16": 32, "bf16": 32, "tf32": 16},
    (12, 0): {"fp16": 4, "bf16": 4, "tf32": 2},
    (12, 1): {"fp16": 4, "bf16": 4, "tf32": 2},
}
# On GeForce boards with these chips, tensor cores accumulate in fp32 at half rate (whitepapers).
_HALVED_ON_GEFORCE = {(7, 5), (8, 6), (8, 9), (12, 0)}


def gpus_present() -> list[Gpu]:
    """The GPUs of this machine, in NVML's order; empty without a driver.

    A GPU that is in the table is taken from there, because data sheets state more than NVML, and
    sustained instead of maximum clocks. A GPU in MIG mode counts as a whole. A GPU that does not
    report its name is left out.

    Examples:
        >>> from energyest.gpus import Gpu, gpus_present
        >>> all(isinstance(gpu, Gpu) for gpu in gpus_present())
        True
    """
    try:
        return soon(_all_present)
    except FAILURES:
        return []  # no driver, one that hangs, or no permission to count GPUs


def _all_present() -> list[Gpu]:
    found = []
    with connected():
        for index in range(call("nvmlDeviceGetCount")):
            with contextlib.suppress(*FAILURES, EstimateError):
                gpu = gpu_of(call("nvmlDeviceGetHandleByIndex", index))
                found.append(find_gpu(gpu.name) or gpu)
    return found


def gpu_of(handle: Any) -> Gpu:
    """The GPU of an NVML handle, from NVML's answers alone; missing answers are NaN.

    The bandwidth is bus width / 8 × 2 × highest memory clock (NVML reports the clock of memories
    that transfer twice per cycle), and the fp32 peak is 2 × cores × highest SM clock. Peaks of
    other precisions follow from the compute capability; for an unknown one, they are left out.

    Args:
        handle: a handle from one of pynvml's nvmlDeviceGetHandleBy... functions, while NVML is
            initialised.

    Raises:
        EstimateError: NVML does not report the GPU's name.

    Examples:
        >>> import pynvml
        >>> from energyest.gpus import gpu_of
        >>> pynvml.nvmlInit()  # doctest: +SKIP
        >>> gpu_of(pynvml.nvmlDeviceGetHandleByIndex(0))  # doctest: +SKIP
    """

    def ask(function: str, *arguments: Any) -> Any:
        try:
            return call(function, handle, *arguments)
        except FAILURES:
            return None

    def number(function: str, *arguments: Any) -> float:
        return float(ask(function, *arguments) or math.nan)  # 0 means unknown

    name = text(ask("nvmlDeviceGetName") or "")
    if not name:
        raise EstimateError("NVML does not report the name of this GPU")
    name = re.sub(r"^NVIDIA\s+", "", name)
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    capability = None if capability is None else (int(capability[0]), int(capability[1]))
    cores = number("nvmlDeviceGetNumGpuCores")
    clock_Hz = 1e6 * number("nvmlDeviceGetMaxClockInfo", CLOCK_SM)
    memory_Hz = 1e6 * number("nvmlDeviceGetMaxClockInfo", CLOCK_MEM)
    bus_bits = number("nvmlDeviceGetMemoryBusWidth")
    return Gpu(
        name=name,
        tdp_W=number("nvmlDeviceGetPowerManagementDefaultLimit") / 1e3,
        peak_flops_per_s=_peaks(name, capability, 2 * cores * clock_Hz),
        source="NVML on this machine (peaks at the highest clocks)",
        bandwidth_bytes_per_s=bus_bits / 8 * 2 * memory_Hz,
        memory_bytes=float(getattr(ask("nvmlDeviceGetMemoryInfo"), "total", math.nan) or math.nan),
        cuda_cores=cores,
        compute_capability=capability,
        generation="" if capability is None else _GENERATIONS.get(capability, ""),
    )


def _peaks(name: str, capability: tuple[int, int] | None, fp32: float) -> dict[str, float]:
    if math.isnan(fp32):
        return {}
    rates = {} if capability is None else relative_rates(name, capability)
    return {"fp32": fp32, **{precision: fp32 * rate for precision, rate in rates.items()}}


def relative_rates(name: str, capability: tuple[int, int]) -> dict[str, float]:
    """Dense peaks of a chip's precisions other than fp32, as multiples of the fp32 peak."""
    # Some Turing chips have no tensor cores: GeForce GTX, T400 to T2000, MX.
    if capability == (7, 5) and not re.search(r"\bRTX\b|\bT(4|4G|10|40)\b", name):
        return {"fp16": 2}
    halved = capability in _HALVED_ON_GEFORCE and "geforce" in name.lower()
    return {
        precision: rate / 2 if halved else rate
        for precision, rate in _RATES.get(capability, {}).items()
    }
