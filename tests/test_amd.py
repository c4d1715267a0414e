"""AMD's GPUs, with a simulated AMD SMI; and which of them ROCm shows to a process."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from energyest import detect, track
from energyest.cli import main
from energyest.cli.exits import Exit
from energyest.measure.sensors import makers
from energyest.measure.sensors.amd import library
from energyest.measure.sensors.amd.sensor import AmdSensor, list_gpus
from energyest.measure.sensors.amd.visible import visible_gpus
from energyest.measure.sensors.nvml import GpuAddress
from simulation.fake_amdsmi import BUSY, NO_PERM, NOT_SUPPORTED, UNKNOWN, FakeAmdSmi, Gpu
from simulation.stepped import Clock

POWER, COUNTER = "amdsmi_get_power_info", "amdsmi_get_energy_count"
Install = Callable[..., FakeAmdSmi]


@pytest.fixture
def amd(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes this a machine with AMD's GPUs, whose accumulators go by the simulated clock."""
    for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    kfd = tmp_path / "kfd"
    kfd.touch()
    monkeypatch.setattr(makers, "_AMD_DRIVER", str(kfd))
    monkeypatch.setattr(makers, "torch_is_for_amd", lambda: None)
    monkeypatch.setattr(library, "_initialised", [])
    monkeypatch.setattr(library, "_failed", [])

    def install(*gpus: Gpu) -> FakeAmdSmi:
        fake = FakeAmdSmi(*gpus, clock=clock)
        monkeypatch.setitem(sys.modules, "amdsmi", fake.module())
        return fake

    return install


def two() -> tuple[Gpu, Gpu]:
    return (
        Gpu(),
        Gpu(uuid="GPU-2222222222222222", bdf="0000:26:00.0", power_W=500),
    )


# ---------------------------------------------------------------------- what is read


def test_quantities_and_their_units(amd: Install, clock: Clock) -> None:
    fake = amd(*two())
    (sensor, _) = found = detect(components=("gpu",))
    assert [s.device.device for s in found] == ["gpu:0", "gpu:1"]
    first = sensor.read(0.0)
    clock.sleep(10)
    second = sensor.read(10.0)
    assert first.power_W == 300
    assert second.energy_J - first.energy_J == pytest.approx(3000, abs=0.001)
    assert second.utilization == 0.87
    assert second.memory_bytes == 40 * 2**30
    assert second.temperature_C == 61
    assert math.isnan(sensor.read(10.1).utilization)  # once a second
    assert sensor.device.as_meta() == {
        "device": "gpu:0",
        "kind": "gpu",
        "name": "AMD Instinct MI300X OAM",
        "source": "measured",
        "method": "AMD SMI, energy counter and current power",
        "power_limit_W": 750.0,
        "memory_bytes": 192 * 2**30,
        "uuid": "GPU-1a2b3c4d5e6f7081",
        "index": 0,
        "pci_bus_id": "0000:05:00.0",
        "driver_version": "6.14.14",
    }
    assert fake.is_initialised


@pytest.mark.parametrize(
    ("shows", "method", "is_instant"),
    [
        (("current_socket_power", "average_socket_power"), "current power", True),
        (("average_socket_power",), "average power", False),
        (("socket_power",), "average power", False),
        ((), "no power", False),
    ],
)
def test_each_generation_shows_another_power(
    amd: Install, shows: tuple[str, ...], method: str, is_instant: bool
) -> None:
    amd(Gpu(shows=shows))
    device = AmdSensor(0).device
    assert device.method == f"AMD SMI, energy counter and {method}"
    assert device.has_instant_power is is_instant


