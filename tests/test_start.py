"""The start of a run never waits long for a driver, a disk, or files."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pynvml
import pytest

from energyest import load_trace, track
from energyest.errors import ConfigurationError
from energyest.gpus import driver, gpus_present
from energyest.measure import writer as writer_module
from energyest.measure.folder import TraceFolder
from energyest.measure.recorder import Recorder
from energyest.measure.sensors import detect
from energyest.patience import Errand
from energyest.versions import versions
from simulation.fake_nvml import FakeNvml
from tests.support.cuda import use_cuda
from tests.support.sensors import Constant
from tests.support.threads import is_within

# What hangs does so for longer than any test.
LONG_S = 600.0


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for long."""
    monkeypatch.setattr(driver, "PATIENCE_S", 0.1)
    monkeypatch.setattr(driver, "_IN_TROUBLE_S", 0.02)
    monkeypatch.setattr(writer_module, "PATIENCE_S", 0.1)


@pytest.fixture
def hanging(nvml: FakeNvml, hurry: None) -> Iterator[FakeNvml]:
    """A driver whose first call hangs."""
    nvml.delay("nvmlInitWithFlags", seconds=LONG_S)
    yield nvml
    nvml.reset()
    assert is_within(lambda: not driver.is_hanging())


def test_a_run_begins_while_nvml_hangs(hanging: FakeNvml, caplog: pytest.LogCaptureFixture) -> None:
    with track(components=("gpu", "cpu")) as run:
        for _ in run.epochs(2):
            time.sleep(0.05)
    assert hanging.calls("nvmlInitWithFlags") == 1
    assert np.isnan(run.trace.column("energy_J")).all()
    assert np.isfinite(run.trace.column("cpu_energy_J")).all()
    assert math.isnan(run.trace.total_J)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "GPUs" in warning
    assert any("until NVML answers" in note for note in run.trace.meta["notes"])


