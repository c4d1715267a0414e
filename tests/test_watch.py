"""`energyest watch`: a run that another process records."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace
from energyest.cli import main
from energyest.cli.commands import watch
from energyest.cli.exits import Exit
from tests.support.terminals import Terminal

Step = Callable[[], None]


class Elsewhere:
    """Another process that records: each pause of `watch`, it does its next step."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.slept_s = 0.0
        monkeypatch.setattr(watch.time, "sleep", self._sleep)
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.slept_s)

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        if self.steps:
            self.steps.pop(0)()

    def records(self, epochs: int, status: str = "running") -> Step:
        """The folder as it stands after so many epochs."""

        def write() -> None:
            self.vanishes()
            meta = {"status": status, "planned_epochs": 8}
            EnergyTrace.from_epochs([100.0] * epochs, [1.0] * epochs, meta=meta).save(self.folder)

        return write

    def vanishes(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return Elsewhere(tmp_path / "energy", monkeypatch)


def test_from_before_the_folder_is_there_until_the_run_ends(
    elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [elsewhere.records(n) for n in (0, 2, 4)]
    elsewhere.steps = [*steps, lambda: None, elsewhere.records(8, "finished")]
    assert main(["watch", str(elsewhere.folder), "--intensity", "500"]) == Exit.OK
    captured = capsys.readouterr()
    assert captured.err == f"waiting for {elsewhere.folder}\n"
    first, second, third, last = captured.out.splitlines()
    assert first.startswith("0 epochs, energy not known yet")
    assert second.startswith("2 of 8 epochs, 200 J (")
    assert ", 27.8 mg CO2e so far: best guess (not stable yet" in second
    assert third.startswith("4 of 8 epochs, 400 J")
    assert ": 800 J (222.2 mWh) for 8 epochs in 8 s" in third
    assert third.endswith("111 mg CO2e")
    assert last.startswith("8 of 8 epochs, finished, 800 J")


def test_the_only_trace_below_a_folder(
    elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    above = elsewhere.folder.parent / "logs"
    elsewhere.folder = above / "version_0" / "energy"
    elsewhere.steps = [elsewhere.records(3), elsewhere.records(8, "finished")]
    above.mkdir()
    assert main(["watch", str(above)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.count(f"the trace of {above} is in {elsewhere.folder}") == 1
    EnergyTrace.from_epochs([100.0]).save(above / "version_1" / "energy")
    assert main(["watch", str(above)]) == 1
    assert "name one of" in capsys.readouterr().err


def test_as_json(elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere.records(2)()
    elsewhere.steps = [elsewhere.records(4), elsewhere.records(5, "interrupted by SIGTERM")]
    assert main(["watch", str(elsewhere.folder), "--json"]) == Exit.ERROR
    captured = capsys.readouterr()
    views: list[dict[str, Any]] = [json.loads(line) for line in captured.out.splitlines()]
    assert [view["measured"]["rows"] for view in views] == [2, 4, 5]
    assert [view["is_stable"] for view in views] == [False, True, True]
    assert views[1]["estimate"]["energy_J"] == pytest.approx(800)
    assert views[-1]["status"] == "interrupted by SIGTERM"
    assert captured.err == ""


def test_a_folder_that_vanishes(elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere.records(4)()
    # It may be replaced by a run that is started again.
    elsewhere.steps = [elsewhere.vanishes, elsewhere.records(5), elsewhere.vanishes]
    assert main(["watch", str(elsewhere.folder)]) == Exit.ERROR
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines()] == ["4", "5"]
    assert f"{elsewhere.folder} has vanished" in captured.err


def test_nothing_new(elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(elsewhere.folder), "--timeout", "60"]) == Exit.ERROR
    assert "nothing new for 60 s" in capsys.readouterr().err
    assert 60 <= elsewhere.slept_s < 65
    elsewhere.records(3)()
    assert main(["watch", str(elsewhere.folder), "--timeout", "60", "--every", "10"]) == Exit.ERROR
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_file_that_is_half_written(
    elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> None:
        (elsewhere.folder / "meta.json").write_text("{")

    elsewhere.records(3)()
    elsewhere.steps = [breaks, elsewhere.records(4), elsewhere.records(8, "finished")]
    assert main(["watch", str(elsewhere.folder)]) == Exit.OK
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_on_a_terminal_the_view_stays_in_its_place(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.records(2)()
    elsewhere.steps = [elsewhere.records(4), elsewhere.records(8, "finished")]
    shown = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", shown)
    assert main(["watch", str(elsewhere.folder)]) == Exit.OK
    assert "4 of 8 epochs" in shown.text
    assert "about 4 s to go" in shown.text
    bars = [line for line in shown.lines if "━" in line]
    assert bars
    assert all(set(line.strip()) <= set("━╸╺") for line in bars)  # on lines of their own
    assert "\x1b[1A" in shown.getvalue()  # up, over the old view
    assert max(map(len, shown.lines)) <= 80


def test_of_unknown_length(elsewhere: Elsewhere, capsys: pytest.CaptureFixture[str]) -> None:
    EnergyTrace.from_epochs([5.0] * 4, meta={"status": "finished"}).save(elsewhere.folder)
    assert main(["watch", str(elsewhere.folder)]) == Exit.OK
    assert capsys.readouterr().out.startswith("4 epochs, finished, 20 J")
    elsewhere.vanishes()
    EnergyTrace.from_epochs([5.0] * 4, meta={"status": "running"}).save(elsewhere.folder)
    folder = str(elsewhere.folder)
    assert main(["watch", folder, "--timeout", "5"]) == Exit.ERROR
    assert "its length is not known: pass --epochs" in capsys.readouterr().out
    assert main(["watch", folder, "-n", "10", "--timeout", "5"]) == Exit.ERROR
    out = capsys.readouterr().out
    assert ": 50 J (" in out
    assert " for 10 epochs" in out


@pytest.mark.parametrize("option", [["--every", "0"], ["--every", "nan"]])
def test_no_time_between_two_looks(
    elsewhere: Elsewhere, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(elsewhere.folder), *option]) == Exit.ERROR
    assert "must be above 0" in capsys.readouterr().err


def test_ctrl_c(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "energyest", "watch", str(tmp_path / "energy")],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell lets what it runs in the background ignore Ctrl-C, these tests among it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert program.stderr is not None
    assert program.stderr.readline().startswith(b"waiting for ")
    time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (out, err) == (b"", b"")
    assert program.returncode == Exit.INTERRUPTED