def test_releases_before_6_2_name_the_accumulator_power(
    amd: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    amd(Gpu())
    monkeypatch.setattr(
        sys.modules["amdsmi"],
        COUNTER,
        lambda handle: {"power": 10**9, "counter_resolution": 15.3, "timestamp": 1},
    )
    assert AmdSensor(0).read(0.0).energy_J == pytest.approx(15_300)


@pytest.mark.parametrize(
    ("cap_uW", "limit_W"),
    [(750_000_000, 750), (750, math.nan), (0, math.nan), (2**64 - 1, math.nan)],
)
def test_a_cap_in_another_unit_is_none(amd: Install, cap_uW: int, limit_W: float) -> None:
    amd(Gpu(cap_uW=cap_uW))
    assert AmdSensor(0).device.power_limit_W == pytest.approx(limit_W, nan_ok=True)


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize("said_W", ["N/A", 0xFFFF, 0xFFFFFFFF, 2**64 - 1, 0, -1, 2251, None, True])
def test_power_that_is_not_available_is_missing(amd: Install, said_W: object) -> None:
    fake = amd(Gpu())
    sensor = AmdSensor(0)
    fake.gpus[0].said_W = said_W
    reading = sensor.read(0.0)
    assert math.isnan(reading.power_W) or said_W is None  # None is the true power here
    assert math.isfinite(reading.energy_J)


@pytest.mark.parametrize("code", [BUSY, UNKNOWN, NOT_SUPPORTED])
@pytest.mark.parametrize("function", [POWER, COUNTER])
def test_a_reading_that_fails_is_missing(amd: Install, function: str, code: int) -> None:
    fake = amd(Gpu())
    sensor = AmdSensor(0)
    fake.gpus[0].faults[function] = code
    reading = sensor.read(0.0)
    assert math.isnan(reading.power_W if function == POWER else reading.energy_J)
    assert math.isfinite(reading.energy_J if function == POWER else reading.power_W)
    fake.gpus[0].faults.clear()
    reading = sensor.read(1.0)
    assert math.isfinite(reading.energy_J + reading.power_W)


def spend(clock: Clock, fake: FakeAmdSmi, act: Callable[[Gpu], object]) -> list[float]:
    """Three epochs of 10 s at 300 W; something happens after the first."""
    with track(sensors=detect(components=("gpu",))) as run:
        for epoch in run.epochs(3):
            if epoch == 1:
                act(fake.gpus[0])
            clock.sleep(10)
    return [float(joules) for joules in run.trace.column("energy_J")]


FAULTS: dict[str, tuple[Callable[[Gpu], object], bool]] = {
    "nothing": (lambda gpu: None, True),
    "the counter fails": (lambda gpu: gpu.faults.update({COUNTER: UNKNOWN}), True),
    "the power fails": (lambda gpu: gpu.faults.update({POWER: UNKNOWN}), True),
    "the counter restarts": (lambda gpu: setattr(gpu, "counter", 0.0), True),
    "the counter goes back": (lambda gpu: setattr(gpu, "counter", gpu.counter - 1e9), True),
    "the counter jumps ahead": (lambda gpu: setattr(gpu, "counter", gpu.counter * 100), True),
    "the power is N/A": (lambda gpu: setattr(gpu, "said_W", "N/A"), True),
    "the GPU vanishes": (lambda gpu: gpu.faults.update({POWER: 31, COUNTER: 31}), False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_beside_a_fault(amd: Install, clock: Clock, fault: str) -> None:
    act, is_known = FAULTS[fault]
    energies_J = spend(clock, amd(Gpu()), act)
    assert energies_J[0] == pytest.approx(3000, rel=0.01)
    for joules in energies_J[1:]:
        if is_known:
            assert joules == pytest.approx(3000, rel=0.01)
        else:
            assert math.isnan(joules)


def test_a_gpu_that_tells_neither_power_nor_energy_is_unknown(amd: Install) -> None:
    amd(Gpu(shows=(), faults={COUNTER: NOT_SUPPORTED}))
    found = detect(components=("gpu",))
    assert found.unknown == ["gpu:0"]
    assert "neither its power nor its energy" in found.notes[0]


def test_no_permission(amd: Install) -> None:
    fake = amd(Gpu())
    sys.modules["amdsmi"].amdsmi_get_processor_handles = failing(NO_PERM)  # type: ignore[attr-defined]
    found = detect(components=("gpu",))
    assert len(found) == 0
    assert "Permission Denied" in found.notes[0]
    assert found.unknown == []  # torch does not say that it computes on it
    assert detect([0], components=("gpu",)).unknown == ["gpu:0"]
    assert fake.is_initialised


def failing(code: int) -> Callable[..., object]:
    from simulation.fake_amdsmi import AmdSmiLibraryException

    def fail(*_: object) -> object:
        raise AmdSmiLibraryException(code)

    return fail


@pytest.mark.parametrize("for_amd", [None, True])
def test_a_missing_package_costs_the_total_only_if_torch_may_use_the_gpu(
    amd: Install, monkeypatch: pytest.MonkeyPatch, for_amd: bool | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delitem(sys.modules, "amdsmi", raising=False)
    monkeypatch.setattr(makers, "torch_is_for_amd", lambda: for_amd)
    from energyest.measure.sensors.amd import sensor

    monkeypatch.setattr(sensor, "torch_is_for_amd", lambda: for_amd)
    found = detect(components=("gpu",))
    assert "pip install energyest[amd]" in found.notes[0]
    assert found.unknown == (["gpu:unknown"] if for_amd else [])
    assert capsys.readouterr().out == ""


def test_a_module_of_the_same_name_is_refused(
    amd: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", SimpleNamespace())
    assert "cannot be initialised" in detect(components=("gpu",)).notes[0]


# ---------------------------------------------------------------------- which GPUs


GPUS = [GpuAddress(i, f"GPU-{i}{i}{i}{i}", f"0000:0{i}:00.0", None, "MI300X") for i in range(4)]


@pytest.mark.parametrize(
    ("environment", "indices"),
    [
        ({}, [0, 1, 2, 3]),
        ({"ROCR_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-3333,1"}, [3, 1]),
        ({"ROCR_VISIBLE_DEVICES": ""}, []),
        ({"ROCR_VISIBLE_DEVICES": "1,x,2"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "1,9,2"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "1,-1,2"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "1,1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "3"}, [3]),
        ({"CUDA_VISIBLE_DEVICES": "3"}, [3]),
        ({"GPU_DEVICE_ORDINAL": "3"}, [3]),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "3"}, [1]),
        # The second list numbers what the first one leaves.
        ({"ROCR_VISIBLE_DEVICES": "2,3", "HIP_VISIBLE_DEVICES": "1"}, [3]),
        ({"ROCR_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "1"}, []),
    ],
)
def test_the_gpus_that_rocm_shows(environment: dict[str, str], indices: list[int]) -> None:
    assert [gpu.index for gpu in visible_gpus(GPUS, environment).gpus] == indices


def test_unlike_gpus_are_numbered_by_an_estimate() -> None:
    unlike = [GPUS[0], GpuAddress(1, "GPU-1111", model="Radeon")]
    assert visible_gpus(unlike, {"HIP_VISIBLE_DEVICES": "1"}).notes
    assert not visible_gpus(unlike, {"ROCR_VISIBLE_DEVICES": "GPU-1111"}).notes
    assert not visible_gpus(unlike, {}).notes


def test_gpus_are_in_hips_order(amd: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two()
    first.hip_id, second.hip_id = 1, 0
    amd(first, second)
    assert [gpu.index for gpu in list_gpus()] == [1, 0]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    assert [s.device.device for s in detect(components=("gpu",))] == ["gpu:1"]


def test_gpus_are_asked_for_by_number_uuid_or_bus(amd: Install) -> None:
    amd(*two())
    for name in (1, "GPU-2222222222222222", "0000:26:00.0"):
        assert [s.device.device for s in detect([name], components=("gpu",))] == ["gpu:1"]
    assert detect([7], components=("gpu",)).unknown == ["gpu:7"]


def test_the_second_die_of_a_board_is_measured_with_the_first(amd: Install) -> None:
    dies = [
        Gpu("AMD Instinct MI250X", f"GPU-{i}", f"0000:0{i}:00.0", shows=("average_socket_power",))
        for i in range(4)
    ]
    amd(*dies)
    (sensor,) = detect([3], components=("gpu",))
    assert sensor.device.device == "gpu:2"
    assert sensor.device.method.endswith("both dies of the board")
    found = detect(components=("gpu",))
    assert [s.device.device for s in found] == ["gpu:0", "gpu:2"]
    assert found.unknown == []


def test_torch_for_amd_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere, somewhere = str(tmp_path / "nowhere"), str(tmp_path)
    for hip, kfd, nvidia, library_name in (
        ("6.4", nowhere, somewhere, "AMD SMI"),
        (None, nowhere, nowhere, "NVML"),
        (None, somewhere, nowhere, "AMD SMI"),
        (None, somewhere, somewhere, "NVML"),
    ):
        torch = SimpleNamespace(version=SimpleNamespace(hip=hip))
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setattr(makers, "_AMD_DRIVER", kfd)
        monkeypatch.setattr(makers, "_NVIDIA_DRIVER", nvidia)
        assert makers.maker_in_use().library == library_name


# ---------------------------------------------------------------------- beside it


def test_doctor(amd: Install, capsys: pytest.CaptureFixture[str]) -> None:
    amd(*two())
    assert main(["doctor"]) == Exit.OK
    said = capsys.readouterr().out
    assert "All 2 GPUs of this process are measured." in said
    assert "AMD SMI" in said
    assert "NVML does not answer" not in said


def test_nobody_else_pays_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("energyest.measure.sensors.amd")]:
        monkeypatch.delitem(sys.modules, name)
    detect(components=("gpu",)).close()
    assert "amdsmi" not in sys.modules
    assert "energyest.measure.sensors.amd.sensor" not in sys.modules


def test_the_simulation_takes_what_the_library_takes() -> None:
    """Checked against the real module where it is installed."""
    try:
        from amdsmi import amdsmi_interface as real
    except Exception:  # the package without its library raises KeyError
        pytest.skip("amdsmi and its library are not installed")
    for name in dir(FakeAmdSmi):
        if name.startswith("amdsmi_"):
            ours = [*inspect.signature(getattr(FakeAmdSmi, name)).parameters][1:]
            theirs = [*inspect.signature(getattr(real, name)).parameters]
            assert len(ours) == len(theirs), name
