"""A device in use that cannot be measured makes the energy unknown: NaN, a warning, and a note."""

from __future__ import annotations

import logging
import math
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pynvml
import pytest

from energyest import load_trace, track
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.ledger import sum_of_parts
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import Detection, detect
from energyest.records.trace import EnergyTrace
from energyest.tracking.run import Run
from energyest.tracking.track import find_sensors
from simulation.fake_nvml import FakeNvml
from simulation.stepped import Clock, NvmlClock
from tests.support.cuda import use_cuda
from tests.support.sensors import Constant

LOST = pynvml.NVML_ERROR_GPU_IS_LOST
HANDLE = "nvmlDeviceGetHandleByIndex_v2"
# What a reading of power, or of energy, comes from.
POWERS = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTotalEnergyConsumption",
)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def run_two_epochs(clock: Clock, **arguments: Any) -> Run:
    with track(**{"components": ("gpu",), **arguments}) as run:
        for _ in run.epochs(2):
            clock.sleep(1)
    return run


def assert_unknown(trace: EnergyTrace, caplog: pytest.LogCaptureFixture, device: str) -> None:
    """No joules of the device are counted, and one warning and one note name it."""
    assert math.isnan(trace.total_J)
    assert np.isnan(trace.column("energy_J")).all()
    (warning,) = warnings_of(caplog)
    assert device in warning
    assert any(device in note for note in trace.meta["notes"])


# GPUs that cannot be opened


@pytest.mark.parametrize(
    "code", [LOST, pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_RESET_REQUIRED]
)
@pytest.mark.parametrize("gpus", [None, [0, 1]])
def test_a_gpu_that_cannot_be_opened(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    code: int,
    gpus: list[int | str] | None,
) -> None:
    nvml.fail(HANDLE, device=1, code=code)
    run = run_two_epochs(nvml_clock, gpus=gpus, folder=tmp_path / "run", components=("gpu", "cpu"))
    assert_unknown(run.trace, caplog, "GPU 1")
    entries = {entry["device"]: entry for entry in run.trace.devices}
    assert entries["gpu:1"]["energy_J"] is None
    assert entries["gpu:1"]["missing_s"] == pytest.approx(run.trace.meta["duration_s"], abs=1e-5)
    assert entries["gpu:0"]["energy_J"] > 0
    assert np.isnan(run.trace.column("gpu_energy_J")).all()
    assert np.isfinite(run.trace.column("cpu_energy_J")).all()
    assert math.isnan(load_trace(tmp_path / "run").total_J)