def test_others_that_ask_nvml_do_not_wait_either(
    hanging: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from energyest.measure.torch_gpus import address_of

    assert gpus_present() == []
    properties = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert address_of(torch.device("cuda", 1)) == "00000000:3B:00.0"
    assert hanging.calls("nvmlInitWithFlags") == 1  # and another call would hang as well


def test_nothing_is_waited_for_where_no_gpu_is_visible(
    hanging: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with track(components=("gpu", "cpu")) as run:
        for _ in run.epochs(2):
            time.sleep(0.05)
    assert run.trace.total_J > 0


@pytest.mark.parametrize("gpus", [None, [0, 1], ["00000000:3B:00.0", 0]])
def test_gpus_that_come_late_are_measured_from_then_on(
    nvml: FakeNvml,
    hurry: None,
    tmp_path: Path,
    gpus: list[int | str] | None,
) -> None:
    nvml.delay("nvmlInitWithFlags", seconds=1.0, times=1)
    with track(tmp_path / "run", gpus=gpus, components=("gpu", "cpu")) as run:
        run.start_epoch()
        assert is_within(lambda: len(run.trace.devices) == 3)
        assert is_within(lambda: {"gpu:0", "gpu:1"} <= set(run.trace.power_columns["device"]))
        run.end_epoch()
        run.start_epoch()
        time.sleep(0.2)
        run.end_epoch()
    for trace in (run.trace, load_trace(tmp_path / "run")):
        first_J, second_J = trace.column("gpu_energy_J")
        assert math.isnan(first_J)
        assert second_J == pytest.approx(140 * trace.column("duration_s")[1], rel=0.02)
        assert math.isnan(trace.total_J)
        assert sorted(d["device"] for d in trace.devices) == ["cpu:0", "gpu:0", "gpu:1"]
        assert "gpu:1" in trace.meta["notes"][-1]
    with pytest.raises(pynvml.NVMLError_Uninitialized):  # all is released
        pynvml.nvmlDeviceGetCount()


def test_torch_may_use_gpus_before_nvml_has_told_of_them(
    nvml: FakeNvml, hurry: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.delay("nvmlInitWithFlags", seconds=1.0, times=1)
    with track(components=("gpu",)) as run:
        use_cuda(monkeypatch, 2)
        run.start_epoch()
        run.end_epoch()
        assert is_within(lambda: {"gpu:0", "gpu:1"} <= set(run.trace.power_columns["device"]))
        run.start_epoch()
        time.sleep(0.1)
        run.end_epoch()
    assert [d["device"] for d in run.trace.devices] == ["gpu:0", "gpu:1"]
    assert np.isnan(run.trace.column("energy_J")).tolist() == [True, False]


def test_nvml_answers_late_that_there_is_no_driver(nvml: FakeNvml, hurry: None) -> None:
    nvml.fail("nvmlInitWithFlags", code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    nvml.delay("nvmlInitWithFlags", seconds=1.0, times=1)
    with track(components=("gpu", "cpu")) as run:
        assert is_within(lambda: len(run.trace.devices) == 1)
        time.sleep(0.1)
    assert run.trace.total_J > 0


@pytest.mark.parametrize("is_stopped", [False, True])
def test_gpus_that_come_after_the_end_are_released(
    nvml: FakeNvml, hurry: None, is_stopped: bool
) -> None:
    nvml.delay("nvmlInitWithFlags", seconds=1.0, times=1)
    found = detect(components=("gpu",))
    if is_stopped:
        recorder = Recorder(found)
        recorder.start()
        recorder.stop()
        assert math.isnan(recorder.total_J)
    else:
        found.close()
    assert found.late is not None
    assert is_within(lambda: found.late.is_done)
    assert is_within(lambda: nvml.calls("nvmlInitWithFlags") == nvml.calls("nvmlShutdown") > 1)


def test_a_folder_that_comes_late(
    hurry: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    goes_on = threading.Event()
    claim = TraceFolder.claim

    def wait(self: TraceFolder, meta: dict) -> None:
        goes_on.wait(LONG_S)
        claim(self, meta)

    monkeypatch.setattr(TraceFolder, "claim", wait)
    with track(tmp_path / "run", sensors=[Constant(100)]) as run:
        for epoch in run.epochs(4):
            time.sleep(0.05)
            if epoch == 1:
                assert run.folder is None
                goes_on.set()
    assert run.folder == tmp_path / "run"
    trace = load_trace(tmp_path / "run")
    assert len(trace) == 4
    assert trace.total_J == run.trace.total_J > 0
    assert len(trace.power_columns["time_s"]) == len(run.trace.power_columns["time_s"])
    (warning,) = [r.getMessage() for r in caplog.records]
    assert "does not answer" in warning


@pytest.mark.parametrize("is_started", [True, False])
def test_a_folder_that_never_comes(
    hurry: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    is_started: bool,
) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(TraceFolder, "claim", lambda *_: goes_on.wait(LONG_S))
    recorder = Recorder([Constant(100)], folder=tmp_path / "run")
    if is_started:
        recorder.start()
    recorder.stop(timeout_s=0.1)
    assert recorder.folder is None
    assert any(f"{tmp_path / 'run'} may lack its end" in r.getMessage() for r in caplog.records)
    goes_on.set()


# Errands


def test_an_errand_that_fails_says_so_where_it_is_asked() -> None:
    errand: Errand[float] = Errand(lambda: 1 / 0, "test")
    assert errand.wait(LONG_S)
    with pytest.raises(ZeroDivisionError):
        errand.result()


def test_an_errand_is_done_at_once_where_there_is_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    errand = Errand(threading.current_thread, "test")
    assert errand.is_done
    assert errand.result() is threading.current_thread()


def test_what_follows_an_errand_is_called_once() -> None:
    goes_on, calls = threading.Event(), []
    errand = Errand(goes_on.wait, "test")
    errand.when_done(lambda: calls.append(errand.result()))
    assert not calls
    goes_on.set()
    assert errand.wait(LONG_S)
    assert calls == [True]
    errand.when_done(lambda: calls.append(errand.result()))
    assert calls == [True, True]


# The operating system


@pytest.fixture
def _in_a_folder_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("_in_a_folder_that_is_gone")
def test_the_working_directory_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="working directory is gone"):
        track("runs/energy")
    for folder in (None, tmp_path / "run"):
        with track(folder, sensors=[Constant(100)]) as run:
            time.sleep(0.02)
        assert run.trace.total_J > 0
    assert not caplog.records
    # As a Trainer gives it, in whose training nothing is raised.
    recorder = Recorder([Constant(100)], folder=Path("energy"))
    recorder.start()
    recorder.stop()
    assert recorder.total_J > 0
    assert recorder.folder is None
    assert "cannot be written" in caplog.records[0].getMessage()


OUT_OF_FILES = """
import importlib, os, resource, sys, logging
import psutil, energyest
from energyest import track
logging.basicConfig(format="WARNING %(message)s", stream=sys.stdout)
sys.modules.pop("importlib.metadata", None)  # as if nothing had imported it
vars(importlib).pop("metadata", None)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
with track(sys.argv[1]) as run:
    for _ in run.epochs(2):
        pass
for file in taken:
    os.close(file)
print("TOTAL", run.trace.total_J, [n for n in run.trace.meta["notes"] if "cpu:0" in n])
"""


def test_no_file_can_be_opened(tmp_path: Path) -> None:
    script = [sys.executable, "-c", OUT_OF_FILES, str(tmp_path / "run")]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "TOTAL nan" in done.stdout
    assert "Too many open files" in done.stdout.split("TOTAL")[1]
    assert done.stdout.count("NaN") == 1
    assert done.stderr == ""


SCRIPT = """
print("it begins")
from energyest import track
with track(components=("gpu", "cpu")) as run:
    for _ in run.epochs(2):
        pass
print("notes", run.trace.meta["notes"])
"""


def test_a_training_that_bears_the_name_of_the_module_runs_once(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(SCRIPT)
    paths = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, tmp_path / "pynvml.py"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.stdout.count("it begins") == 1
    assert "has the same name" in done.stdout


BROKEN = "import pathlib\npathlib.Path(__file__).with_name('ran').open('a').write('x')\n1 / 0\n"


def test_a_file_of_that_name_that_fails_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text(BROKEN)
    (tmp_path / "train.py").write_text(
        SCRIPT + "from energyest.gpus import gpus_present\nprint(gpus_present())\n"
    )
    paths = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, tmp_path / "train.py"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert "division by zero" in done.stdout
    assert (tmp_path / "ran").read_text() == "x"


def test_a_module_that_cannot_be_asked_for_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module(ModuleType):
        """As Python 3.13.0 fails where the working directory is gone."""

        def __getattribute__(self, name: str) -> Any:
            raise SystemError("returned NULL without setting an exception")

    monkeypatch.setitem(sys.modules, "transformers", Module("transformers"))
    assert "transformers" not in versions()
    assert "energyest" in versions()
