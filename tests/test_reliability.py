"""What breaks around a run: processes, folders, sensors, and users."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from energyest import EnergyTrace, load_trace, track
from energyest.errors import ConfigurationError
from energyest.measure.recorder import Recorder
from energyest.measure.writer import TraceWriter
from simulation.stepped import Clock
from tests.support.sensors import Constant, Failing, Hanging
from tests.support.threads import is_within, own_threads


def test_readings_that_fail_at_an_edge_move_no_energy(clock: Clock) -> None:
    # Its counter is exact, whatever its power says.
    sensor = Failing(100, counter_W=100, fails=0)
    recorder = Recorder([sensor])
    recorder.start()
    for fails in (0, 1, 0, 1, 0):
        recorder.start_epoch(continues=True)
        clock.sleep(0.33)
        sensor.fails = math.inf if fails else 0
        sensor.watts = 900.0 if fails else 100.0  # what holding the last power would book
        recorder.end_epoch()
        clock.sleep(0.25)
    sensor.fails = 0
    clock.sleep(0.15)
    recorder.stop()
    trace = recorder.trace()
    assert trace.column("mean_power_W") == pytest.approx([100] * 5, rel=0.01)


def test_a_sensor_that_fails_at_first_is_waited_for(clock: Clock) -> None:
    with track(sensors=[Failing(50, fails=2)]) as run:
        run.start_epoch()
        clock.sleep(0.1)
        run.end_epoch()
    assert run.trace.column("mean_power_W")[0] == pytest.approx(50)
    assert run.trace.total_J == pytest.approx(50 * run.trace.meta["duration_s"])


def test_rows_go_on_while_a_sensor_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energyest.measure.run_account.MAX_GAP_S", 0.4)
    sensor = Hanging()
    recorder = Recorder([sensor], folder=tmp_path / "energy", interval_s=0.1)
    recorder.start()
    sensor.goes_on.clear()
    epochs, slowest_s = 0, 0.0
    on_disk = load_trace(tmp_path / "energy")
    while len(on_disk) <= 20 or not math.isnan(on_disk.column("energy_J")[-1]):  # a gap is a gap
        began_s = time.monotonic()
        recorder.start_epoch(continues=True)
        recorder.end_epoch({"loss": 1.0})
        slowest_s = max(slowest_s, time.monotonic() - began_s)
        time.sleep(0.02)
        epochs += 1
        on_disk = load_trace(tmp_path / "energy")
    assert (on_disk.column("loss") == 1).all()
    assert slowest_s < 30  # far less than the sensor hangs
    recorder.stop()
    sensor.goes_on.set()
    assert len(load_trace(tmp_path / "energy")) == epochs


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_leaves_the_run_alone(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, sys, time
        from energyest import track
        from tests.support.sensors import Constant
        with track({str(tmp_path / "energy")!r}, sensors=[Constant(100)]) as run:
            for epoch in run.epochs(3):
                time.sleep(0.3)
                if epoch == 1:
                    child = os.fork()
                    if child == 0:
                        sys.exit(0)  # unwinds through the with
                    os.waitpid(child, 0)
    """)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 3
    assert trace.meta["status"] == "finished"
    times = trace.power_columns["time_s"]
    assert len(set(times)) == len(times)  # nothing was written twice


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    folders: list[Path | None] = []

    def claim() -> None:
        barrier.wait()
        writer = TraceWriter(tmp_path / "energy", {"devices": []}, lambda: EnergyTrace({}))
        folders.append(writer.folder)
        writer.close(1)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 8
    assert None not in folders


def test_an_empty_folder_of_ones_own_is_used(tmp_path: Path) -> None:
    (tmp_path / "energy").mkdir()
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        pass
    assert run.folder == tmp_path / "energy"


def test_meta_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("energyest.measure.folder.TraceFolder.write_meta", full)
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        run.start_epoch()
        run.end_epoch()
    assert len(run.trace) == 1
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "cannot be written" in said[0]
    # At the end, all of it is tried once more, in another way.
    assert len(said) == 1 or "is written again" in said[1]
    assert len(said) <= 2


def test_killed_just_after_it_began(tmp_path: Path) -> None:
    (tmp_path / "epochs.jsonl").touch()
    assert len(load_trace(tmp_path)) == 0


