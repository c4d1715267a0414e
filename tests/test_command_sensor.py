"""`CommandSensor`: a user's command beside a training, and whatever may go wrong with it."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import pickle
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from energyest import detect, track
from energyest.errors import ConfigurationError
from energyest.measure import CommandSensor, Reading
from energyest.measure.sensors.external.background import Answer, BackgroundSensor, gap_s
from energyest.measure.sensors.external.program import Program, ProgramError
from energyest.patience import Errand
from energyest.records.devices import counted_devices
from simulation.stepped import Clock
from tests.support.sensors import Constant


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# ---------------------------------------------------------------------- what the command prints


@pytest.mark.parametrize(
    ("said", "unit", "power_W", "energy_J"),
    [
        ("412.5", "W", 412.5, math.nan),
        ("412.5 W", "W", 412.5, math.nan),
        ("  1e3\t", "mW", 1.0, math.nan),
        ("0.25kW", "kW", 250.0, math.nan),
        ("+.5", "kW", 500.0, math.nan),
        ("1000", "J", math.nan, 1000.0),
        ("0", "J", math.nan, 0.0),
        ("2", "kWh", math.nan, 7.2e6),
        ("3.5 Wh", "Wh", math.nan, 12600.0),
        ("250", "mJ", math.nan, 0.25),
    ],
)
def test_a_number_in_a_declared_unit(said: str, unit: str, power_W: float, energy_J: float) -> None:
    answer = CommandSensor(["echo", said], unit=unit).ask()
    assert answer == pytest.approx((power_W, energy_J), nan_ok=True)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (shell("echo off"), "printed 'off': not a number"),
        (shell("true"), "printed '': not a number"),
        (shell("echo 1,5"), "not a number"),
        (shell("echo 100; echo 200"), "not a number"),
        (shell("echo nan"), "not a number"),
        (shell("echo inf"), "not a number"),
        (shell("echo '300 mW'"), "printed mW, not W"),
        (shell("printf '\\377\\376'"), "not a number"),
        (shell("echo 100; exit 3"), r"sh failed \(exit status 3\)"),
        (shell("echo 'no route to host' >&2; exit 7"), r"\(exit status 7\): no route to host"),
        (shell("kill -9 $$"), r"\(signal 9\)"),
        (shell("yes"), "prints too much"),
        (shell("yes >&2"), "prints too much"),
        (shell("sleep 600"), r"killed: it took over 0\.4 s"),
        (shell("trap '' TERM; while true; do sleep 1; done"), "killed: it took over"),
    ],
)
def test_anything_else_is_an_error_that_says_why(command: list[str], why: str) -> None:
    is_slow = "killed: it took" in why
    with pytest.raises((OSError, ValueError), match=why):
        CommandSensor(command, timeout_s=0.4 if is_slow else 60).ask()


@pytest.mark.parametrize("power_W", [0.0, -3.0, 3001.0, 350_000.0])
def test_power_that_cannot_be_is_missing(power_W: float, caplog: pytest.LogCaptureFixture) -> None:
    """Milliwatts for watts, or a plug that says 0 W of the machine that asks it."""
    sensor = CommandSensor(["echo", str(power_W)], power_limit_W=1000, every_s=60)
    reading = first_reading(sensor)
    assert math.isnan(reading.power_W)
    (record,) = caplog.records
    assert "must be above 0, and at most 3000 W" in record.getMessage()


def test_a_negative_counter_is_missing() -> None:
    assert math.isnan(first_reading(CommandSensor(["echo", "-1"], unit="kWh")).energy_J)


def first_reading(sensor: BackgroundSensor) -> Reading:
    with contextlib.closing(sensor):
        assert sensor.has_news()
        return sensor.read(100.0)


# ---------------------------------------------------------------------- processes


def test_a_command_is_killed_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = f"echo $$ >> {file}; sh -c 'echo $$ >> {file}; sleep 600' & wait"
    program = Program(shell(script), 500)
    running = Errand(program.output, "test")
    deadline_s = time.monotonic() + 60
    pids: list[int] = []
    while (len(pids) < 2 or program._running is None) and time.monotonic() < deadline_s:
        pids = [int(line) for line in file.read_text().split()] if file.exists() else []
    program.close()
    with pytest.raises(ProgramError, match="signal 9"):
        running.result()
    assert len(pids) == 2
    while any(map(is_alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(0.01)  # the system takes its time to bury the grandchild
    assert not any(map(is_alive, pids))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_child_that_keeps_the_output_open_is_not_waited_for() -> None:
    began_s = time.monotonic()
    assert Program(shell("sleep 600 & echo 5"), 500).output() == "5\n"
    assert time.monotonic() - began_s < 250


def test_a_closed_sensor_kills_its_command_and_runs_no_other() -> None:
    sensor = CommandSensor(shell("sleep 600"), timeout_s=500)
    sensor.has_news()  # waits for a first answer for a while
    running = sensor._program._running
    assert running is not None
    sensor.close()
    assert running.wait(60) == -9
    assert not sensor.has_news()
    with pytest.raises(ProgramError, match="closed"):
        sensor.ask()


def test_the_command_has_neither_input_nor_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Program(["cat"], 60).output() == ""
    assert Program(["echo", "$HOME; echo 5"], 60).output() == "$HOME; echo 5\n"
    assert Program(shell("echo $MINE"), 60, {"MINE": "5"}).output() == "5\n"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_no_file_and_no_process_is_left_behind() -> None:
    def left() -> tuple[int, set[int]]:
        # The process of all tests may have children of other tests; those that ended count, too.
        children = {child.pid for child in psutil.Process().children()}
        return len(os.listdir("/proc/self/fd")), children

    def run_all() -> None:
        for script in ("echo 5", "exit 3", "sleep 600", "yes"):
            with contextlib.suppress(ProgramError):
                Program(shell(script), 0.2).output()

    run_all()
    before = left()
    run_all()
    assert left() == before


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"command": ""}, "must be a program and its arguments"),
        ({"command": []}, "must be a program and its arguments"),
        ({"command": ["echo", 5]}, "must be a program and its arguments"),
        ({"command": "echo 'open"}, "No closing quotation"),
        ({"command": "no-such-program-at-all 5"}, "there is no program 'no-such-program-at-all'"),
        ({"unit": "V"}, "unit='V': must be one of mW, W, kW"),
        ({"every_s": 0}, "every_s"),
        ({"timeout_s": -1}, "timeout_s"),
        ({"power_limit_W": 0}, "power_limit_W"),
        ({"device": "plug"}, "must begin with gpu, cpu, ram, module, system"),
        ({"contains": "gpu"}, "must be a list of kinds or devices"),
    ],
)
def test_invalid_arguments(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        CommandSensor(**{"command": "echo 5", **arguments})


def test_it_is_described() -> None:
    sensor = CommandSensor(
        "echo 5", name="a plug", device="cpu:1", contains=["cpu:0"], every_s=2, power_limit_W=9
    )
    assert sensor.device.as_meta() == {
        "device": "cpu:1",
        "kind": "cpu",
        "name": "a plug",
        "source": "measured",
        "method": "command echo in W, every 2 s",
        "power_limit_W": 9,
        "contains": ["cpu:0"],
        "uuid": f"cpu:1@{platform.node()}",
    }


# ---------------------------------------------------------------------- beside a training


@pytest.mark.parametrize("command", ["echo 100", f"{sys.executable} -c print(100)"])
def test_a_run_of_constant_power(command: str) -> None:
    """Exact, however late the answers come; also before the first and after the last of them."""
    plug = CommandSensor(command, every_s=0.05)
    gpu = Constant(60, "gpu:0")
    with track(sensors=[gpu, plug]) as run:
        for _ in run.epochs(3):
            time.sleep(0.1)
    rows = run.trace
    assert rows.column("energy_J") == pytest.approx(100 * rows.column("duration_s"))
    assert rows.column("gpu_energy_J") == pytest.approx(60 * rows.column("duration_s"))
    assert rows.total_J == pytest.approx(100 * rows.meta["duration_s"])
    assert [d["missing_s"] for d in rows.devices] == [0, 0]


def test_what_detect_finds_and_a_command() -> None:
    found = detect(components=("ram",))
    found += [CommandSensor("echo 100")]
    with track(sensors=found) as run:
        for _ in run.epochs(1):
            pass
    assert [d["device"] for d in run.trace.devices] == ["ram:0", "system:0"]
    assert [d["device"] for d in counted_devices(run.trace.devices)] == ["system:0"]


def test_a_command_that_fails_is_unknown_said_once_and_delays_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with track(sensors=[Constant(60), CommandSensor(shell("exit 3"), every_s=0.02)]) as run:
        for _ in run.epochs(2):
            time.sleep(0.1)
    assert math.isnan(run.trace.total_J)
    assert np.isnan(run.trace.column("energy_J")).all()
    assert np.isfinite(run.trace.column("gpu_energy_J")).all()
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert sum("exit status 3" in text for text in said) == 1
    assert sum("NaN" in text for text in said) == 1
    assert "system:0 (command) could not be read when the run began" in run.trace.meta["notes"]


def test_a_command_that_hangs_delays_no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    slowest_s = 0.0
    sensor = CommandSensor(shell("sleep 600"), timeout_s=500)
    with track(sensors=[Constant(60), sensor]) as run:
        for _ in run.epochs(20):
            began_s = time.thread_time()
            run.log(loss=0.5)
            slowest_s = max(slowest_s, time.thread_time() - began_s)
    running = sensor._program._running
    assert running is None or running.wait(60) == -9
    assert len(run.trace) == 20
    assert math.isnan(run.trace.total_J)


def test_a_sensor_can_be_sent_to_another_process() -> None:
    sensor = CommandSensor("echo 100")
    with contextlib.closing(sensor):
        assert sensor.has_news()
        for other in (pickle.loads(pickle.dumps(sensor)), copy.deepcopy(sensor)):
            assert first_reading(other).power_W == 100


# ---------------------------------------------------------------------- late readings


class Late(Constant):
    """A device of which a reading is known only some time after it was made."""

    def __init__(self, clock: Clock, *, every_s: float, delay_s: float, **options: Any) -> None:
        super().__init__(200, "system:0", **options)
        self.clock, self.every_s_, self.delay_s = clock, every_s, delay_s
        newest = math.floor((clock() - delay_s) / every_s)
        self.made: Iterator[float] = ((newest + i) * every_s for i in range(10**6))
        self.next_s = next(self.made)

    def has_news(self) -> bool:
        return self.clock() >= self.next_s + self.delay_s

    def read(self, time_s: float) -> Reading:
        made_s, self.next_s = self.next_s, next(self.made)
        return super().read(made_s)


@pytest.mark.parametrize("counter_W", [math.nan, 200.0])
def test_late_readings_count_when_they_were_made(clock: Clock, counter_W: float) -> None:
    clock.sleep(4)  # the sensor had an answer before the run began
    late = Late(clock, every_s=1.5, delay_s=0.7, counter_W=counter_W)
    has_counter = not math.isnan(counter_W)
    with track(sensors=[Constant(60), late]) as run:
        for epoch in run.epochs(4):
            late.watts = 200 if epoch < 2 or has_counter else 400
            clock.sleep(10)
    energy_J = run.trace.column("energy_J")
    if has_counter:
        assert energy_J == pytest.approx(2000)
    else:
        # A step of power is found between two readings of it.
        assert energy_J == pytest.approx([2000, 2000, 4000, 4000], abs=200 * 1.5)
        assert energy_J[[0, 3]] == pytest.approx([2000, 4000])
    times_s = run.trace.power_columns["time_s"][run.trace.power_columns["device"] == "system:0"]
    assert (np.diff(times_s) >= 0).all()
    assert times_s[0] == (-1.0 if has_counter else 0.0)


class Told(BackgroundSensor):
    """What the test says."""

    answers: list[Answer]

    def ask(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def interrupt(self) -> None:
        pass


def test_a_counter_is_news_only_when_it_moves() -> None:
    """A plug that counts in Wh stands still for seconds, which is no failure."""
    device = CommandSensor("echo 5", unit="Wh").device
    sensor = Told(device, every_s=0.001)
    sensor.answers = [Answer(energy_J=3600)]

    def next_reading() -> Reading:
        deadline_s = time.monotonic() + 60
        while not sensor.has_news():
            assert time.monotonic() < deadline_s
        return sensor.read(time.monotonic())

    with contextlib.closing(sensor):
        first = next_reading()
        time.sleep(0.02)
        assert not sensor.has_news()  # it stands still
        sensor.answers = [Answer(energy_J=7200)]  # not before the first is read
        second = next_reading()
        assert (first.energy_J, second.energy_J) == (3600, 7200)
        assert math.isnan(first.power_W)
        assert second.power_W == pytest.approx(3600 / (second.time_s - first.time_s), rel=0.2)
        time.sleep(0.02)
        assert not sensor.has_news()
        assert math.isnan(sensor.read(0.0).energy_J)


def test_one_answer_may_fail_before_power_is_missing() -> None:
    assert gap_s(1.0, 5.0) == 7.0
    assert gap_s(0.1, 1.0) == 5.0
    assert gap_s(30.0, 5.0) == 65.0
