"""Which GPUs are measured: by environment, by torch and by name, on a simulated driver."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pynvml
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

import energyest
from energyest.measure.sensors import Detection, detect
from energyest.measure.sensors.nvml import GpuAddress
from energyest.measure.sensors.visible import visible_gpus
from energyest.measure.torch_gpus import address_of, trained_on
from simulation.fake_nvml import FakeNvml
from simulation.stepped import NvmlClock

# Four GPUs, and MIG devices on the second.
A, B, C, D = UUIDS = [
    "GPU-8d3f1b62-54c9-7ae0-91d7-2f06c3b8e415",
    "GPU-1c97e0a4-b2d8-43f5-8e6b-90f1a7d3c258",
    "GPU-f40b6d19-7a3e-c581-24f9-d8e15b07a36c",
    "GPU-6e25a8f7-0d91-b4c3-a718-3c9fe2d4500b",
]
M, N = MIGS = [
    "MIG-5c8a0101-1d3f-5b7e-9a02-c4e6f8b0d241",
    "MIG-5c8a0102-2e40-5c8f-ab13-d5f709c1e352",
]
BUSES = {A: 0x19, B: 0x3B, C: 0x4C, D: 0x5D, M: 0x3B, N: 0x3B}
WATTS = [110, 220, 330, 440]  # of each GPU, so that readings tell whose they are


def alike(nvml: FakeNvml) -> None:
    nvml.set_device_count(4)
    for device, watts in enumerate(WATTS):
        nvml.set_power(device, watts=watts)


def unlike(nvml: FakeNvml) -> None:
    """From the fastest to the slowest: B, then C and D, which are alike, then A."""
    alike(nvml)
    chips = [("Tesla T4", 2560, 1590), ("A100", 6912, 1410), ("A100", 6912, 1410)]
    for device, (name, cores, clock) in zip((0, 2, 3), chips, strict=True):
        nvml.set_name(device, name)
        nvml.set_chip(
            device, cores=cores, sm_MHz=clock, memory_MHz=5001, bus_bits=256, capability=(8, 0)
        )


def sliced(nvml: FakeNvml) -> None:
    alike(nvml)
    nvml.set_mig(1, enabled=True)
    for uuid in MIGS:
        nvml.add_mig_device(1, uuid)


Machine = Callable[[FakeNvml], None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER; None is to unset."""

    def setter(visible: str | None, order: str | None = None) -> None:
        for name, value in {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": order}.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)

    return setter


def gpus(names: list[int | str] | None = None) -> Detection:
    return detect(names, components=("gpu",))


def uuids(detection: Detection) -> list[str]:
    return [sensor.device.details["uuid"] for sensor in detection]


def watts(detection: Detection) -> list[float]:
    return [sensor.read(0.0).power_W for sensor in detection]


# By CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER

ORDERS = (None, "FASTEST_FIRST", "PCI_BUS_ID")
TABLE: list[tuple[Machine, tuple[str | None, ...], str | None, list[str]]] = [
    *(
        (machine, ORDERS, visible, expected)
        # What is named by UUID, and what names nothing, is the same on every machine.
        for machine in (alike, unlike)
        for visible, expected in [
            (C, [C]),
            (f"{D},{A}", [D, A]),
            ("GPU-f", [C]),
            ("GPU-6e25,GPU-8d3f1b62-54c9", [D, A]),
            (C.upper(), [C]),
            (f"{C} ,{A}", [C, A]),  # what follows a whole UUID is ignored
            (f"{C}, {A}", [C]),  # " GPU-..." is no UUID
            (f"{C},{C}", []),
            (f"{C},GPU-f", []),
            (f"{C},GPU-00,{C}", [C]),
            (f"{C},0", [C]),  # one kind of names in one list
            (f"GPU-00,{C}", []),
            (C.lower(), []),  # but the prefix is written so
            (C[4:], []),
            ("GPU-", []),
            (M, []),
            (f"MIG-{B}/1/0", []),  # MIG is off
            ("", []),
            (" ", []),
            ("-1", []),
            ("-1,0", []),
            (",0", []),
            ("4", []),
            ("none", []),
            ("NoDevFiles", []),
            ("2,2", []),
            ("1,2,1", []),
        ]
    ),
    *(
        (alike, ORDERS, visible, expected)
        for visible, expected in [
            (None, [A, B, C, D]),
            ("0", [A]),
            ("3,1", [D, B]),
            (" 2 ,\t0", [C, A]),
            ("2,-1,1", [C]),
            ("2,,1", [C]),
            ("2,4,1", [C]),
            ("2,4,2", [C]),
            ("2,x,2", [C]),
            (f"2,{A}", [C]),
            ("2gpu,1x", [C, B]),
            ("+2,-0", [C, A]),
            ("02", [C]),
            ("2.5", [C]),
            ("0x2", [A]),
            ("2;1", [C]),
        ]
    ),
    *(
        (unlike, orders, visible, expected)
        for orders, visible, expected in [
            (("PCI_BUS_ID",), None, [A, B, C, D]),
            (("PCI_BUS_ID",), "0", [A]),
            (("PCI_BUS_ID",), "3,1", [D, B]),
            (("PCI_BUS_ID",), "2,4", [C]),
            ((None, "FASTEST_FIRST", "?"), None, [B, C, D, A]),
            ((None, "FASTEST_FIRST", "?"), "0", [B]),
            ((None, "FASTEST_FIRST", "?"), "3,1", [A, C]),
            ((None, "FASTEST_FIRST", "?"), "2,4", [D]),
            ((None, "FASTEST_FIRST", "?"), "3,2,1,0", [A, D, C, B]),
        ]
    ),
    *(
        (sliced, ORDERS, visible, expected)
        for visible, expected in [
            # A process gets a single MIG device, and no other GPU beside it.
            (None, [B]),
            ("0,1,2", [B]),
            ("1", [B]),
            ("0", [A]),
            ("3,2", [D, C]),
            (B, [B]),
            (f"{A},{B}", [B]),
            (M, [B]),
            (f"{M},{N}", [B]),
            (f"{N},{M}", [B]),
            ("MIG-5c8a0102", [B]),
            (f"{M},{C}", [B]),
            (f"{C},{M}", [C]),
            (f"MIG-{B}/1/0", [B]),
            (f"MIG-{B}/1/0,MIG-{B}/2/0", [B]),
            (f"MIG-{B}/1/0,MIG-{B}/1/0", []),
            (f"MIG-{A}/1/0", []),  # not in MIG mode
            (f"{M},{M}", []),
            ("MIG-5c8a", []),  # fits both
            ("MIG-", []),
            (f"0,{M}", [A]),
        ]
    ),
]


@pytest.mark.parametrize(
    ("machine", "order", "visible", "expected"),
    [(row[0], order, *row[2:]) for row in TABLE for order in row[1]],
)
def test_what_the_environment_leaves(
    nvml: FakeNvml,
    environment: Callable[..., None],
    machine: Machine,
    order: str | None,
    visible: str | None,
    expected: list[str],
) -> None:
    machine(nvml)
    environment(visible, order)
    with closing(gpus()) as detection:
        assert uuids(detection) == expected
        assert watts(detection) == [WATTS[UUIDS.index(uuid)] for uuid in expected]


# What a driver did (H100, one GPU, CUDA 13.0): <U> is the GPU's UUID, <B> without its prefix.
# Numbers of more than 32 bits are not followed; the driver takes their lower 32 bits.
ONE = ["0", "0,1", "0,7,0", "0,-1,0", "0,,0", " 0 ", "\t0", "0\t", "0 0", "0gpu", "+0", "-0"]
ONE += ["0x0", "0x1", "00", "0.5", "0;1", "0,GPU", "0,<U>", "0,<U>,0", "0,x,0", "0,1,1,0", "<U>"]
ONE += ["GPU-8d3f", "GPU-8", "<U>,0", "<U>,GPU-zz,<U>", "<U>,x,<U>", "<U> ", "<U> ,GPU-zz", "<U>x"]
ONE += ["<U><U>", "<U>, <U>", "<U>;0", "0,MIG-<B>", "0,1x,0"]
NONE = ["1", "0,0", ",0", "-1", "-1,0", "", "  ", "--0", "++0", "+ 0", "x0", "2147483648", "none"]
NONE += ["18446744073709551616", "99999999999999999999999", "NoDevFiles", "all", "gpu-<B>", "<B>"]
NONE += ["Gpu-<B>", "GPU-", "GPU", "GPU-,GPU-", "<U>,<U>", "<U>,GPU-8d3f", " <U>", "GPU-8d3f "]
NONE += ["MIG-<U>/0/0", "MIG-", "7,0", "GPU-zz,<U>"]


@pytest.mark.parametrize("visible", ONE + NONE)
def test_as_a_real_driver_reads_it(visible: str) -> None:
    value = visible.replace("<U>", A).replace("<B>", A[4:])
    found = visible_gpus([GpuAddress(0, A)], {"CUDA_VISIBLE_DEVICES": value}).gpus
    assert len(found) == (visible in ONE)


def as_torch_reads_it(listed: str) -> list[str]:
    """CUDA's interpretation, by torch, of a list without MIG devices, on four equal GPUs."""
    with mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": listed}):
        entries = torch.cuda._parse_visible_devices()
    if entries and isinstance(entries[0], str):
        numbers = torch.cuda._transform_uuid_to_ordinals(entries, UUIDS)
    else:
        too_high = [i for i, number in enumerate(entries) if number >= len(UUIDS)]
        numbers = entries[: too_high[0]] if too_high else entries
    return [UUIDS[number] for number in numbers]


ENTRIES = st.one_of(
    st.integers(-2, 5).map(str),
    st.text("012 +-\tgGPU", max_size=4),
    st.sampled_from(UUIDS).flatmap(lambda uuid: st.integers(1, 40).map(lambda n: uuid[:n])),
)


@given(listed=st.lists(ENTRIES, max_size=6).map(",".join))
@example("1gpu2,2ampere")
@example("+1,0")
@example(f"{A},{B[:6]},1")
@example("1,2,1")
def test_as_torch_reads_it(listed: str) -> None:
    present = [GpuAddress(number, uuid) for number, uuid in enumerate(UUIDS)]
    found = [g.uuid for g in visible_gpus(present, {"CUDA_VISIBLE_DEVICES": listed}).gpus]
    # torch looks for repetitions past the end of the list, too, which the driver does not.
    read = ",".join(listed.split(",")[: len(found) + 1]) if found else listed
    try:
        reference = as_torch_reads_it(read)
    except ValueError:  # a sign without a number
        assume(False)
    assert found == reference


@pytest.mark.parametrize(
    ("machine", "visible", "order", "phrases"),
    [
        (unlike, "0", None, ["an estimate"]),
        (unlike, "1,2", "FASTEST_FIRST", ["an estimate"]),
        (unlike, "0", "PCI_BUS_ID", []),
        (unlike, A, None, []),
        # All are measured, in whatever order.
        (unlike, None, None, []),
        (unlike, "3,2,1,0", None, []),
        (unlike, "-1", None, ["CUDA_VISIBLE_DEVICES leaves none"]),
        (alike, "0", None, []),
        (sliced, "0", None, []),
        (sliced, "1", None, []),
        (sliced, M, None, []),
        (sliced, None, None, ["only GPU 1 is measured"]),
        (sliced, "0,1", None, ["only GPU 1 is measured"]),
    ],
)
def test_doubts_are_noted(
    nvml: FakeNvml,
    environment: Callable[..., None],
    machine: Machine,
    visible: str | None,
    order: str | None,
    phrases: list[str],
) -> None:
    machine(nvml)
    environment(visible, order)
    with closing(gpus()) as detection:
        assert len(detection.notes) == len(phrases)
        assert all(phrase in note for phrase, note in zip(phrases, detection.notes, strict=True))


def test_speeds_that_are_not_known_count_as_slow(
    nvml: FakeNvml, environment: Callable[..., None]
) -> None:
    unlike(nvml)
    nvml.fail("nvmlDeviceGetNumGpuCores", code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=1)
    environment("0,3")
    with closing(gpus()) as detection:
        assert uuids(detection) == [C, B]


@pytest.mark.parametrize("visible", [f"{D},{B}", "3,1", "GPU-6e25,GPU-1c97"])
def test_the_recorded_energy_is_that_of_the_gpus_in_use(
    nvml: FakeNvml, nvml_clock: NvmlClock, environment: Callable[..., None], visible: str
) -> None:
    alike(nvml)
    environment(visible)
    with energyest.track(components=["gpu"], interval_s=0.02) as run:
        for _ in run.epochs(2):
            nvml_clock.sleep(0.15)
    trace = run.trace
    power = trace.power.groupby("device")["power_W"].unique()
    assert {device: list(values) for device, values in power.items()} == {
        "gpu:3": [440.0],
        "gpu:1": [220.0],
    }
    assert list(trace.epochs["mean_power_W"]) == pytest.approx([660, 660], rel=0.05)
    assert [device["uuid"] for device in trace.meta["devices"]] == [D, B]


# By what torch sees


class Cuda:
    """Stands in for torch.cuda with a list of visible GPUs and MIG devices."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Sequence[str] = ()
        self.known = ("uuid", "pci")  # what this torch tells of a device
        for name in ("is_initialized", "device_count", "get_device_properties", "current_device"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        # A torch without CUDA does not have these.
        monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", self.device_count, raising=False)
        monkeypatch.setattr(
            torch.cuda, "_get_device_properties", self.get_device_properties, raising=False
        )

    def is_initialized(self) -> bool:
        return bool(self.seen)

    def device_count(self) -> int:
        return len(self.seen)

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, device: torch.device | int) -> SimpleNamespace:
        index = device.index or 0 if isinstance(device, torch.device) else device
        uuid = self.seen[index]
        told: dict[str, Any] = {"name": "NVIDIA H100 80GB HBM3"}
        if "uuid" in self.known:
            told["uuid"] = Uuid(uuid[4:])
        if "pci" in self.known:
            told |= {"pci_domain_id": 0, "pci_bus_id": BUSES[uuid], "pci_device_id": 0}
        return SimpleNamespace(**told)


class Uuid:
    """As torch._C._CUuuid: no string, but it has one, without a prefix."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


@pytest.mark.parametrize("known", [("uuid", "pci"), ("uuid",), ("pci",)])
@pytest.mark.parametrize(
    ("machine", "seen", "expected"),
    [
        (alike, [C, A], [C, A]),
        (unlike, [A, B, C, D], [A, B, C, D]),  # whatever was estimated
        (sliced, [N], [B]),
        (sliced, [A, C], [A, C]),
        (sliced, [M, N], [B]),  # if CUDA should show several some day: one GPU
    ],
)
def test_what_torch_sees_comes_before_variables(
    nvml: FakeNvml,
    cuda: Cuda,
    environment: Callable[..., None],
    machine: Machine,
    seen: list[str],
    expected: list[str],
    known: tuple[str, ...],
) -> None:
    machine(nvml)
    environment("3")  # since CUDA was initialised
    with closing(gpus()) as detection:
        assert uuids(detection) == ([A] if machine is unlike else [D])
    cuda.seen, cuda.known = seen, known
    with closing(gpus()) as detection:
        assert uuids(detection) == expected
        assert watts(detection) == [WATTS[UUIDS.index(uuid)] for uuid in expected]
        assert detection.notes == ()


def fails(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    "trouble",
    [RuntimeError("CUDA error"), AttributeError("_get_device_properties"), None],
)
def test_variables_where_torch_cannot_tell(
    nvml: FakeNvml,
    cuda: Cuda,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    trouble: Exception | None,
) -> None:
    alike(nvml)
    environment("3,1")
    cuda.seen, cuda.known = [C, A], ()
    if trouble:
        monkeypatch.setattr(torch.cuda, "_get_device_properties", fails(trouble))
    with closing(gpus()) as detection:
        assert uuids(detection) == [D, B]


def test_detecting_imports_no_torch() -> None:
    script = (
        "import sys\nfrom energyest.measure.sensors import detect\n"
        "detect()\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Of the devices of a Trainer


@pytest.mark.parametrize("known", [("uuid", "pci"), ("uuid",), ("pci",), ()])
@pytest.mark.parametrize(
    ("machine", "visible", "order", "seen", "devices", "expected"),
    [
        (alike, None, None, [A, B, C, D], [1, 3], [B, D]),
        (alike, None, None, [A, B, C, D], "auto", [A, B, C, D]),
        (alike, "3,2,1,0", None, [D, C, B, A], [1, 3], [C, A]),
        (alike, "2,0", None, [C, A], "auto", [C, A]),
        (alike, "2,0", None, [C, A], [1], [A]),
        (alike, f"{D},{B}", None, [D, B], [1], [B]),
        (unlike, None, None, [B, C, D, A], [1, 3], [C, A]),
        (unlike, None, "PCI_BUS_ID", [A, B, C, D], [1, 3], [B, D]),
        (sliced, N, None, [N], "auto", [B]),
        (sliced, None, None, [M], [0], [B]),
        (sliced, "3,0", None, [D, A], [1], [A]),
    ],
)
def test_devices_of_a_trainer(
    nvml: FakeNvml,
    cuda: Cuda,
    environment: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    machine: Machine,
    visible: str | None,
    order: str | None,
    seen: list[str],
    devices: list[int] | str,
    expected: list[str],
    known: tuple[str, ...],
) -> None:
    """The root device of each process, as the Trainer chooses them, leads to its own GPU."""
    machine(nvml)
    environment(visible, order)
    cuda.seen, cuda.known = seen, known
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    trainer = pl.Trainer(
        accelerator="cuda", devices=devices, strategy="ddp", logger=False, barebones=True
    )
    roots: Any = trainer.strategy.parallel_devices
    addresses = [address_of(root) for root in roots]
    assert addresses == expected
    for address, uuid in zip(addresses, expected, strict=True):
        with closing(gpus([address])) as detection:
            assert uuids(detection) == [uuid]
            assert watts(detection) == [WATTS[UUIDS.index(uuid)]]
            assert detection.notes == ()


def test_a_gpu_without_uuid_has_an_address(nvml: FakeNvml, cuda: Cuda) -> None:
    alike(nvml)
    cuda.seen = UUIDS
    nvml.fail("nvmlDeviceGetUUID", code=pynvml.NVML_ERROR_UNKNOWN)
    assert address_of(torch.device("cuda", 2)) == "00000000:4C:00.0"
    with closing(gpus([address_of(torch.device("cuda", 2))])) as detection:
        assert watts(detection) == [330]
    nvml.fail("nvmlDeviceGetPciInfo_v3", code=pynvml.NVML_ERROR_UNKNOWN)
    cuda.known = ()
    assert address_of(torch.device("cuda", 2)) == "2"


def test_no_gpu_is_found_by_the_address_of_one_that_nvml_does_not_know(
    nvml: FakeNvml, cuda: Cuda
) -> None:
    cuda.seen = [D]  # of four, where NVML knows the first two
    with closing(gpus([address_of(torch.device("cuda", 0))])) as detection:
        assert len(detection) == 0
        assert "'cuda:0' is not measured" in detection.notes[0]
    nvml.remove()
    assert address_of(torch.device("cuda", 0)) == "cuda:0"


class Spread(torch.nn.Module):
    """A model with parameters and buffers on given devices."""

    def __init__(self, parameters: Sequence[str], buffers: Sequence[str] = ()) -> None:
        super().__init__()
        self.where = {"parameters": parameters, "buffers": buffers}

    def parameters(self, recurse: bool = True) -> Any:
        return (SimpleNamespace(device=torch.device(name)) for name in self.where["parameters"])

    def buffers(self, recurse: bool = True) -> Any:
        return (SimpleNamespace(device=torch.device(name)) for name in self.where["buffers"])


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("module", "root", "expected"),
    [
        (Spread(["cuda:0"]), "cuda:0", [A]),
        (Spread(["cpu", "cuda:1", "cuda:3", "cuda:1"]), "cuda:3", [D, B]),
        (Spread(["cuda:0", "cuda:1"], buffers=["cuda:2"]), "cuda:1", [B, A, C]),
        (Spread(["cuda:0", "cuda"]), "cuda", [A]),  # the current one
        (Spread([]), "cuda:2", [C]),
        (Spread(["cuda:2", "meta"]), "cpu", [C]),
        (Spread(["cpu", "meta"]), "cpu", []),
        (torch.nn.LazyLinear(3), "cpu", []),
        (torch.nn.LazyBatchNorm1d(), "cuda:1", [B]),
        (torch.nn.Linear(3, 3, device="meta"), "cuda:1", [B]),
        (torch.nn.Identity(), "cpu", []),
        (Spread(["cpu"]), "mps", []),
    ],
)
def test_gpus_on_which_a_model_is_trained(
    nvml: FakeNvml, cuda: Cuda, module: torch.nn.Module, root: str, expected: list[str]
) -> None:
    alike(nvml)
    cuda.seen = UUIDS
    assert trained_on(module, torch.device(root)) == expected


def test_without_cuda_no_driver_is_asked(nvml: FakeNvml) -> None:
    assert trained_on(torch.nn.Linear(2, 2), CPU) == []
    assert nvml.calls("nvmlInitWithFlags") == 0


# By name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([1, 3], [B, D]),
        (["3", " 0 "], [D, A]),
        ([np.int64(2)], [C]),
        ([A.lower(), B.upper()], [A, B]),
        (["gpu-f"], [C]),
        (["0000:4c:00.0", "00000000:19:00.0", "5D:00.0"], [C, A, D]),
        ([C, "0000:4C:00.0", 2, "GPU-f40b"], [C]),
        ([M], [B]),
        ([M, N, B, 1, f"MIG-{B}/1/0"], [B]),
        (["mig-5c8a0102", A], [B, A]),
    ],
)
def test_gpus_by_name(
    nvml: FakeNvml, environment: Callable[..., None], names: list[int | str], expected: list[str]
) -> None:
    sliced(nvml)
    environment("0")
    with closing(gpus(names)) as detection:
        assert uuids(detection) == expected
        assert watts(detection) == [WATTS[UUIDS.index(uuid)] for uuid in expected]
        assert detection.notes == ()