def test_killed_just_after_an_epoch_had_ended(tmp_path: Path) -> None:
    """The stored state of a run may be a moment older than its last epoch."""
    run = track(tmp_path / "energy", sensors=[Constant(100), Constant(20, "cpu:0")])
    run.start()
    for _ in range(3):
        run.start_epoch(continues=True)
        time.sleep(0.1)
        run.end_epoch()
    assert is_within((tmp_path / "energy" / "latest.json").exists)
    assert is_within(lambda: len(load_trace(tmp_path / "energy")) == 3)
    latest = json.loads((tmp_path / "energy" / "latest.json").read_text())
    rows = load_trace(tmp_path / "energy").epochs
    # As it would be if the process had died before it was written again.
    old = {**latest, "total_J": 120.0 * 2.5, "components": {"gpu_energy_J": 250.0}}
    old["interrupted_epoch"] = {
        **{name: float(rows[name][2]) for name in ("epoch", "start_s", "end_s")},
        "energy_J": 120.0 * 0.2,
        "gpu_energy_J": 20.0,
        "duration_s": 0.2,
    }
    (tmp_path / "energy" / "latest.json").write_text(json.dumps(old))
    trace = load_trace(tmp_path / "energy")
    run.stop()
    assert "interrupted_epoch" not in trace.meta
    assert trace.total_J == pytest.approx(120 * 2.3 + rows.energy_J[2])
    assert trace.meta["components"]["gpu_energy_J"] == pytest.approx(230 + rows.gpu_energy_J[2])
    assert trace.total_J > rows.energy_J[2]


def test_what_is_described_cannot_spoil_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        run.describe(devices=2, note="kept")
        run.describe(hp={(1, 2): 3})
        run.describe(rate=math.nan)
        deep: list = []
        for _ in range(100):
            deep = [deep]
        run.describe(deep=deep)
        run.start_epoch()
        run.end_epoch()
    meta = json.loads((tmp_path / "energy" / "meta.json").read_text())
    assert meta["note"] == "kept"
    assert meta["status"] == "finished"
    assert meta["devices"][0]["device"] == "gpu:0"
    assert not {"hp", "rate", "deep"} & set(meta)
    assert len(caplog.records) == 4


def test_pauses_within_a_pause(clock: Clock) -> None:
    with track(sensors=[Constant(100)]) as run:
        run.start_epoch()
        clock.sleep(0.1)
        with run.pause():
            with run.pause():
                clock.sleep(0.2)
            clock.sleep(0.2)
            paused_J = run.total_J
            clock.sleep(0.2)
            assert run.total_J == paused_J  # it stands still
        row = run.end_epoch()
    assert row["duration_s"] == pytest.approx(0.1)


def test_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with track(sensors=[Constant(100)]) as run:
        run.log(too_early=1)
        run.start_epoch()
        run.end_epoch()
    total_J = run.total_J
    run.start_epoch()
    run.end_epoch()
    run.log(too_late=1)
    assert len(run.trace) == 1
    assert run.total_J == total_J
    assert "too_early: values logged before the first epoch" in caplog.text
    assert "the run has ended" in caplog.text


def test_ctrl_c_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        start(self)
        raise KeyboardInterrupt

    start = Recorder.start
    monkeypatch.setattr(Recorder, "start", interrupted)
    sensor, before = Constant(1), own_threads()
    with pytest.raises(KeyboardInterrupt), track(sensors=[sensor]):
        pass
    assert is_within(lambda: own_threads() <= before)
    assert sensor.closed


def test_ctrl_c_while_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = track(tmp_path / "energy", sensors=[Constant(1)])
    run.start()
    run.start_epoch()
    sampler = run._session._recorder._sampler
    stop = sampler.stop

    def interrupted(timeout_s: float = 2.0) -> bool:
        stop(timeout_s)
        raise KeyboardInterrupt

    monkeypatch.setattr(sampler, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.stop("interrupted by KeyboardInterrupt")
    meta = load_trace(tmp_path / "energy").meta
    assert meta["status"] == "interrupted by KeyboardInterrupt"
    assert "total_J" in meta
    assert meta["interrupted_epoch"]["epoch"] == 0


@pytest.mark.parametrize(
    "arguments", [{"epochs": "3"}, {"epochs": 2.5}, {"interval_s": "x"}, {"confidence": None}]
)
def test_set_up_with_values_of_a_wrong_kind(arguments: dict) -> None:
    with pytest.raises(ConfigurationError):
        track(**arguments)


def test_sensors_of_one_name() -> None:
    with pytest.raises(ConfigurationError, match="different device names"):
        track(sensors=[Constant(1), Constant(2)])


def test_a_gpu_that_was_asked_for_and_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with track(gpus=[7]):
        pass
    assert "no GPU is measured" in caplog.text or "GPU 7" in caplog.text