def test_a_gpu_of_others_is_none_of_ours(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.fail(HANDLE, device=1, code=pynvml.NVML_ERROR_NO_PERMISSION)
    run = run_two_epochs(nvml_clock)
    assert run.trace.total_J > 0
    assert not warnings_of(caplog)
    caplog.clear()
    assert_unknown(run_two_epochs(nvml_clock, gpus=[0, 1]).trace, caplog, "GPU 1")  # asked for


@pytest.mark.parametrize("gpu", [7, -1, "GPU-00", "cuda:0"])
def test_a_gpu_that_is_asked_for_and_not_there(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture, gpu: int | str
) -> None:
    run = run_two_epochs(nvml_clock, gpus=[gpu, 1])
    assert_unknown(run.trace, caplog, f"GPU {gpu!r}")
    assert len({entry["device"] for entry in run.trace.devices}) == 2


def test_gpus_that_are_asked_for_without_nvml(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.remove()
    run = run_two_epochs(nvml_clock, gpus=[0], components=("gpu", "cpu"))
    assert_unknown(run.trace, caplog, "GPU 0")


@pytest.mark.parametrize(
    ("code", "is_known"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, True),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, True),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, True),  # nor does CUDA work then
        (pynvml.NVML_ERROR_NO_PERMISSION, True),
        (pynvml.NVML_ERROR_UNKNOWN, False),
        (LOST, False),
    ],
)
@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetCount_v2"])
def test_a_driver_that_does_not_tell_of_gpus(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    code: int,
    is_known: bool,
) -> None:
    nvml.fail(function, code=code)
    run = run_two_epochs(nvml_clock, components=("gpu", "cpu"))
    if is_known:
        assert run.trace.total_J > 0
        assert not warnings_of(caplog)
    else:
        assert_unknown(run.trace, caplog, "GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert run_two_epochs(nvml_clock, components=("gpu", "cpu")).trace.total_J > 0


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, 18])
def test_torch_uses_a_gpu_that_nvml_does_not_know(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    nvml.fail("nvmlInitWithFlags", code=code)
    use_cuda(monkeypatch, 1)
    run = run_two_epochs(nvml_clock, components=("gpu", "cpu"))
    assert_unknown(run.trace, caplog, "cuda:0")


def test_torch_begins_to_use_a_gpu_in_mid_run(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    nvml.remove()
    with track(tmp_path / "run", components=("gpu", "cpu")) as run:
        for epoch in run.epochs(4):
            nvml_clock.sleep(0.5)
            if epoch == 1:
                use_cuda(monkeypatch, 2)
            nvml_clock.sleep(0.5)
    for trace in (run.trace, load_trace(tmp_path / "run")):
        assert np.isnan(trace.column("energy_J")).tolist() == [False, True, True, True]
        assert math.isnan(trace.total_J)
        assert [d["device"] for d in trace.devices] == ["cpu:0", "gpu:torch0", "gpu:torch1"]
        assert any("cuda:1" in note for note in trace.meta["notes"])
    (warning,) = warnings_of(caplog)
    assert "cuda:0" in warning


# Boards that tell little


def test_a_board_without_any_power_says_so_once(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture
) -> None:
    for function in POWERS:
        nvml.fail(function, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=0)
    run = run_two_epochs(nvml_clock)
    assert_unknown(run.trace, caplog, "GPU 0")
    assert "neither its power nor its energy" in warnings_of(caplog)[0]
    assert np.isfinite(run.trace.power_columns["memory_bytes"]).any()


def test_a_gpu_that_is_lost_once_it_was_opened(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture
) -> None:
    for function in POWERS:
        nvml.fail(function, code=LOST, device=1)
    assert_unknown(run_two_epochs(nvml_clock).trace, caplog, "gpu:1")


@pytest.mark.parametrize(
    "name", ["NVIDIA H100 80GB HBM3", "GRID X-9000 of a kind that no table has"]
)
@pytest.mark.parametrize("limit", ["unsupported", "none", "all ones"])
def test_a_counter_jumps_where_no_limit_is_known(
    nvml: FakeNvml, nvml_clock: NvmlClock, name: str, limit: str
) -> None:
    nvml.set_device_count(1)
    nvml.set_name(0, name)
    nvml.set_power(0, watts=300)
    if limit == "unsupported":
        nvml.fail("nvmlDeviceGetEnforcedPowerLimit", code=pynvml.NVML_ERROR_NOT_SUPPORTED)
    else:
        watts = 0 if limit == "none" else (2**32 - 1) / 1e3
        nvml.set_power_limit(0, watts=watts)
    with track(components=("gpu",)) as run:
        for epoch in run.epochs(4):
            nvml_clock.sleep(1)
            if epoch == 1:
                nvml.shift_counter(0, joules=1e9)
    assert run.trace.column("energy_J") == pytest.approx(300, rel=0.05)
    assert "power_limit_W" not in run.trace.devices[0] or limit == "none"


# A run that is not read


@pytest.mark.parametrize("refused", ["energyest-sampler", "energyest"])
def test_threads_are_exhausted(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    refused: str,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(refused):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with track(tmp_path / "run", components=("cpu", "ram")) as run:
        for _ in run.epochs(2):
            pass
        assert math.isnan(run.total_J)
    for trace in (run.trace, load_trace(tmp_path / "run")):
        assert len(trace) == 2
        assert math.isnan(trace.total_J)
        assert np.isnan(trace.column("energy_J")).all()
        assert any("cpu:0" in note and "new thread" in note for note in trace.meta["notes"])
    assert sum("NaN" in warning for warning in warnings_of(caplog)) == 1


def test_a_run_without_with(clock: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    run = track(tmp_path / "run", sensors=[Constant(100)])
    for _ in run.epochs(3):
        clock.sleep(1)
    assert math.isnan(run.total_J)
    assert_unknown(run.trace, caplog, "gpu:0")
    run.stop()
    assert math.isnan(run.trace.total_J)
    loaded = load_trace(tmp_path / "run")
    assert len(loaded) == 3
    assert math.isnan(loaded.total_J)


def test_a_run_that_is_started_without_with(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    run = track(sensors=[Constant(100)])
    run.start()
    for _ in run.epochs(3):
        clock.sleep(1)
    run.start()  # once more changes nothing
    assert run.total_J == pytest.approx(300, rel=0.01)
    run.stop()
    assert run.trace.total_J == pytest.approx(300, rel=0.01)
    assert not warnings_of(caplog)


def test_a_run_that_was_killed_before_its_first_totals(clock: Clock, tmp_path: Path) -> None:
    recorder = Recorder([Constant(100)], folder=tmp_path / "run")
    recorder.start()
    clock.sleep(0.5)
    trace = load_trace(tmp_path / "run")  # what a kill would leave
    recorder.stop()
    assert math.isnan(trace.total_J)
    assert "gpu:0" in trace.meta["notes"][-1]


def test_totals_before_the_beginning_are_not_known(clock: Clock, tmp_path: Path) -> None:
    recorder = Recorder([Constant(100)])
    assert math.isnan(recorder.total_J)
    assert recorder.meta(["total_J"]) == {"total_J": None}
    recorder.stop()


@pytest.mark.parametrize("is_started", [True, False])
def test_rows_do_not_wait_for_what_will_never_be_read(
    nvml: FakeNvml, nvml_clock: NvmlClock, is_started: bool
) -> None:
    nvml.fail(HANDLE, device=1, code=LOST)
    recorder = Recorder(detect(components=("gpu",)))
    if is_started:
        recorder.start()
    recorder.start_epoch()
    nvml_clock.sleep(1)
    recorder.end_epoch()
    nvml_clock.sleep(0.3)
    assert recorder.state == (1, 0)  # final, and none provisional
    recorder.stop()


def test_notes_of_users_stay(clock: Clock) -> None:
    run = track(sensors=[Constant(100)])
    run.describe(notes="mine")
    run.start_epoch()
    assert run.trace.meta["notes"][0] == "mine"
    assert len(run.trace.meta["notes"]) == 2
    run.stop()


def test_no_measurement_is_not_a_run_of_0_J() -> None:
    assert math.isnan(EnergyTrace({}).total_J)
    assert EnergyTrace.from_epochs([1.0, 2.0]).total_J == 3
    for name in ("total_J", "earlier_total_J"):
        assert math.isnan(EnergyTrace.from_epochs([1.0, 2.0], meta={name: None}).total_J)


def test_a_resumed_run_adds_up_no_part_that_was_not_measured() -> None:
    whole = {"energy_J": 30.0, "gpu_energy_J": 20.0, "cpu_energy_J": 10.0}
    without_gpu = {"energy_J": 10.0, "gpu_energy_J": math.nan, "cpu_energy_J": 10.0}
    lost_gpu = {**without_gpu, "energy_J": math.nan}
    assert sum_of_parts("gpu_energy_J", whole, without_gpu) == 20
    assert math.isnan(sum_of_parts("gpu_energy_J", whole, lost_gpu))
    assert sum_of_parts("cpu_energy_J", whole, lost_gpu) == 20


def test_an_accelerator_that_nothing_here_can_read(
    nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    torch = pytest.importorskip("torch")
    from energyest.measure.torch_gpus import unreadable

    assert unreadable(torch.device("cpu")) == unreadable(torch.device("cuda", 1)) == []
    found = find_sensors([], ("gpu", "cpu"), None, others=unreadable(torch.device("mps", 0)))
    assert [device.device for device in found.devices] == ["cpu:0", "gpu:mps0"]
    assert found.unread == ["gpu:mps0"]
    (warning,) = warnings_of(caplog)
    assert "mps:0" in warning
    assert not find_sensors([], ("cpu",), None, others=["mps:0"]).unmeasured


# The module pynvml, and what it says


def other_module(monkeypatch: pytest.MonkeyPatch, **names: Any) -> ModuleType:
    module = ModuleType("pynvml")
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def fails(*_: object) -> Any:
    raise OSError("no")


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"NVMLError": 5, "nvmlInit": fails},
        {"nvmlInit": print, "nvmlShutdown": print, "nvmlDeviceGetCount": lambda: "two"},
        {"nvmlInit": print, "nvmlShutdown": fails, "nvmlDeviceGetCount": lambda: 2},
    ],
)
def test_another_module_bears_the_name(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    names: dict[str, Any],
) -> None:
    other_module(monkeypatch, **names)
    run = run_two_epochs(nvml_clock, components=("gpu", "cpu"))
    assert_unknown(run.trace, caplog, "GPU")  # the driver's library has two


@pytest.mark.parametrize(
    "lacking",
    [
        {"NVML_FI_DEV_POWER_INSTANT", "NVML_TEMPERATURE_GPU", "NVML_CLOCK_SM"},
        {"nvmlDeviceGetFieldValues"},
        {"nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetMigMode"},
        {"nvmlDeviceGetNumGpuCores", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPciInfo"},
    ],
)
def test_an_old_module_lacks_names(
    nvml: FakeNvml, nvml_clock: NvmlClock, monkeypatch: pytest.MonkeyPatch, lacking: set[str]
) -> None:
    nvml.set_power(0, watts=430)
    known = {name: value for name, value in vars(pynvml).items() if name not in lacking}
    other_module(monkeypatch, **known)
    run = run_two_epochs(nvml_clock)
    assert run.trace.column("energy_J") == pytest.approx(500, rel=0.02)


FUNCTIONS = [
    *("nvmlInitWithFlags", "nvmlDeviceGetCount_v2", HANDLE, "nvmlDeviceGetUUID"),
    *("nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetEnforcedPowerLimit"),
    *("nvmlSystemGetDriverVersion", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMigMode"),
    *("nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetNumGpuCores", "nvmlDeviceGetUtilizationRates"),
    *("nvmlDeviceGetTemperature", *POWERS),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_old_driver_lacks_functions(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    nvml.set_power(0, watts=430)
    nvml.fail(function, code=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    run = run_two_epochs(nvml_clock, components=("gpu", "cpu"))
    if function in FUNCTIONS[:3]:
        assert_unknown(run.trace, caplog, "GPU")
    else:
        assert run.trace.column("gpu_energy_J") == pytest.approx(500, rel=0.02)
        assert not warnings_of(caplog)


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (b"NVIDIA \xff\xfe GPU", "NVIDIA \xff\xfe GPU"),
        ("NVIDIA Grün".encode(), "NVIDIA Grün"),
        ("NVIDIA Grün".encode("latin-1"), "NVIDIA Grün"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_names_in_any_encoding(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, told: bytes, name: str, as_bytes: bool
) -> None:
    function = pynvml.nvmlDeviceGetName

    def get_name(handle: Any) -> Any:
        function(handle)
        return told if as_bytes else told.decode()

    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", get_name)
    found = detect(components=("gpu",))
    assert [sensor.device.name for sensor in found] == [name, name]
    assert found.notes == ()
    found.close()


# The operating system


@pytest.mark.parametrize("path", ["/nonexistent", "/dev/null"])
def test_a_system_without_proc(
    nvml: FakeNvml,
    nvml_clock: NvmlClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", path)
    run = run_two_epochs(nvml_clock, components=("gpu", "cpu", "ram"))
    assert_unknown(run.trace, caplog, "cpu:0")
    assert "ram:0" in warnings_of(caplog)[0]
    assert np.isfinite(run.trace.column("gpu_energy_J")).all()


def test_sensors_that_were_found_before_keep_what_they_lack(
    nvml: FakeNvml, nvml_clock: NvmlClock, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.fail(HANDLE, device=1, code=LOST)
    found: Detection = detect(components=("gpu",))
    assert_unknown(run_two_epochs(nvml_clock, sensors=found).trace, caplog, "GPU 1")


def test_a_checkpoint_of_a_run_with_a_loss_has_no_total(
    nvml: FakeNvml, nvml_clock: NvmlClock
) -> None:
    nvml.fail(HANDLE, device=1, code=LOST)
    run = run_two_epochs(nvml_clock)
    assert math.isnan(RunCheckpoint.of(run.trace).total.get("energy_J", math.nan))
