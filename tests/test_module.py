"""Grace Hopper's module power, with a simulated NVML that tells it by scope."""

from __future__ import annotations

import math

import pynvml
import pytest

from energyest import EnergyTrace, detect, track
from energyest.measure.sensors import Sensor
from energyest.measure.sensors.module import ModuleSensor
from energyest.records.ranks import merge
from simulation.fake_nvml import FakeNvml
from simulation.stepped import NvmlClock
from tests.support.sensors import Constant

FIELDS = "nvmlDeviceGetFieldValues"


@pytest.fixture
def modules(nvml: FakeNvml) -> FakeNvml:
    """Two modules: 500 W each, of which 300 W are the GPU's."""
    for gpu in (0, 1):
        nvml.set_power(gpu, watts=300)
        nvml.set_module_power(gpu, watts=500)
    return nvml


def test_modules_contain_their_gpus_and_together_the_host(modules: FakeNvml) -> None:
    found = detect(components=("gpu", "module"))
    assert [s.device.device for s in found] == ["gpu:0", "gpu:1", "module:0", "module:1"]
    assert [s.device.contains for s in found][2:] == [("gpu:0", "cpu", "ram"), ("gpu:1",)]
    assert [s.read(0.0).power_W for s in found] == [300, 300, 500, 500]
    found.close()


def test_a_run_counts_the_modules(modules: FakeNvml, nvml_clock: NvmlClock) -> None:
    found = detect(components=("gpu", "module"))
    host: list[Sensor] = [Constant(90, "cpu:0"), Constant(20, "ram:0")]
    with track(sensors=[*host, *found]) as run:
        for _ in run.epochs(2):
            nvml_clock.sleep(10)
    trace = run.trace
    assert trace.column("energy_J") == pytest.approx(10_000, rel=0.01)
    assert trace.column("gpu_energy_J") == pytest.approx(6000, rel=0.01)
    assert trace.column("cpu_energy_J") == pytest.approx(900, rel=0.01)


def test_ranks_with_a_module_each(modules: FakeNvml) -> None:
    """The first also has the host, which lies in the modules."""

    def record(rank: int, found: list[Sensor], **energies_J: float) -> EnergyTrace:
        columns = {
            name: [joules]
            for name, joules in {
                **{"epoch": 0.0, "start_s": 0.0, "end_s": 1.0, "duration_s": 1.0},
                **energies_J,
            }.items()
        }
        devices = [sensor.device.as_meta() for sensor in found]
        meta = {"host": "gh", "rank": rank, "world_size": 2, "run_id": "r", "devices": devices}
        return EnergyTrace(columns, meta=meta)  # type: ignore[arg-type]

    first = [*detect([0], components=("gpu", "module")), Constant(90, "cpu:0")]
    second = [*detect([1], components=("gpu", "module"))]
    whole = merge(
        {
            0: record(0, first, energy_J=500.0, gpu_energy_J=300.0, cpu_energy_J=90.0),
            1: record(1, second, energy_J=500.0, gpu_energy_J=300.0),
        }
    )
    assert whole.column("energy_J") == 1000
    assert whole.column("gpu_energy_J") == 600
    assert whole.column("cpu_energy_J") == 90


def test_a_plug_that_every_rank_measures_counts_once(modules: FakeNvml) -> None:
    from energyest.measure import CommandSensor

    records = {}
    for rank in (0, 1):
        found = detect([rank], components=("gpu",))
        found += [CommandSensor("echo 900")]
        columns = {"epoch": [0.0], "start_s": [0.0], "end_s": [1.0], "duration_s": [1.0]}
        columns |= {"energy_J": [900.0 + rank], "gpu_energy_J": [300.0]}
        devices = [sensor.device.as_meta() for sensor in found]
        meta = {"host": "a", "rank": rank, "world_size": 2, "run_id": "r", "devices": devices}
        records[rank] = EnergyTrace(columns, meta=meta)  # type: ignore[arg-type]
    whole = merge(records)
    assert whole.column("energy_J") == 900
    assert whole.column("gpu_energy_J") == 600


def test_boards_without_a_module(nvml: FakeNvml) -> None:
    found = detect(components=("gpu", "module"))
    assert [s.device.device for s in found] == ["gpu:0", "gpu:1"]
    assert found.unknown == ["module:0"]
    (note,) = found.losses
    assert note.startswith("module:0 is not measured: NVML tells no power of a module")
    assert detect(components=("module",)).unknown == ["module:0"]
    assert detect([], components=("gpu", "module")).losses == (
        "module:0 is not measured: no GPU is measured",
    )


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
def test_a_module_that_fails_is_missing(modules: FakeNvml, code: int) -> None:
    sensor = ModuleSensor(0, ())
    modules.fail(FIELDS, field=186, device=0, code=code)
    assert math.isnan(sensor.read(0.0).power_W)
    modules.fail(FIELDS, field=186, device=0, code=0)
    assert sensor.read(1.0).power_W == 500
    for watts in (0, 20_000):
        modules.set_module_power(0, watts=watts)
        assert math.isnan(sensor.read(2.0).power_W)
    sensor.close()
    sensor.close()
