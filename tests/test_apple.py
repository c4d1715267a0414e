"""Apple Silicon, with a simulated `zeus_apple_silicon`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest
import torch

import energyest.measure.sensors as sensors_module
from energyest import detect, track
from energyest.cli import main
from energyest.cli.exits import Exit
from energyest.measure import torch_gpus
from energyest.measure.sensors import apple
from simulation.stepped import Clock


class Chip:
    """The counters of a chip: mW of each metric, which count from when the monitor is made."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.mW: dict[str, float | None] = {
            "cpu_total_mj": 8000,
            "gpu_mj": 20000,
            "gpu_sram_mj": 1000,
            "dram_mj": 2000,
            "ane_mj": 9000,
        }
        self.error: Exception | None = None
        self.began_s = 0.0

    def get_cumulative_energy(self) -> SimpleNamespace:
        if self.error is not None:
            raise self.error
        seconds = self.clock() - self.began_s
        counted = {n: None if mW is None else int(mW * seconds) for n, mW in self.mW.items()}
        return SimpleNamespace(**counted)


@pytest.fixture
def chip(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Chip:
    chip = Chip(clock)
    module = ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = lambda: chip  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    for where in (sensors_module, torch_gpus):
        monkeypatch.setattr(where, "is_apple", lambda: True)
    return chip


def test_a_run_on_a_mac(chip: Chip, clock: Clock) -> None:
    found = detect()
    assert [(s.device.device, s.device.source) for s in found] == [
        *(("gpu:0", "measured"), ("cpu:0", "measured"), ("ram:0", "measured"))
    ]
    assert found.notes == ()
    with track(sensors=found) as run:
        for _ in run.epochs(3):
            clock.sleep(10)
    trace = run.trace
    assert trace.column("gpu_energy_J") == pytest.approx(210, rel=0.01)
    assert trace.column("cpu_energy_J") == pytest.approx(80, rel=0.01)
    assert trace.column("ram_energy_J") == pytest.approx(20, rel=0.01)
    assert trace.total_J == pytest.approx(930, rel=0.01)
    assert trace.devices[0]["method"] == (
        "energy counter of macOS (zeus-apple-silicon: gpu_mj + gpu_sram_mj)"
    )


def test_what_a_chip_does_not_count_is_modelled_or_missing(chip: Chip) -> None:
    chip.mW |= {"gpu_sram_mj": None, "dram_mj": None}
    found = detect()
    assert [s.device.source for s in found] == ["measured", "measured", "modelled"]
    assert found[0].device.method == "energy counter of macOS (zeus-apple-silicon: gpu_mj)"
    chip.mW["gpu_mj"] = None
    assert [s.device.kind for s in detect()] == ["cpu", "ram"]


def test_the_gpu_is_measured_where_it_trains(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    module, mps = torch.nn.Linear(2, 2), torch.device("mps", 0)
    assert torch_gpus.trained_on(module, mps) == ["0"]
    assert torch_gpus.unreadable(mps) == []
    assert [s.device.kind for s in detect(["0"])] == ["gpu", "cpu", "ram"]
    assert torch_gpus.trained_on(module, torch.device("cpu")) == []
    assert [s.device.kind for s in detect([])] == ["cpu", "ram"]
    monkeypatch.setattr(torch_gpus, "is_apple", lambda: False)
    assert torch_gpus.unreadable(mps) == ["mps:0"]


@pytest.mark.parametrize(
    "act",
    [
        lambda chip: setattr(chip, "error", RuntimeError("IOReport failed")),
        lambda chip: chip.mW.update(cpu_total_mj=None),
        lambda chip: chip.mW.update(cpu_total_mj=math.nan),
    ],
)
def test_a_reading_that_fails_is_missing(
    chip: Chip, clock: Clock, act: Callable[[Chip], object]
) -> None:
    sensor = detect(components=("cpu",))[0]
    clock.sleep(1)
    first = sensor.read(1.0)
    act(chip)
    clock.sleep(1)
    assert math.isnan(sensor.read(2.0).energy_J)
    chip.error = None
    chip.mW["cpu_total_mj"] = 8000
    clock.sleep(1)
    reading = sensor.read(3.0)
    assert reading.energy_J - first.energy_J == pytest.approx(16)
    assert reading.power_W == pytest.approx(8)


def test_a_monitor_that_starts_again(chip: Chip, clock: Clock) -> None:
    sensor = detect(components=("cpu",))[0]
    clock.sleep(100)
    before = sensor.read(100.0)
    chip.began_s = clock()
    clock.sleep(1)
    after = sensor.read(101.0)
    assert after.energy_J < before.energy_J
    assert math.isnan(after.power_W)


def test_without_the_package(chip: Chip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    found = detect()
    assert {s.device.source for s in found} == {"modelled"}
    assert any("pip install energyest[apple]" in note for note in found.notes)


def test_doctor(
    chip: Chip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(apple, "is_apple", lambda: True)
    assert main(["doctor"]) == Exit.OK
    said = capsys.readouterr().out
    assert "+ Apple Silicon: its counters are read" in said
    assert "NVML" not in said
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    main(["doctor"])
    assert "    pip install energyest[apple]" in capsys.readouterr().out.splitlines()


def test_a_monitor_that_cannot_be_made(chip: Chip) -> None:
    chip.error = RuntimeError("no IOReport")
    assert "Apple Silicon is not measured: no IOReport" in detect().notes


def test_other_machines_do_not_look_for_it() -> None:
    assert not sensors_module.is_apple() or sys.platform == "darwin"
    detect().close()
    assert "zeus_apple_silicon" not in sys.modules
