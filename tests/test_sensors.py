"""Models of processors and memory, and recorded traces, as sources of watts."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import numpy as np
import psutil
import pytest

from energyest.errors import ConfigurationError
from energyest.integration import energy_between
from energyest.measure.sensors import Reading, ReplaySensor, detect
from energyest.measure.sensors.cpu import (
    FULL_W_PER_THREAD,
    IDLE_W_PER_THREAD,
    CpuModelSensor,
)
from energyest.measure.sensors.ram import RamSensor
from energyest.records.trace import EnergyTrace

# The model of the processors


class Clockwork:
    """CPU times that advance only on request."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        zero = psutil.cpu_times()
        self.times = type(zero)(*(0.0 for _ in zero))
        monkeypatch.setattr(psutil, "cpu_times", lambda: self.times)

    def advance(self, **seconds: float) -> None:
        moved = {name: getattr(self.times, name) + s for name, s in seconds.items()}
        self.times = self.times._replace(**moved)


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    return Clockwork(monkeypatch)


@pytest.mark.parametrize(
    ("seconds", "busy"),
    [
        ({"idle": 4.0}, 0.0),
        ({"user": 1.0, "idle": 3.0}, 0.25),
        ({"user": 1.0, "nice": 1.0, "system": 1.0, "irq": 0.5, "softirq": 0.5}, 1.0),
        pytest.param({"user": 1.0, "iowait": 3.0}, 0.25, id="waiting for a disk is idling"),
        pytest.param(
            {"user": 2.0, "guest": 2.0, "idle": 2.0}, 0.5, id="guest time is in user time"
        ),
    ],
)
def test_cpu_power_is_linear_in_utilization(
    clockwork: Clockwork, seconds: dict[str, float], busy: float
) -> None:
    clockwork.advance(user=1000.0, idle=5000.0)  # since boot: must not matter
    sensor = CpuModelSensor()
    clockwork.advance(**seconds)
    reading = sensor.read(0.0)

    threads = os.cpu_count() or 1
    assert reading.utilization == pytest.approx(busy)
    assert reading.power_W == pytest.approx(
        threads * ((1 - busy) * IDLE_W_PER_THREAD + busy * FULL_W_PER_THREAD)
    )
    assert sensor.device.power_limit_W == pytest.approx(threads * FULL_W_PER_THREAD)


def test_cpu_readings_within_a_tick_repeat_the_last(clockwork: Clockwork) -> None:
    sensor = CpuModelSensor()
    clockwork.advance(user=1.0, idle=3.0)
    readings = [sensor.read(0.0), sensor.read(0.001)]
    clockwork.advance(idle=1.0)
    readings.append(sensor.read(0.1))
    assert [r.utilization for r in readings] == [0.25, 0.25, 0.0]


def test_cpu_power_is_unknown_before_the_first_tick(clockwork: Clockwork) -> None:
    reading = CpuModelSensor().read(0.0)
    assert math.isnan(reading.power_W)
    assert math.isnan(reading.utilization)


def test_cpu_model_on_this_machine() -> None:
    sensor = CpuModelSensor()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:  # one thread is busy for sure
        pass
    reading = sensor.read(0.0)

    threads = os.cpu_count() or 1
    assert threads * IDLE_W_PER_THREAD < reading.power_W <= threads * FULL_W_PER_THREAD
    assert 0 < reading.utilization <= 1
    assert math.isnan(reading.energy_J)  # a model has no counter
    meta = sensor.device.as_meta()
    assert (meta["source"], meta["kind"], meta["device"]) == ("modelled", "cpu", "cpu:0")
    assert "Cloud Carbon Footprint" in meta["method"]


# Memory


