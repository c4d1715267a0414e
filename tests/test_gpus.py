"""Facts about GPUs: the packaged table, names, precisions, and NVML on the machine."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pynvml
import pytest

from energyest.errors import EstimateError
from energyest.gpus import (
    PRECISIONS,
    Gpu,
    check_precision,
    find_gpu,
    gpu_of,
    gpus_present,
    known_gpus,
    peak_flops_per_s,
    resolve_gpu,
    supports,
)
from energyest.gpus.present import relative_rates
from energyest.gpus.table import _rows, spelling, spellings
from simulation.fake_nvml import FakeNvml
from tests.support.each import for_each

GIB = 2**30
ROWS = known_gpus()

each_row = for_each(ROWS, lambda gpu: gpu.name)

# Generations and their compute capabilities, from NVIDIA's list of CUDA GPUs.
CAPABILITIES = {
    "Kepler": {(3, 0), (3, 5), (3, 7)},
    "Maxwell": {(5, 0), (5, 2)},
    "Pascal": {(6, 0), (6, 1)},
    "Volta": {(7, 0)},
    "Turing": {(7, 5)},
    "Ampere": {(8, 0), (8, 6)},
    "Ada": {(8, 9)},
    "Hopper": {(9, 0)},
    "Blackwell": {(10, 0), (10, 3), (12, 0), (12, 1)},
}
# fp32 lanes of a multiprocessor: CUDA C++ Programming Guide.
LANES = {
    **dict.fromkeys([(3, 0), (3, 5), (3, 7)], 192),
    **dict.fromkeys([(6, 0), (7, 0), (7, 5), (8, 0)], 64),
}
# Chips with high-bandwidth memory; the others have GDDR.
HBM = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (10, 3)}
# Most lines of a chip's GDDR, and the rates of a line in Gbit/s, GDDR5 to GDDR7.
GDDR = {
    "Kepler": (384, 5, 7.1),
    "Maxwell": (384, 5, 7.1),
    "Pascal": (384, 6, 11.5),
    "Turing": (384, 8, 15.6),
    "Ampere": (384, 12, 21.1),
    "Ada": (384, 14, 23.1),
    "Blackwell": (512, 20, 30),
}
# Boards whose tensor cores are slower than their chip's: by export rules or by the data sheet.
SLOWED = {
    *("A10G", "L20", "L40", "H20", "H20-3e"),
    *("GeForce RTX 5090 D", "GeForce RTX 5090 D V2"),
}
# Boards for which no source states cores or clocks.
CORES_UNKNOWN = {"B100", "B300 SXM6 AC", "GB200", "GB300", "L2"}


def named(name: str) -> Gpu:
    gpu = find_gpu(name)
    assert gpu is not None, name
    return gpu


# ------------------------------------------------------------------ the table, row by row


def test_the_table_is_there() -> None:
    assert len(ROWS) >= 190
    assert {gpu.generation for gpu in ROWS} == set(CAPABILITIES)


@each_row
def test_what_every_row_has(gpu: Gpu) -> None:
    assert gpu.name == gpu.name.strip()
    assert not gpu.name.startswith("NVIDIA")
    assert len(gpu.source) > 10
    assert 30 <= gpu.tdp_W <= 1500
    assert gpu.compute_capability in CAPABILITIES[gpu.generation]
    assert 2 * GIB <= gpu.memory_bytes <= 300 * GIB
    assert math.isfinite(gpu.bandwidth_bytes_per_s)
    assert set(gpu.peak_flops_per_s) <= set(PRECISIONS)
    assert "fp32" in gpu.peak_flops_per_s


@each_row
def test_fp32_peak_is_two_per_core_and_clock(gpu: Gpu) -> None:
    if math.isnan(gpu.cuda_cores):
        assert gpu.name in CORES_UNKNOWN
        return
    clock_Hz = gpu.peak_flops_per_s["fp32"] / (2 * gpu.cuda_cores)
    assert (0.7e9 if gpu.generation in ("Kepler", "Maxwell") else 0.9e9) <= clock_Hz <= 2.65e9
    assert gpu.cuda_cores % LANES.get(gpu.compute_capability or (0, 0), 128) == 0


@each_row
def test_bandwidth_suits_the_memory(gpu: Gpu) -> None:
    GB_per_s = gpu.bandwidth_bytes_per_s / 1e9
    if gpu.compute_capability in HBM:
        # A stack has 1024 lines at 1.1 (HBM2) to 9.6 Gbit/s (HBM3e), and a GPU 3 to 8 stacks.
        assert 3 * 140 <= GB_per_s <= 8 * 1230
    elif gpu.name == "GB10":
        assert 256 / 8 * 8 <= GB_per_s <= 256 / 8 * 9.4  # LPDDR5X, shared with the CPU
    else:
        lines, least_Gbit, most_Gbit = GDDR[gpu.generation]
        assert 64 / 8 * least_Gbit <= GB_per_s <= lines / 8 * most_Gbit
    # Bytes per FLOP have always been scarce, and never this scarce.
    assert 0.008 <= gpu.bandwidth_bytes_per_s / gpu.peak_flops_per_s["fp32"] <= 0.135


@each_row
def test_l2_is_small_beside_the_memory(gpu: Gpu) -> None:
    if math.isnan(gpu.l2_bytes):
        return
    mib = gpu.l2_bytes / 2**20
    most = {
        **{"Kepler": 1.5, "Maxwell": 3, "Pascal": 4},
        **{"Volta": 6, "Turing": 6, "Ampere": 40, "Ada": 96},
    }
    assert 0.5 <= mib <= most.get(gpu.generation, 128)
    if gpu.generation == "Ampere":
        assert (mib > 10) == (gpu.compute_capability == (8, 0))


@each_row
def test_tensor_peaks_follow_from_the_chip(gpu: Gpu) -> None:
    """Data sheets against architecture: peaks are FLOP per clock and SM at about one clock."""
    assert gpu.compute_capability is not None
    rates = relative_rates(gpu.name, gpu.compute_capability)
    peaks = {name: peak for name, peak in gpu.peak_flops_per_s.items() if name != "fp32"}
    if not peaks and rates:
        assert "dense tensor rates left empty" in gpu.source
        assert gpu.name == "RTX 6000D"  # the one row whose source does not tell
        return
    assert set(peaks) == set(rates)
    if gpu.name in SLOWED:
        assert all(
            peak < 0.75 * gpu.peak_flops_per_s["fp32"] * rates[p] for p, peak in peaks.items()
        )
        return
    for precision, peak in peaks.items():
        # Data sheets state tensor rates at lower clocks than fp32 rates, by up to a seventh.
        assert peak == pytest.approx(gpu.peak_flops_per_s["fp32"] * rates[precision], rel=0.15)


@each_row
def test_tf32_is_half_of_fp16_and_bf16_is_the_same(gpu: Gpu) -> None:
    peaks = gpu.peak_flops_per_s
    assert ("tf32" in peaks) == ("bf16" in peaks)
    if "tf32" in peaks:
        assert peaks["tf32"] == pytest.approx(peaks["fp16"] / 2, rel=0.02)
        assert peaks["bf16"] == peaks["fp16"]


# GB/s, GB and cores as NVIDIA's data sheets print them; typed in apart from the table.
@pytest.mark.parametrize(
    ("name", "GB_per_s", "GB", "cores", "capability"),
    [
        ("Tesla K80", 480 / 2, 24 / 2, 4992 / 2, (3, 7)),
        ("Tesla K40m", 288, 12, 2880, (3, 5)),
        ("GeForce GTX 750 Ti", 86.4, 2, 640, (5, 0)),
        ("GeForce GTX 1080 Ti", 484, 11, 3584, (6, 1)),
        ("Tesla P100-PCIE-16GB", 732, 16, 3584, (6, 0)),
        ("Tesla V100-SXM2-16GB", 900, 16, 5120, (7, 0)),
        ("Tesla T4", 320, 16, 2560, (7, 5)),
        ("GeForce RTX 2080 Ti", 616, 11, 4352, (7, 5)),
        ("GeForce RTX 3090", 936, 24, 10496, (8, 6)),
        ("RTX A6000", 768, 48, 10752, (8, 6)),
        ("A100-SXM4-40GB", 1555, 40, 6912, (8, 0)),
        ("A100-SXM4-80GB", 2039, 80, 6912, (8, 0)),
        ("GeForce RTX 4090", 1008, 24, 16384, (8, 9)),
        ("L4", 300, 24, 7424, (8, 9)),
        ("H100 80GB HBM3", 3350, 80, 16896, (9, 0)),
        ("H100 PCIe", 2000, 80, 14592, (9, 0)),
        ("H200", 4800, 141, 16896, (9, 0)),
        ("GeForce RTX 5090", 1792, 32, 21760, (12, 0)),
        ("B200", 7700, 180, 148 * 128, (10, 0)),
        ("RTX PRO 5000 Blackwell", 1344, 48, 14080, (12, 0)),
        ("RTX PRO 4500 Blackwell", 896, 32, 10496, (12, 0)),
        ("RTX PRO 4000 Blackwell", 672, 24, 8960, (12, 0)),
        ("RTX A1000", 192, 8, 2304, (8, 6)),
        ("T4G", 320, 16, 2560, (7, 5)),
        ("H800 PCIe", 2000, 80, 14592, (9, 0)),
        ("H20-3e", 4800, 141, 78 * 128, (9, 0)),
        ("GH200 120GB", 4000, 96, 16896, (9, 0)),
        ("GB10", 273, 128, 6144, (12, 1)),
    ],
)
def test_rows_against_data_sheets(
    name: str, GB_per_s: float, GB: float, cores: float, capability: tuple[int, int]
) -> None:
    gpu = named(name)
    assert gpu.bandwidth_bytes_per_s == pytest.approx(GB_per_s * 1e9, rel=0.005)
    assert gpu.memory_bytes == GB * GIB
    assert gpu.cuda_cores == cores
    assert gpu.compute_capability == capability


# TFLOP/s of fp16 with fp32 sums, dense, as whitepapers and data sheets print them.
@pytest.mark.parametrize(
    ("name", "dense", "printed"),
    [
        ("RTX 2080 Ti", 53.8, "fp32 sums"),
        ("Quadro RTX 6000", 130.5, "both sums"),
        ("A100", 624 / 2, "with sparsity"),
        ("RTX 3090", 71, "fp32 sums"),
        ("RTX A6000", 309.7 / 2, "with sparsity"),
        ("RTX 4090", 165.2, "fp32 sums"),
        ("RTX 6000 Ada", 1457 / 4, "fp8 with sparsity"),
        ("H100", 1979 / 2, "with sparsity"),
        ("H200", 1979 / 2, "with sparsity"),
        ("B200", 36000 / 8 / 2, "eight with sparsity"),
        ("GB200", 360000 / 72 / 2, "72 with sparsity"),
        ("RTX 5090", 209.5, "fp32 sums"),
        ("RTX PRO 6000", 503.8, "fp32 sums"),
        ("RTX PRO 5000", 2064 / 8, "fp4 with sparsity"),
        ("RTX PRO 4500", 1687 / 8, "fp4 with sparsity"),
        ("RTX PRO 4000", 1178 / 8, "fp4 with sparsity"),
        ("GB10", 1000 / 8, "fp4 with sparsity"),
    ],
)
def test_half_precision_is_dense_and_summed_in_fp32(name: str, dense: float, printed: str) -> None:
    gpu = named(name)
    assert gpu.peak_flops_per_s["fp16"] == pytest.approx(dense * 1e12, rel=0.002), printed


def test_fp16_peaks_on_one_chip_differ_by_how_boards_add_up() -> None:
    """Per fp32 FLOP: GeForce boards at half rate, workstation boards at full rate."""

    def per_fp32(name: str) -> float:
        peaks = named(name).peak_flops_per_s
        return peaks["fp16"] / peaks["fp32"]

    for geforce, workstation in (
        ("RTX 2080 Ti", "Quadro RTX 8000"),
        ("RTX 3090", "RTX A6000"),
        ("RTX 4090", "RTX 6000 Ada"),
        ("RTX 5090", "RTX PRO 6000"),
        ("RTX 5080", "RTX PRO 4500"),
    ):
        assert per_fp32(workstation) == pytest.approx(2 * per_fp32(geforce), rel=0.01)


def test_a_row_is_one_device_of_nvml() -> None:
    """Boards of several chips have a row for one chip, which has its share of the power."""
    shares = {"K80": 149, "TITAN Z": 375 / 2, "M60": 150, "M10": 225 / 4, "A16": 250 / 4}
    for name, tdp_W in shares.items():
        assert named(name).tdp_W == tdp_W
        assert "one of the board's" in named(name).source
    assert named("K80").peak_flops_per_s["fp32"] == pytest.approx(8.73e12 / 2, rel=0.002)
    for name in ("B100", "B200", "B300", "GB200", "GB300"):
        assert "two dies" in named(name).source


def test_boards_of_one_name_are_told_apart_by_their_memory() -> None:
    """Same name to NVML, but other chips or buses."""
    for name, small, large in (
        ("RTX 4060 Ti", 8, 16),
        ("RTX 5060 Ti", 8, 16),
        ("RTX 3060", 8, 12),
        ("RTX 3050", 6, 8),
        ("RTX A2000", 6, 12),
        ("GTX 1060", 3, 6),
        ("GTX 1050", 2, 3),
        ("RTX 2060", 6, 12),
        ("RTX 3080", 10, 12),
        ("T1000", 4, 8),
        ("RTX PRO 5000", 48, 72),
        ("H20", 96, 141),
        ("M40", 12, 24),
    ):
        sizes = [named(f"{name} {size}GB").memory_bytes / GIB for size in (small, large)]
        assert sizes == [small, large]
    assert named("RTX 3060 8GB").bandwidth_bytes_per_s < named("RTX 3060").bandwidth_bytes_per_s
    assert named("RTX 3050 6GB").cuda_cores < named("RTX 3050").cuda_cores


def test_what_drivers_say_of_two_boards() -> None:
    """NVML and the CUDA driver (580) on an H100 and an H200; memory less what is reserved."""
    h100, h200 = named("H100 80GB HBM3"), named("H200")
    assert h100.memory_bytes == pytest.approx(81559 * 2**20, rel=0.01)
    assert h200.memory_bytes == pytest.approx(143771 * 2**20, rel=0.01)
    assert (h100.l2_bytes, h200.l2_bytes) == (52428800, 62914560)
    assert h100.bandwidth_bytes_per_s == pytest.approx(5120 / 8 * 2 * 2619e6, rel=0.01)
    assert h200.bandwidth_bytes_per_s == pytest.approx(6016 / 8 * 2 * 3201e6, rel=0.01)


# ------------------------------------------------------------------ names


def test_no_two_rows_share_a_name() -> None:
    written: dict[str, str] = {}
    for gpu, aliases in _rows():
        for name in (gpu.name, *aliases):
            assert written.setdefault(spelling(name), gpu.name) == gpu.name, name
            assert find_gpu(name) is gpu
    assert all(written)
    assert set(written) <= set(spellings())


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 80GB HBM3"),
        ("H100", "H100 80GB HBM3"),
        ("h100 80gb", "H100 80GB HBM3"),
        ("H100 SXM", "H100 80GB HBM3"),
        ("H100-SXM5-80GB", "H100 80GB HBM3"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("H100 NVL", "H100 NVL"),
        ("A100", "A100-SXM4-80GB"),
        ("A100 80GB", "A100-SXM4-80GB"),
        ("A100 40GB", "A100-SXM4-40GB"),
        ("A100-SXM-40GB", "A100-SXM4-40GB"),  # as drivers of 2020 called it
        ("A100 PCIe 40GB", "A100-PCIE-40GB"),
        ("A100 PCIe", "A100 80GB PCIe"),
        ("V100", "Tesla V100-SXM2-16GB"),
        ("V100 32GB", "Tesla V100-SXM2-32GB"),
        ("V100-PCIE-16GB", "Tesla V100-PCIE-16GB"),
        ("P100", "Tesla P100-PCIE-16GB"),
        ("T4", "Tesla T4"),
        ("NVIDIA T4", "Tesla T4"),
        ("3090", "GeForce RTX 3090"),
        ("RTX 3090", "GeForce RTX 3090"),
        ("NVIDIA GeForce RTX 3090", "GeForce RTX 3090"),
        ("rtx3090", "GeForce RTX 3090"),
        ("RTX 3090 24GB", "GeForce RTX 3090"),
        ("RTX 3080", "GeForce RTX 3080"),
        ("RTX 3080 10GB", "GeForce RTX 3080"),
        ("RTX 3080 12 GB", "GeForce RTX 3080 12GB"),
        ("GTX 1080 Ti", "GeForce GTX 1080 Ti"),
        ("1080ti", "GeForce GTX 1080 Ti"),
        ("GTX 1060", "GeForce GTX 1060 6GB"),
        ("GTX Titan X", "GeForce GTX TITAN X"),
        ("Titan X (Pascal)", "TITAN X (Pascal)"),
        ("RTX 6000", "Quadro RTX 6000"),
        ("RTX 6000 Ada", "RTX 6000 Ada Generation"),
        ("A6000", "RTX A6000"),
        ("RTX PRO 6000", "RTX PRO 6000 Blackwell Workstation Edition"),
        ("L40S", "L40S"),
        ("GH200", "GH200 480GB"),
        ("B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 Blackwell Server Edition"),
        ("NVIDIA RTX PRO 5000 72GB Blackwell", "RTX PRO 5000 72GB Blackwell"),
        ("NVIDIA RTX PRO 4000 Blackwell SFF Edition", "RTX PRO 4000 Blackwell SFF Edition"),
        ("RTX PRO 4500", "RTX PRO 4500 Blackwell"),
        ("NVIDIA GeForce RTX 5090 D", "GeForce RTX 5090 D"),
        ("NVIDIA GH200 120GB", "GH200 120GB"),
        ("NVIDIA H20-3e", "H20-3e"),
        ("NVIDIA H800 PCIe", "H800 PCIe"),
        ("NVIDIA GB10", "GB10"),
        ("DGX Spark", "GB10"),
        ("NVIDIA T4G", "T4G"),
        ("Tesla K80", "Tesla K80"),
        ("NVIDIA Tesla K80", "Tesla K80"),
        ("K80", "Tesla K80"),
        ("K40", "Tesla K40m"),
        ("A1000", "RTX A1000"),
        ("RTX 4060 Ti 16GB", "GeForce RTX 4060 Ti"),
        ("RTX 4060 Ti 8 GB", "GeForce RTX 4060 Ti 8GB"),
    ],
)
def test_ways_to_type_a_name(typed: str, name: str) -> None:
    assert resolve_gpu(typed).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA",
        "GeForce RTX 9999",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "GRID A100-10C",
        "NVIDIA GeForce RTX 3080 Laptop GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "GeForce RTX 2080 with Max-Q Design",
        "GeForce GTX 1070 Max-Q",
        "RTX 3090 12GB",
        "H100 94GB",
        "TITAN X",  # two generations of it were about as common
        "RTX",
        "3090 Super",
    ],
)
def test_other_gpus_are_not_taken_for_known_ones(name: str) -> None:
    assert find_gpu(name) is None
    with pytest.raises(EstimateError, match="unknown GPU"):
        resolve_gpu(name)


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(EstimateError) as raised:
        resolve_gpu("RTX 3090Tie")
    text = str(raised.value)
    assert "'RTX 3090Tie'" in text
    assert "closest names are GeForce RTX 3090 Ti" in text
    assert "Gpu(...)" in text

    with pytest.raises(EstimateError) as raised:
        resolve_gpu("Titan X")
    assert {"TITAN X (Pascal)", "GeForce GTX TITAN X"} <= set(
        str(raised.value).partition("names are ")[2].partition(".")[0].split(", ")
    )
    with pytest.raises(EstimateError, match=r"MIG slice.*H100 80GB HBM3"):
        resolve_gpu("H100 80GB HBM3 MIG 1g.10gb")
    with pytest.raises(EstimateError) as raised:
        resolve_gpu("Radeon")
    assert "nearest" not in str(raised.value)


@pytest.mark.parametrize(
    ("typed", "count", "one"),
    [
        ("8x A100", 8, "A100"),
        ("8 x A100", 8, "A100"),
        ("8xA100-SXM4-80GB", 8, "A100-SXM4-80GB"),
        ("A100 x8", 8, "A100"),
        ("A100x8", 8, "A100"),
        ("A100 (8x)", 8, "A100"),
        ("2 × H100", 2, "H100"),
        ("H100 NVL ×2", 2, "H100 NVL"),
        ("4 RTX 3090 Ti", 4, "RTX 3090 Ti"),
        ("8 NVIDIA A100s", 8, "NVIDIA A100"),
        ("2X A100 GPUs", 2, "A100"),
        ("A100, A100", 2, "A100"),
        ("2x A100 + A100", 3, "A100"),
        (["A100", "A100"], 2, "A100"),
        (("A100", "NVIDIA A100-SXM4-80GB"), 2, "A100"),
        (["8x A100"], 8, "A100"),
        ([resolve_gpu("L4")] * 3, 3, "L4"),
    ],
)
def test_several_gpus_are_answered_with_what_to_give(typed: Any, count: int, one: str) -> None:
    with pytest.raises(EstimateError) as raised:
        resolve_gpu(typed)
    assert str(raised.value).endswith(f'names {count} GPUs: give gpu="{one}" and devices={count}')
    assert resolve_gpu(one)


@pytest.mark.parametrize("typed", ["1x A100", ["A100"], ("1 A100",)])
def test_one_gpu_in_a_list_or_with_a_count(typed: Any) -> None:
    with pytest.raises(EstimateError, match=r'names 1 GPU: give gpu="A100"$'):
        resolve_gpu(typed)


@pytest.mark.parametrize("typed", [["A100", "H100"], "A100, H100", "2x A100 and 4x H100"])
def test_gpus_of_different_kinds(typed: Any) -> None:
    with pytest.raises(EstimateError, match="different kinds: estimate one kind at a time"):
        resolve_gpu(typed)


@pytest.mark.parametrize("typed", ["8x Radeon", "0x A100", "8x A100 MIG 1g.10gb"])
def test_a_count_of_what_is_not_known(typed: str) -> None:
    with pytest.raises(EstimateError, match="unknown GPU"):
        resolve_gpu(typed)


@pytest.mark.parametrize("typed", [[], ["Radeon"], ["A100", 3], b"A100", None, {"A100": 8}])
def test_what_is_not_a_name(typed: Any) -> None:
    with pytest.raises(EstimateError, match="must be the name of a GPU"):
        resolve_gpu(typed)


def test_a_gpu_of_ones_own() -> None:
    own = Gpu("mine", 100, {"fp32": 1e13}, bandwidth_bytes_per_s=1e11)
    assert resolve_gpu(own) is own
    assert math.isnan(own.memory_bytes)
    assert math.isnan(own.cuda_cores)
    assert math.isnan(own.l2_bytes)
    assert own.compute_capability is None
    with pytest.raises(EstimateError, match="gpu=3"):
        resolve_gpu(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tdp_W": 0}, "tdp_W=0"),
        ({"memory_bytes": -1.0}, "memory_bytes"),
        ({"bandwidth_bytes_per_s": 0.0}, "bandwidth_bytes_per_s"),
        ({"peak_flops_per_s": {"fp32": 0.0}}, "fp32"),
    ],
)
def test_no_number_of_a_gpu_is_zero(changed: dict[str, object], named: str) -> None:
    values = {"name": "mine", "tdp_W": math.nan, "peak_flops_per_s": {"fp32": 1e13}, **changed}
    with pytest.raises(EstimateError, match=named):
        Gpu(**values)  # type: ignore[arg-type]


def test_cells_left_empty_are_nan() -> None:
    assert math.isnan(named("GB200").cuda_cores)
    assert math.isnan(named("L40S").l2_bytes)


# ------------------------------------------------------------------ precisions


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("GTX 750 Ti", {"fp32"}),
        ("M40", {"fp32"}),
        ("P100", {"fp32", "fp16"}),
        ("GTX 1080 Ti", {"fp32", "fp16"}),
        ("V100", {"fp32", "fp16"}),
        ("GTX 1660", {"fp32", "fp16"}),
        ("T4", {"fp32", "fp16"}),
        ("A100", {"fp32", "tf32", "bf16", "fp16"}),
        ("RTX 3090", {"fp32", "tf32", "bf16", "fp16"}),
        ("H100", {"fp32", "tf32", "bf16", "fp16"}),
        ("K80", {"fp32"}),
        ("RTX 6000D", {"fp32", "tf32", "bf16", "fp16"}),  # although no peak is known
    ],
)
def test_which_gpu_has_which_precision(name: str, has: set[str]) -> None:
    gpu = named(name)
    assert {precision for precision in PRECISIONS if supports(gpu, precision)} == has


@each_row
def test_a_precision_with_a_peak_is_one_that_the_gpu_has(gpu: Gpu) -> None:
    assert all(check_precision(gpu, precision) == precision for precision in gpu.peak_flops_per_s)


def test_a_precision_that_is_missing() -> None:
    v100, m40 = named("V100"), named("M40")
    assert check_precision(v100, "tf32") == "fp32"
    assert check_precision(m40, "tf32") == "fp32"
    assert check_precision(v100, "fp16") == "fp16"
    with pytest.raises(
        EstimateError, match=r"^Tesla V100-SXM2-16GB lacks bf16; it has fp32, fp16$"
    ):
        check_precision(v100, "bf16")
    with pytest.raises(EstimateError, match=r"^Tesla M40 lacks fp16; it has fp32$"):
        check_precision(m40, "fp16")
    with pytest.raises(EstimateError, match=r"fp8.*fp32, tf32, bf16, fp16"):
        check_precision(v100, "fp8")


def test_precisions_of_a_gpu_whose_capability_is_not_known() -> None:
    own = Gpu("mine", 100, {"fp32": 1e13, "bf16": 1e14})
    assert check_precision(own, "bf16") == "bf16"
    assert check_precision(own, "tf32") == "fp32"
    with pytest.raises(EstimateError, match="mine lacks fp16; it has fp32, bf16"):
        check_precision(own, "fp16")


def test_peaks() -> None:
    assert peak_flops_per_s(named("A100"), "tf32") == 156e12
    assert peak_flops_per_s(named("V100"), "tf32") == 15.7e12
    assert peak_flops_per_s(named("V100"), "fp16") == 125e12
    # Stored in fp16 and computed in fp32: 1/64 is nobody's choice.
    assert peak_flops_per_s(named("GTX 1080 Ti"), "fp16") == 11.3e12
    assert peak_flops_per_s(named("P100"), "fp16") == 18.7e12
    with pytest.raises(EstimateError, match="no bf16 peak known for RTX 6000D"):
        peak_flops_per_s(named("RTX 6000D"), "bf16")
    with pytest.raises(EstimateError, match="lacks bf16"):
        peak_flops_per_s(named("T4"), "bf16")


# ------------------------------------------------------------------ NVML


LAPTOP = "NVIDIA GeForce RTX 4090 Laptop GPU"


@pytest.fixture
def laptop(nvml: FakeNvml) -> FakeNvml:
    """GPU 0 is one that the table lacks, GPU 1 an H100."""
    nvml.set_name(0, LAPTOP)
    # 76 SMs; 256 lines of GDDR6 at 18 Gbit/s.
    nvml.set_chip(0, cores=9728, sm_MHz=2040, memory_MHz=9001, bus_bits=256, capability=(8, 9))
    nvml.set_memory(0, used=0, total=16 * GIB)
    nvml.set_power_limit(0, watts=80, default_watts=150)
    return nvml


def test_a_gpu_of_this_machine_that_the_table_lacks(laptop: FakeNvml) -> None:
    gpu = resolve_gpu("RTX 4090 laptop gpu")
    assert gpu.name == "GeForce RTX 4090 Laptop GPU"
    assert gpu.tdp_W == 150
    assert gpu.memory_bytes == 16 * GIB
    assert gpu.cuda_cores == 9728
    assert gpu.bandwidth_bytes_per_s == pytest.approx(576e9, rel=0.001)
    assert gpu.compute_capability == (8, 9)
    assert gpu.generation == "Ada"
    assert "NVML" in gpu.source
    assert math.isnan(gpu.l2_bytes)
    # 2 × 9728 × 2.04 GHz; tensor cores: 76 SMs × 512 FLOP × 2.04 GHz, as GeForce.
    assert gpu.peak_flops_per_s == pytest.approx(
        {"fp32": 39.69e12, "fp16": 79.38e12, "bf16": 79.38e12, "tf32": 39.69e12}, rel=0.001
    )
    assert check_precision(gpu, "bf16") == "bf16"


def test_the_gpus_of_this_machine(laptop: FakeNvml) -> None:
    first, second = gpus_present()
    assert first == resolve_gpu(LAPTOP)
    assert second is find_gpu("H100")  # data sheets before NVML


def test_the_table_is_asked_first(nvml: FakeNvml) -> None:
    assert resolve_gpu("NVIDIA H100 80GB HBM3") is find_gpu("H100")
    assert nvml.calls("nvmlInitWithFlags") == 0


def test_nvml_agrees_with_the_data_sheet_of_an_h100(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()
    told = gpu_of(pynvml.nvmlDeviceGetHandleByIndex(0))
    sheet = named("H100")
    assert told.name == sheet.name
    assert told.generation == sheet.generation
    assert told.compute_capability == sheet.compute_capability
    assert told.cuda_cores == sheet.cuda_cores
    assert told.tdp_W == sheet.tdp_W
    assert told.memory_bytes == pytest.approx(sheet.memory_bytes, rel=0.01)
    assert told.bandwidth_bytes_per_s == pytest.approx(sheet.bandwidth_bytes_per_s, rel=0.01)
    # NVML's highest clock is the data sheet's for fp32; tensor rates are stated at a lower clock.
    assert told.peak_flops_per_s["fp32"] == pytest.approx(sheet.peak_flops_per_s["fp32"], rel=0.01)
    assert told.peak_flops_per_s == pytest.approx(sheet.peak_flops_per_s, rel=0.1)


@pytest.mark.parametrize(
    ("name", "capability", "precisions"),
    [
        ("Quadro K4000M", (3, 0), {"fp32"}),
        ("NVIDIA GeForce 940MX", (5, 0), {"fp32"}),
        ("NVIDIA GeForce MX150", (6, 1), {"fp32", "fp16"}),
        ("NVIDIA T1200 Laptop GPU", (7, 5), {"fp32", "fp16"}),
        ("NVIDIA Quadro RTX 3000", (7, 5), {"fp32", "fp16"}),
        ("NVIDIA RTX A3000 Laptop GPU", (8, 6), {"fp32", "fp16", "bf16", "tf32"}),
        ("NVIDIA Next", (99, 0), {"fp32"}),  # later than this package
    ],
)
def test_peaks_are_of_precisions_that_the_chip_has(
    nvml: FakeNvml, name: str, capability: tuple[int, int], precisions: set[str]
) -> None:
    nvml.set_name(1, name)
    nvml.set_chip(1, cores=1024, sm_MHz=1000, memory_MHz=2500, bus_bits=64, capability=capability)
    gpu = resolve_gpu(name)
    assert set(gpu.peak_flops_per_s) == precisions
    assert gpu.peak_flops_per_s["fp32"] == 2.048e12
    assert all(value > 0 for value in gpu.peak_flops_per_s.values())


def test_turing_without_tensor_cores() -> None:
    assert relative_rates("T1000", (7, 5)) == {"fp16": 2}
    assert relative_rates("GeForce GTX 1650", (7, 5)) == {"fp16": 2}
    assert relative_rates("T4G", (7, 5)) == {"fp16": 8}
    assert relative_rates("Quadro RTX 3000", (7, 5)) == {"fp16": 8}
    assert relative_rates("GeForce RTX 2060", (7, 5)) == {"fp16": 4}


@pytest.mark.parametrize(
    ("function", "missing"),
    [
        ("nvmlDeviceGetNumGpuCores", {"cuda_cores", "peak_flops_per_s"}),
        ("nvmlDeviceGetMaxClockInfo", {"bandwidth_bytes_per_s", "peak_flops_per_s"}),
        ("nvmlDeviceGetMemoryBusWidth", {"bandwidth_bytes_per_s"}),
        ("nvmlDeviceGetMemoryInfo", {"memory_bytes"}),
        ("nvmlDeviceGetPowerManagementDefaultLimit", {"tdp_W"}),
        ("nvmlDeviceGetCudaComputeCapability", {"compute_capability"}),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST])
def test_what_nvml_does_not_answer_is_not_known(
    laptop: FakeNvml, function: str, missing: set[str], code: int
) -> None:
    laptop.fail(function, device=0, code=code)
    gpu = resolve_gpu(LAPTOP)
    unknown = {
        name
        for name in ("tdp_W", "bandwidth_bytes_per_s", "memory_bytes", "cuda_cores")
        if math.isnan(getattr(gpu, name))
    }
    unknown |= {
        name for name in ("peak_flops_per_s", "compute_capability") if not getattr(gpu, name)
    }
    assert unknown == missing


def test_zero_is_not_an_answer(laptop: FakeNvml) -> None:
    laptop.set_chip(0, cores=0, sm_MHz=0, memory_MHz=9001, bus_bits=0, capability=(8, 9))
    gpu = resolve_gpu(LAPTOP)
    assert math.isnan(gpu.cuda_cores)
    assert math.isnan(gpu.bandwidth_bytes_per_s)
    assert gpu.peak_flops_per_s == {}


@pytest.mark.parametrize(
    "function",
    [
        "nvmlInitWithFlags",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetName",
    ],
)
def test_a_machine_that_cannot_be_asked_has_no_such_gpu(laptop: FakeNvml, function: str) -> None:
    laptop.fail(function, code=pynvml.NVML_ERROR_UNKNOWN)
    assert gpus_present() == []
    with pytest.raises(EstimateError, match="unknown GPU"):
        resolve_gpu(LAPTOP)


def test_one_lost_gpu_does_not_hide_the_others(laptop: FakeNvml) -> None:
    laptop.fail("nvmlDeviceGetHandleByIndex_v2", device=0, code=pynvml.NVML_ERROR_GPU_IS_LOST)
    assert gpus_present() == [find_gpu("H100")]


def test_a_gpu_without_a_name(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    nvml.fail("nvmlDeviceGetName", code=pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(EstimateError, match="name"):
        gpu_of(handle)


@pytest.mark.parametrize("trouble", [None, "nvmlDeviceGetCount_v2", "nvmlDeviceGetName"])
def test_nvml_is_left_as_it_was(nvml: FakeNvml, trouble: str | None) -> None:
    if trouble:
        nvml.fail(trouble, code=pynvml.NVML_ERROR_UNKNOWN)
    gpus_present()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_a_slice_of_a_gpu_of_this_machine_is_not_the_gpu(nvml: FakeNvml) -> None:
    nvml.set_mig(0, enabled=True)
    with pytest.raises(EstimateError, match="MIG slice"):
        resolve_gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb")


def test_without_a_driver_names_are_looked_up_all_the_same(nvml: FakeNvml) -> None:
    nvml.remove()
    assert gpus_present() == []
    assert resolve_gpu("H100").name == "H100 80GB HBM3"


def test_importing_costs_nothing() -> None:
    script = (
        "import sys, energyest.gpus as gpus; gpus.resolve_gpu('H100')\n"
        "assert not {'pynvml', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_unknown_of_both_is_the_same() -> None:
    one, other = (Gpu("mine", 300, {}, l2_bytes=float("nan")) for _ in range(2))
    assert one == other
    assert one != Gpu("mine", 300, {}, l2_bytes=5.0)
    assert one != "mine"
