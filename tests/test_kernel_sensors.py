"""What the kernel shows as hardware monitors: AMD's energy driver, Intel's GPUs, Jetson's rails."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import energyest.measure.sensors as sensors_module
from energyest import detect, track
from energyest.cli import main
from energyest.cli.exits import Exit
from energyest.measure.sensors import Detection, makers
from energyest.measure.sensors.base import Kind, Sensor
from energyest.measure.sensors.cpu import Utilization
from energyest.measure.sensors.detection import lost
from energyest.measure.sensors.kernel import intel_gpu
from energyest.measure.sensors.kernel.amd_energy import AmdEnergySensor
from energyest.measure.sensors.kernel.intel_gpu import IntelGpuSensor, list_gpus, visible_gpus
from energyest.measure.sensors.kernel.jetson import detect_jetson, is_jetson
from energyest.measure.torch_gpus import trained_on, unreadable
from simulation.stepped import Clock
from tests.support.sensors import Constant

USUAL: tuple[Kind, ...] = ("gpu", "cpu", "ram")


class Hwmon:
    """A folder as the kernel's hardware monitors are: /sys/class/hwmon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.root.mkdir()
        self.chips = 0

    def add(self, name: str, device: str = "", **files: object) -> Path:
        """A chip; files such as `energy1_input`, and the device that it belongs to."""
        chip = self.root / f"hwmon{self.chips}"
        self.chips += 1
        chip.mkdir()
        (chip / "name").write_text(f"{name}\n")
        for file, value in files.items():
            (chip / file).write_text(f"{value}\n")
        if device:
            folder = self.root.parent / "devices" / device
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "device").write_text("0x56c0\n")
            (chip / "device").symlink_to(folder)
        return chip


@pytest.fixture
def hwmon(tmp_path: Path) -> Hwmon:
    hwmon = Hwmon(tmp_path / "hwmon")
    hwmon.add("nvme", temp1_input=41000)
    return hwmon


def break_file(file: Path) -> None:
    """Make reading it an OSError, for root as well."""
    file.unlink()
    file.mkdir()


def rubbish(file: Path) -> None:
    file.write_text("n/a\n")


# ---------------------------------------------------------------------- AMD's energy driver


@pytest.fixture
def sockets(hwmon: Hwmon) -> Path:
    return hwmon.add(
        "amd_energy",
        energy1_label="Ecore000",
        energy1_input=7_000_000,
        energy2_label="Ecore001",
        energy2_input=8_000_000,
        energy3_label="Esocket0",
        energy3_input=500_000_000,
        energy4_label="Esocket1",
        energy4_input=900_000_000,
    )


def test_sockets_are_added_up_and_their_cores_are_not(hwmon: Hwmon, sockets: Path) -> None:
    sensor = AmdEnergySensor(hwmon.root)
    first = sensor.read(0.0)
    (sockets / "energy1_input").write_text("99000000\n")
    (sockets / "energy3_input").write_text("700000000\n")
    (sockets / "energy4_input").write_text("1000000000\n")
    second = sensor.read(2.0)
    assert second.energy_J - first.energy_J == pytest.approx(300)
    assert second.power_W == pytest.approx(150)
    meta = sensor.device.as_meta()
    assert (meta["device"], meta["kind"]) == ("cpu:0", "cpu")
    assert meta["method"] == "amd_energy, 2 socket(s) of this machine"