@pytest.mark.parametrize(
    "name",
    [
        *(True, False, 1.0, None, b"GPU-1c97", ("GPU-1c97",), 4, -1, "-1", "", "gpu", "GPU-"),
        *("MIG-", "MIG-5c8a", f"MIG-{A}/1/0", f"MIG-{B}/1"),
        *("cuda:1", "0001:19:00.0", "0000:1A:00.0"),
    ],
)
def test_what_names_no_gpu_is_noted(nvml: FakeNvml, name: Any) -> None:
    sliced(nvml)
    with closing(gpus([name, 0])) as detection:
        assert uuids(detection) == [A]
        (note,) = detection.notes
        assert note.startswith(f"GPU {name!r} is not measured: NVML knows 4 GPU(s)")


# MIG


def test_a_gpu_in_mig_mode_is_marked_as_shared(nvml: FakeNvml) -> None:
    sliced(nvml)
    nvml.set_utilization(1, gpu=50)
    with closing(gpus([M, N, 0])) as detection:
        parent, other = (sensor.device.as_meta() for sensor in detection)
        assert (parent["uuid"], parent["mig"], parent["shared"]) == (B, MIGS, True)
        assert parent["method"] == (
            "NVML, energy counter and instant power; "
            "of the whole GPU, whose other MIG devices may share it"
        )
        reading = detection[0].read(0.0)
        assert reading.power_W == 220
        assert math.isnan(reading.utilization)  # NVML has none then
        assert not {"mig", "shared"} & set(other)