def test_ram_takes_375_mW_for_each_GB_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(total=64 * 10**9, available=24 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    sensor = RamSensor()

    reading = sensor.read(3.0)

    assert (reading.time_s, reading.device) == (3.0, "ram:0")
    assert reading.power_W == pytest.approx(15.0)
    assert reading.utilization == pytest.approx(0.625)
    assert reading.memory_bytes == 40e9
    assert math.isnan(reading.energy_J)
    assert sensor.device.power_limit_W == pytest.approx(24.0)
    meta = sensor.device.as_meta()
    assert (meta["source"], meta["kind"]) == ("modelled", "ram")
    assert "2307.05520" in meta["method"]


def test_ram_of_this_machine_is_found() -> None:
    (sensor,) = detect(components=("ram",))
    reading = sensor.read(0.0)
    assert 0 < reading.power_W < sensor.device.power_limit_W
    assert reading.power_W == pytest.approx(0.375e-9 * reading.memory_bytes)


# Replay


def recording(**columns: Any) -> EnergyTrace:
    """Readings of two devices, interleaved, that begin at 10 s."""
    power = {
        "time_s": [10.0, 10.0, 11.0, 11.0, 13.0, 13.0],
        "device": ["gpu:0", "cpu:0"] * 3,
        "power_W": [100.0, 30.0, 200.0, 50.0, 400.0, 50.0],
        "energy_J": [1000.0, math.nan, 1150.0, math.nan, 1750.0, math.nan],
        "utilization": [0.1, 0.5, 0.2, 0.5, 0.4, 0.5],
        "memory_bytes": [0.0, 0.0, 2e9, 0.0, 2e9, 0.0],
        "temperature_C": [40.0, 50.0, 45.0, 50.0, 65.0, 50.0],
        **columns,
    }
    devices = [
        {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300.0},
        {"device": "cpu:0", "kind": "cpu", "name": "a CPU", "source": "modelled"},
    ]
    arrays = {name: np.array(values) for name, values in power.items()}
    return EnergyTrace({"epoch": np.array([])}, arrays, {"devices": devices})


def quantities(reading: Reading) -> list[float]:
    return list(reading[2:])


def test_replay_interpolates_from_its_first_reading_on() -> None:
    sensor = ReplaySensor(recording(), "gpu:0")
    readings = [sensor.read(500.0 + at) for at in (0.0, 0.5, 1.0, 2.5, 3.0)]

    assert [r.time_s for r in readings] == [500.0, 500.5, 501.0, 502.5, 503.0]
    assert [quantities(r) for r in readings] == [
        pytest.approx(expected)
        for expected in (
            [100.0, 1000.0, 0.10, 0.0, 40.0],
            [150.0, 1075.0, 0.15, 1e9, 42.5],
            [200.0, 1150.0, 0.20, 2e9, 45.0],
            [350.0, 1600.0, 0.35, 2e9, 60.0],
            [400.0, 1750.0, 0.40, 2e9, 65.0],
        )
    ]


def test_replay_ends_with_nan() -> None:
    sensor = ReplaySensor(recording(), "gpu:0")
    sensor.read(0.0)
    last = sensor.read(3.001)
    assert (last.time_s, last.device) == (3.001, "gpu:0")
    assert all(math.isnan(quantity) for quantity in quantities(last))


@pytest.mark.parametrize("speed", [0.5, 10.0])
@pytest.mark.parametrize("counter", [True, False])
def test_replay_at_another_speed_draws_the_same_joules(speed: float, counter: bool) -> None:
    sensor = ReplaySensor(recording(), "gpu:0", speed=speed)
    times = np.linspace(0.0, 3.0 / speed, 31)
    readings = [sensor.read(time_s) for time_s in times]
    energy_J = energy_between(
        times,
        [r.power_W for r in readings],
        times[0],
        times[-1],
        counter_J=[r.energy_J for r in readings] if counter else None,
    )
    # 150 W for 1 s and 300 W for 2 s; the counter was recorded to agree with the power.
    assert energy_J == pytest.approx(750.0)


def test_replay_speaks_for_the_recorded_device() -> None:
    trace = recording()
    first, cpu = ReplaySensor(trace), ReplaySensor(trace, "cpu:0")
    assert first.device.as_meta() == {
        "device": "gpu:0",
        "kind": "gpu",
        "name": "NVIDIA A40",
        "source": "measured",
        "method": "replay of a recorded trace",
        "power_limit_W": 300.0,
    }
    assert (cpu.device.kind, cpu.device.source) == ("cpu", "modelled")
    reading = cpu.read(0.0)
    assert reading.power_W == 30.0
    assert math.isnan(reading.energy_J)  # this device had no counter


def test_replay_of_arrays() -> None:
    trace = EnergyTrace.from_power([0, 2], [100, 300], [2])
    sensor = ReplaySensor(trace)
    assert sensor.read(7.0).power_W == 100.0
    assert sensor.read(8.0).power_W == pytest.approx(200.0)


def test_replay_needs_readings() -> None:
    with pytest.raises(ConfigurationError, match="no readings"):
        ReplaySensor(EnergyTrace.from_epochs([100.0, 100.0]))


def test_replay_needs_a_device_of_the_trace() -> None:
    with pytest.raises(ConfigurationError, match=r"'gpu:1' is not in the trace.*gpu:0.*cpu:0"):
        ReplaySensor(recording(), "gpu:1")


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan, math.inf])
def test_replay_needs_a_positive_speed(speed: float) -> None:
    with pytest.raises(ConfigurationError, match="speed="):
        ReplaySensor(recording(), speed=speed)