def test_amd_energy_tells_how_busy_the_processors_are(
    hwmon: Hwmon, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = AmdEnergySensor(hwmon.root)
    monkeypatch.setattr(Utilization, "since_last_call", lambda self: 0.25)
    assert sensor.read(0.0).utilization == 0.25


def test_a_counter_of_amd_that_restarts_or_fails(hwmon: Hwmon, sockets: Path) -> None:
    sensor = AmdEnergySensor(hwmon.root)
    before = sensor.read(0.0)
    (sockets / "energy3_input").write_text("1000000\n")
    after = sensor.read(1.0)
    assert math.isnan(after.power_W)
    assert after.energy_J < before.energy_J
    rubbish(sockets / "energy4_input")
    assert math.isnan(sensor.read(2.0).energy_J)
    break_file(sockets / "energy4_input")
    assert math.isnan(sensor.read(3.0).energy_J)


def test_amds_driver_stands_in_for_rapl(
    hwmon: Hwmon, sockets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = functools.partial(AmdEnergySensor, hwmon.root)
    monkeypatch.setattr(sensors_module, "AmdEnergySensor", made)
    found = detect(components=("cpu",))
    assert [s.device.source for s in found] == ["measured"]
    assert found.notes == ()
    break_file(sockets / "energy3_input")
    found = detect(components=("cpu",))
    assert [s.device.source for s in found] == ["modelled"]
    assert "energy3_input" in found.notes[0]
    (sockets / "name").write_text("k10temp\n")
    assert "powercap" in detect(components=("cpu",)).notes[0]


# ---------------------------------------------------------------------- Intel's GPUs

CARDS = ("0000:03:00.0", "0000:9a:00.0")


@pytest.fixture
def intel(hwmon: Hwmon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A card of each driver: energies of the card, and of parts of it."""
    second = hwmon.add(
        "xe", CARDS[1], energy1_label="card", energy1_input=5_000_000, energy2_label="pkg",
        energy2_input=4_000_000, power1_rated_max=300_000_000,
    )  # fmt: skip
    first = hwmon.add("i915", CARDS[0], energy1_input=9_000_000, power1_max=150_000_000)
    hwmon.add("i915_gt0", CARDS[0], energy1_input=1_000_000)
    driver = tmp_path / "i915"
    driver.mkdir()
    monkeypatch.setattr(makers, "_INTEL_DRIVERS", (str(driver),))
    cards = intel_gpu._cards
    monkeypatch.setattr(intel_gpu, "_cards", lambda _: cards(hwmon.root))
    return {"first": first, "second": second}


@pytest.mark.usefixtures("intel")
def test_each_card_has_one_counter(intel: dict[str, Path]) -> None:
    found = detect(components=("gpu",))
    assert [s.device.as_meta() for s in found] == [
        {
            "device": "gpu:0",
            "kind": "gpu",
            "name": "Intel GPU 8086:56c0",
            "source": "measured",
            "method": "energy counter of the driver i915",
            "power_limit_W": 150,
            "index": 0,
            "pci_bus_id": CARDS[0],
        },
        {
            "device": "gpu:1",
            "kind": "gpu",
            "name": "Intel GPU 8086:56c0",
            "source": "measured",
            "method": "energy counter of the driver xe",
            "power_limit_W": 300,
            "index": 1,
            "pci_bus_id": CARDS[1],
        },
    ]
    sensor = found[1]
    first = sensor.read(0.0)
    (intel["second"] / "energy1_input").write_text("25000000\n")
    second = sensor.read(0.1)
    assert second.energy_J - first.energy_J == pytest.approx(20)
    assert second.power_W == pytest.approx(200)


@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize(
    ("mask", "indices"),
    [("", [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("0.0,0.1", [0]), ("7", []), ("x", [])],
)
def test_level_zero_shows_some_gpus(
    mask: str, indices: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = visible_gpus(list_gpus(), {"ZE_AFFINITY_MASK": mask})
    assert [gpu.index for gpu in shown.gpus] == indices
    monkeypatch.setenv("ZE_AFFINITY_MASK", mask)
    found = detect(components=("gpu",))
    assert [s.device.details["index"] for s in found] == indices


@pytest.mark.usefixtures("intel")
def test_intel_gpus_are_asked_for_by_number_or_bus() -> None:
    assert [s.device.device for s in detect([1], components=("gpu",))] == ["gpu:1"]
    assert [s.device.device for s in detect([CARDS[1]], components=("gpu",))] == ["gpu:1"]
    assert detect([5], components=("gpu",)).unknown == ["gpu:5"]


@pytest.mark.usefixtures("intel")
def test_a_training_on_xpu_finds_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    module, device = torch.nn.Linear(2, 2), torch.device("xpu", 1)
    assert trained_on(module, device) == [CARDS[1]]
    assert unreadable(device) == []
    monkeypatch.setattr(makers, "_INTEL_DRIVERS", ())
    assert trained_on(module, device) == []
    assert unreadable(device) == ["xpu:1"]


@pytest.mark.usefixtures("intel")
@pytest.mark.parametrize("act", [break_file, rubbish, Path.unlink])
def test_a_counter_of_intel_that_fails(
    intel: dict[str, Path], act: Callable[[Path], object]
) -> None:
    sensor = IntelGpuSensor(0)
    act(intel["first"] / "energy1_input")
    assert math.isnan(sensor.read(0.0).energy_J)
    if act is not Path.unlink:
        found = detect(components=("gpu",))
        assert found.unknown == ["gpu:0"]


@pytest.mark.usefixtures("intel")
def test_a_card_that_vanishes_makes_the_total_unknown(intel: dict[str, Path], clock: Clock) -> None:
    counter = intel["first"] / "energy1_input"
    with track(sensors=[IntelGpuSensor(0)]) as run:
        for epoch in run.epochs(3):
            for _ in range(70):
                if epoch == 2 and counter.exists():
                    counter.unlink()
                elif epoch < 2:
                    counter.write_text(f"{int(counter.read_text()) + 10_000_000}\n")
                clock.sleep(0.1)
    energy_J = run.trace.column("gpu_energy_J")
    assert energy_J[:2] == pytest.approx(700, rel=0.03)
    assert math.isnan(energy_J[2])
    assert math.isnan(run.trace.total_J)


# ---------------------------------------------------------------------- Jetson

# The channels of the monitors: label, millivolts, milliamperes.
ORIN_NX = {"VDD_IN": (5000, 2000), "VDD_CPU_GPU_CV": (5000, 800), "VDD_SOC": (5000, 400)}
AGX_ORIN = {"VDD_GPU_SOC": (12000, 1500), "VDD_CPU_CV": (12000, 500), "VIN_SYS_5V0": (5000, 1000)}
AGX_ORIN_2 = {"": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 300)}
XAVIER = {"GPU": (12000, 1000), "CPU": (12000, 500), "SOC": (12000, 250)}
XAVIER_2 = {"CV": (12000, 50), "VDDRQ": (12000, 100), "SYS5V": (5000, 600)}


def ina3221(hwmon: Hwmon, rails: dict[str, tuple[int, int]]) -> Path:
    files: dict[str, object] = {}
    for number, (label, (mV, mA)) in enumerate(rails.items(), 1):
        files |= {f"in{number}_label": label, f"in{number}_input": mV, f"curr{number}_input": mA}
    # The monitor's own sums, which are of no rail.
    files |= {"in7_label": "sum of shunt voltages", "in7_input": 42, "in4_input": 17}
    return hwmon.add("ina3221", **files)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "model"
    file.write_text("NVIDIA Jetson Orin\0")
    return file


BOARDS = {
    "Orin NX": ([ORIN_NX], 10.0, {}),
    "AGX Orin": ([AGX_ORIN, AGX_ORIN_2], 29.0, {"gpu:rail": 18.0, "cpu:rail": 6.0}),
    "AGX Xavier": ([XAVIER, XAVIER_2], 25.8, {"gpu:rail": 12.0, "cpu:rail": 6.0}),
}


@pytest.mark.parametrize("board", BOARDS)
def test_the_module_is_one_rail_or_the_sum_of_those_that_feed_it(
    hwmon: Hwmon, model: Path, board: str
) -> None:
    monitors, module_W, parts_W = BOARDS[board]
    for rails in monitors:
        ina3221(hwmon, rails)
    found = detect_jetson(USUAL, root=hwmon.root, model=model)
    powers = {s.device.device: s.read(0.0).power_W for s in found}
    assert powers == pytest.approx({**parts_W, "module:0": module_W})
    assert found[-1].device.name == "NVIDIA Jetson Orin"


def wanted(hwmon: Hwmon, model: Path, *components: Kind) -> list[str]:
    found = detect_jetson(components, root=hwmon.root, model=model)
    return [sensor.device.device for sensor in found]


def test_what_is_asked_for_is_measured(hwmon: Hwmon, model: Path) -> None:
    ina3221(hwmon, AGX_ORIN)
    assert wanted(hwmon, model, "gpu") == ["gpu:rail"]
    assert wanted(hwmon, model, "cpu", "ram") == ["cpu:rail"]
    assert wanted(hwmon, model, "module") == ["module:0"]
    assert wanted(hwmon, model, *USUAL) == ["gpu:rail", "cpu:rail", "module:0"]


def test_a_gpu_without_a_rail_of_its_own_is_measured_with_the_module(
    hwmon: Hwmon, model: Path
) -> None:
    ina3221(hwmon, ORIN_NX)
    assert wanted(hwmon, model, "gpu") == ["module:0"]
    assert wanted(hwmon, model, "cpu", "ram") == []


def test_unknown_rails_are_not_added_up(hwmon: Hwmon, model: Path) -> None:
    ina3221(hwmon, {"VDD_GPU": (5000, 100), "VDD_OTHER": (5000, 100)})
    found = detect_jetson(USUAL, root=hwmon.root, model=model)
    assert len(found) == 0
    assert found.notes == ("the module is not measured: its rails are VDD_GPU, VDD_OTHER",)


@pytest.mark.parametrize("act", [break_file, rubbish])
def test_a_rail_that_cannot_be_read_at_the_start(
    hwmon: Hwmon, model: Path, act: Callable[[Path], object]
) -> None:
    act(ina3221(hwmon, ORIN_NX) / "curr1_input")
    found = detect_jetson(USUAL, root=hwmon.root, model=model)
    assert len(found) == 0
    assert "curr1_input cannot be read" in found.notes[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("curr2_input", "rubbish"),
        ("curr2_input", ""),
        ("curr2_input", "-40000"),
        ("in1_input", "inf"),
        ("in2_input", "nan"),
    ],
)
def test_a_rail_that_reads_rubbish_is_missing(
    hwmon: Hwmon, model: Path, file: str, text: str
) -> None:
    chip = ina3221(hwmon, AGX_ORIN)
    sensor = detect_jetson(("module",), root=hwmon.root, model=model)[0]
    (chip / file).write_text(text)
    assert math.isnan(sensor.read(0.0).power_W)


def test_a_run_on_a_jetson(
    hwmon: Hwmon, model: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVML knows the GPU, and tells no power; CPU and memory are modelled: the module has them."""
    ina3221(hwmon, AGX_ORIN)
    monkeypatch.setattr(sensors_module, "is_jetson", lambda: True)
    made = functools.partial(detect_jetson, root=hwmon.root, model=model)
    monkeypatch.setattr(sensors_module, "detect_jetson", made)
    found = detect()
    modelled: list[Sensor] = [Constant(5, "cpu:0"), Constant(1, "ram:0")]
    rails = [s for s in found if s.device.device not in ("cpu:0", "ram:0")]
    with track(sensors=[*modelled, *rails]) as run:
        for _ in run.epochs(2):
            clock.sleep(10)
    trace = run.trace
    assert trace.column("energy_J") == pytest.approx(290)
    assert trace.column("gpu_energy_J") == pytest.approx(180)
    assert trace.column("cpu_energy_J") == pytest.approx(60)  # the rail, not the model
    assert trace.column("ram_energy_J") == pytest.approx(10)


def test_other_machines_are_no_jetson(tmp_path: Path, model: Path) -> None:
    assert is_jetson(model)
    assert not is_jetson(tmp_path / "nowhere")
    model.write_text("Raspberry Pi 5\0")
    assert not is_jetson(model)
    assert os.path.exists("/proc/device-tree/model") or not is_jetson()


def test_doctor_on_a_jetson(
    hwmon: Hwmon,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A GPU that NVML cannot read is known all the same, as its module is measured."""
    ina3221(hwmon, AGX_ORIN)
    monkeypatch.setattr(sensors_module, "is_jetson", lambda: True)
    made = functools.partial(detect_jetson, root=hwmon.root, model=model)
    monkeypatch.setattr(sensors_module, "detect_jetson", made)
    lost_gpu = lost("gpu", "gpu:0", "Orin", "the board reports neither its power nor its energy")
    none = Detection((), ("no power",), (lost_gpu,), ("no power",))
    monkeypatch.setattr(sensors_module, "detect_gpus", lambda gpus: none)
    assert main(["doctor"]) == Exit.OK
    said = capsys.readouterr().out
    assert "The GPU of this process is measured." in said
    assert "a device that contains it is measured" in said
    assert "NaN" not in said