@pytest.mark.parametrize(
    ("function", "code", "mig"),
    [
        ("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_NOT_SUPPORTED, None),  # most boards
        ("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, None),
        ("nvmlDeviceGetMaxMigDeviceCount", pynvml.NVML_ERROR_UNKNOWN, []),
        ("nvmlDeviceGetMigDeviceHandleByIndex", pynvml.NVML_ERROR_NO_PERMISSION, []),
    ],
)
def test_a_gpu_is_measured_whose_mig_devices_cannot_be_listed(
    nvml: FakeNvml, function: str, code: int, mig: list[str] | None
) -> None:
    sliced(nvml)
    nvml.fail(function, code=code)
    with closing(gpus()) as detection:
        assert uuids(detection) == UUIDS  # without MIG devices, it counts as the others do
        assert detection[1].device.details.get("mig") == mig
        assert detection[1].read(0.0).power_W == 220


def test_a_gap_among_the_numbers_of_mig_devices(nvml: FakeNvml) -> None:
    sliced(nvml)
    nvml.fail(
        "nvmlDeviceGetMigDeviceHandleByIndex", code=pynvml.NVML_ERROR_NOT_FOUND, device=1, times=1
    )
    with closing(gpus([N])) as detection:
        assert uuids(detection) == [B]


@pytest.mark.parametrize("names", [[M, N], [N, B, 1], None])
def test_the_energy_of_a_shared_gpu_counts_once(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    environment: Callable[..., None],
    names: list[int | str] | None,
) -> None:
    sliced(nvml)
    environment(f"{N},{M}")
    with energyest.track(gpus=names, components=["gpu"], interval_s=0.02) as run:
        for _ in run.epochs(1):
            nvml_clock.sleep(0.15)
    assert run.trace.epochs["mean_power_W"][0] == pytest.approx(220, rel=0.05)
    (device,) = run.trace.meta["devices"]
    assert (device["uuid"], device["mig"], device["shared"]) == (B, MIGS, True)
