"""From the (simulated) driver through pynvml, sensors and sampler to the energy of epochs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pynvml
import pytest

from energyest.arrays import FloatArray
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import detect
from energyest.records.trace import EnergyTrace
from simulation.fake_nvml import FakeNvml
from simulation.stepped import NvmlClock
from tests.support.threads import is_within

FIELDS = "nvmlDeviceGetFieldValues"
AVERAGE = "nvmlDeviceGetPowerUsage"
COUNTER = "nvmlDeviceGetTotalEnergyConsumption"

# No multiple of the sampling interval, so that no reading happens to fall on an edge.
EPOCH_S = 0.75
# Nothing that comes takes so long, on any machine; what hangs would take longer.
SHORT_S, LONG_S = 30.0, 600.0


@contextmanager
def recording(gpus: Sequence[int] = (0,), **options: Any) -> Iterator[Recorder]:
    recorder = Recorder(detect(gpus, components=("gpu",)), **options)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def run_epoch(
    recorder: Recorder,
    clock: NvmlClock,
    *actions: Callable[[], None],
    seconds: float = EPOCH_S,
) -> None:
    """An epoch in which the actions happen at equal distances."""
    recorder.start_epoch()
    for action in actions:
        clock.sleep(seconds / (len(actions) + 1))
        action()
    clock.sleep(seconds / (len(actions) + 1))
    recorder.end_epoch()


def mean_power_W(trace: EnergyTrace) -> FloatArray:
    """Of each epoch, from its own energy and duration."""
    power: FloatArray = trace.column("gpu_energy_J") / trace.column("duration_s")
    return power


def only_the_counter_tells(nvml: FakeNvml, device: int = 0) -> None:
    """Let the board report a power that is wrong by far."""
    nvml.fail(FIELDS, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=device)
    nvml.set_average_power(device, watts=100)


def without_counter(nvml: FakeNvml, device: int = 0) -> None:
    nvml.fail(COUNTER, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=device)


def without_power(nvml: FakeNvml, device: int = 0) -> None:
    nvml.fail(FIELDS, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=device)
    nvml.fail(AVERAGE, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=device)


# What epochs cost


@pytest.mark.parametrize("board", [only_the_counter_tells, without_counter, without_power])
def test_constant_power(
    nvml: FakeNvml, nvml_clock: NvmlClock, board: Callable[[FakeNvml], None]
) -> None:
    nvml.set_power(0, watts=300)
    board(nvml)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock)
        run_epoch(recorder, nvml_clock)
    assert mean_power_W(recorder.trace()) == pytest.approx([300, 300], rel=0.01)


def test_gpus_of_both_sorts_add_up(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=300)
    only_the_counter_tells(nvml, 0)
    nvml.set_power(1, watts=120)
    without_counter(nvml, 1)
    with recording([0, 1]) as recorder:
        run_epoch(recorder, nvml_clock)
    trace = recorder.trace()

    assert mean_power_W(trace) == pytest.approx([420], rel=0.01)
    assert trace.column("energy_J") == trace.column("gpu_energy_J")
    run_s = trace.meta["duration_s"]
    by_device = {d["device"]: d["energy_J"] for d in trace.devices}
    assert by_device == pytest.approx({"gpu:0": 300 * run_s, "gpu:1": 120 * run_s}, rel=0.01)


def test_a_step_between_epochs_lands_in_the_right_one(
    nvml: FakeNvml, nvml_clock: NvmlClock
) -> None:
    nvml.set_power(0, watts=100)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock)
        nvml.set_power(0, watts=500)
        run_epoch(recorder, nvml_clock)
    # 2 %: an edge that is off by 4 ms gives one epoch 2 W too many.
    assert mean_power_W(recorder.trace()) == pytest.approx([100, 500], rel=0.02)


def test_a_step_between_epochs_without_counter(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=100)
    without_counter(nvml)
    with recording(interval_s=0.02) as recorder:
        run_epoch(recorder, nvml_clock)
        nvml.set_power(0, watts=500)
        run_epoch(recorder, nvml_clock)
    low, high = mean_power_W(recorder.trace())
    # Of a step between two readings nothing is known but that it happened: half an interval of
    # 400 W may go to the wrong epoch, 5 W on average; and 2 W for edges that are off by 4 ms.
    assert low == pytest.approx(100, abs=7)
    assert high == pytest.approx(500, abs=7)


def test_a_step_within_an_epoch(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=100)
    with recording() as recorder:
        recorder.start_epoch()
        nvml_clock.sleep(0.4)
        stepped_s = nvml_clock()
        nvml.set_power(0, watts=500)
        nvml_clock.sleep(0.4)
        recorder.end_epoch()
        ended_s = nvml_clock()
    (energy_J,) = recorder.trace().column("gpu_energy_J")
    (duration_s,) = recorder.trace().column("duration_s")
    high_s = ended_s - stepped_s
    assert energy_J == pytest.approx(100 * (duration_s - high_s) + 500 * high_s, rel=0.02)


def test_back_to_back_epochs_add_up_to_the_total(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    with recording([0, 1]) as recorder:
        for epoch, watts in enumerate((300, 100, 650, 200)):
            nvml.set_power(0, watts=watts)
            nvml.set_power(1, watts=700 - watts)
            recorder.start_epoch(continues=epoch > 0)
            nvml_clock.sleep(0.35)
            recorder.end_epoch()
    trace = recorder.trace()

    assert trace.column("energy_J").sum() == pytest.approx(trace.total_J, rel=0.005)
    # 700 W in all, at any time: neither side of the comparison can be off alone.
    assert trace.total_J == pytest.approx(700 * trace.meta["duration_s"], rel=0.01)


def test_the_counter_in_the_trace_is_the_driver_s(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=300)
    nvml.set_counter(0, joules=5_000_000)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock, seconds=0.3)
    readings = recorder.trace().power_columns

    assert set(readings["device"]) == {"gpu:0"}
    assert np.all(np.diff(readings["time_s"]) >= 0)
    assert readings["power_W"] == pytest.approx(300)
    slope_W = np.diff(readings["energy_J"][[0, -1]]) / np.diff(readings["time_s"][[0, -1]])
    assert slope_W == pytest.approx(300, rel=0.02)
    assert 5_000_000 <= readings["energy_J"][0] < 5_000_000 + 300 * 10


def test_the_end_of_a_run_releases_nvml(nvml: FakeNvml) -> None:
    with recording([0, 1]):
        assert pynvml.nvmlDeviceGetCount() == 2
    assert nvml.calls("nvmlInitWithFlags") == nvml.calls("nvmlShutdown")
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


# Counters and calls that misbehave


@pytest.mark.parametrize(
    "misbehave",
    [
        pytest.param(lambda nvml: nvml.set_counter(0, joules=0), id="restarts from 0"),
        pytest.param(lambda nvml: nvml.shift_counter(0, joules=-1000), id="jumps back"),
    ],
)
def test_a_falling_counter(
    nvml: FakeNvml, nvml_clock: NvmlClock, misbehave: Callable[[FakeNvml], None]
) -> None:
    nvml.set_power(0, watts=300)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock, lambda: misbehave(nvml))
        run_epoch(recorder, nvml_clock)
    trace = recorder.trace()

    # It jumps by 1000 J or more: three epochs' worth.
    counter_J = trace.power_columns["energy_J"]
    assert np.any(np.diff(counter_J[np.isfinite(counter_J)]) < -500)
    assert mean_power_W(trace) == pytest.approx([300, 300], rel=0.01)
    assert trace.total_J == pytest.approx(300 * trace.meta["duration_s"], rel=0.01)


def test_a_counter_that_restarts_between_epochs(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=300)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock)
        nvml.set_counter(0, joules=0)
        run_epoch(recorder, nvml_clock)
    assert mean_power_W(recorder.trace()) == pytest.approx([300, 300], rel=0.01)


def failing(nvml: FakeNvml, *functions: str) -> list[Callable[[], None]]:
    """Two actions: the functions fail from the first to the second."""

    def set_all(code: int) -> None:
        for function in functions:
            nvml.fail(function, code=code, device=0)

    return [
        lambda: set_all(pynvml.NVML_ERROR_UNKNOWN),
        lambda: set_all(pynvml.NVML_SUCCESS),
    ]


def test_a_counter_that_fails_for_a_while_is_bridged(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=300)
    nvml.fail(FIELDS, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=0)
    nvml.set_average_power(0, watts=100)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock, *failing(nvml, COUNTER))
        run_epoch(recorder, nvml_clock)
    trace = recorder.trace()

    assert np.count_nonzero(np.isnan(trace.power_columns["energy_J"])) >= 2
    # 300 W, not the 100 W that the board reports meanwhile: the counter has gone on counting.
    assert mean_power_W(trace) == pytest.approx([300, 300], rel=0.01)


def test_a_counter_that_fails_at_the_end_of_an_epoch_loses_nothing(
    nvml: FakeNvml, nvml_clock: NvmlClock
) -> None:
    nvml.set_power(0, watts=300)
    fail, recover = failing(nvml, COUNTER)
    with recording() as recorder:
        run_epoch(recorder, nvml_clock, fail)
        run_epoch(recorder, nvml_clock, recover)
    trace = recorder.trace()

    # Where the epochs meet, power has to stand in; it agrees with the counter here.
    assert mean_power_W(trace) == pytest.approx([300, 300], rel=0.01)
    assert trace.total_J == pytest.approx(300 * trace.meta["duration_s"], rel=0.01)


@pytest.mark.parametrize("board", [only_the_counter_tells, without_counter])
def test_a_gpu_that_cannot_be_read_for_a_while(
    nvml: FakeNvml, nvml_clock: NvmlClock, board: Callable[[FakeNvml], None]
) -> None:
    nvml.set_power(0, watts=300)
    board(nvml)
    with recording() as recorder:
        source = COUNTER if board is only_the_counter_tells else FIELDS
        run_epoch(recorder, nvml_clock, *failing(nvml, *{source, AVERAGE}))
    trace = recorder.trace()

    assert trace.devices[0]["failed_readings"] >= 2
    # A failed reading that counted as 0 W would leave 200 W.
    assert mean_power_W(trace) == pytest.approx([300], rel=0.01)


def test_a_gpu_that_is_never_read_costs_nan(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    without_power(nvml)
    without_counter(nvml)
    with recording([0, 1]) as recorder:
        run_epoch(recorder, nvml_clock, seconds=0.3)
    trace = recorder.trace()

    # A sum without GPU 0 would look like the whole.
    assert np.isnan(trace.column("gpu_energy_J")).all()
    assert math.isnan(recorder.total_J)
    assert trace.devices[0]["energy_J"] is None
    assert trace.devices[1]["energy_J"] == pytest.approx(70 * trace.meta["duration_s"], rel=0.01)


# Calls that hang


def test_a_call_that_hangs_for_a_while_loses_nothing(nvml: FakeNvml, nvml_clock: NvmlClock) -> None:
    nvml.set_power(0, watts=300)
    with recording() as recorder:
        hang = partial(nvml.delay, COUNTER, seconds=1, times=1)
        run_epoch(recorder, nvml_clock, hang, seconds=2.4)
    trace = recorder.trace()

    assert np.diff(trace.power_columns["time_s"]).max() > 0.5  # it did hang
    assert mean_power_W(trace) == pytest.approx([300], rel=0.01)
    assert trace.total_J == pytest.approx(300 * trace.meta["duration_s"], rel=0.01)


# In a thread and by the real clock: what hangs would do so for longer than any of it may take.


def seconds_of(action: Callable[[], object]) -> float:
    began_s = time.monotonic()
    action()
    return time.monotonic() - began_s


def test_a_hanging_call_holds_up_neither_epoch_nor_end(
    nvml: FakeNvml, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.set_power(0, watts=300)
    without_counter(nvml)  # power alone is exact, whenever it is read
    recorder = Recorder(detect([0], components=("gpu",)))
    waits_s: list[float] = []
    sample_now = recorder._sampler.sample_now

    def noted(timeout_s: float) -> bool:
        waits_s.append(timeout_s)
        return sample_now(timeout_s)

    recorder.start()
    recorder.start_epoch()
    time.sleep(0.3)
    recorder.end_epoch()
    recorder.start_epoch()
    time.sleep(0.2)
    calls = nvml.calls(FIELDS)
    nvml.delay(FIELDS, seconds=LONG_S)
    assert is_within(lambda: nvml.calls(FIELDS) > calls)

    monkeypatch.setattr(recorder._sampler, "sample_now", noted)
    # The end of an epoch is in the training's way: there a fiftieth of the epoch is much.
    assert seconds_of(recorder.end_epoch) < SHORT_S
    last = recorder.trace()
    assert sum(waits_s) <= 0.02 * last.column("duration_s")[-1]
    with caplog.at_level(logging.WARNING, "energyest"):
        assert seconds_of(recorder.stop) < SHORT_S
    assert any("hangs" in record.message for record in caplog.records)
    trace = recorder.trace()
    # The last power is taken to continue.
    assert mean_power_W(trace) == pytest.approx([300, 300])
    assert trace.meta["status"] == "finished"

    # What hung comes back after the end, and changes nothing.
    nvml.reset()
    assert is_within(lambda: not recorder._sampler._thread.is_alive())
    late = recorder.trace()
    assert len(late.power_columns["time_s"]) == len(trace.power_columns["time_s"])
    assert late.total_J == trace.total_J


def test_a_call_that_hangs_from_the_start(nvml: FakeNvml) -> None:
    nvml.set_power(0, watts=300)
    sensors = detect([0], components=("gpu",))
    nvml.delay(COUNTER, seconds=LONG_S, times=1)
    recorder = Recorder(sensors)
    assert seconds_of(recorder.start) < SHORT_S
    recorder.start_epoch()
    assert seconds_of(recorder.end_epoch) < SHORT_S
    assert seconds_of(recorder.stop) < SHORT_S
