"""Logs of other tools on the command line: the options that say what a log does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energyest.cli import main
from energyest.cli.traces import with_options

NO_EPOCHS = (
    "energyest: the log does not say when epochs ended: pass --epoch-ends FILE, or --epoch-marks\n"
)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A minute of two GPUs at 300 W and 100 W, and a file of the ends of three epochs."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"2026/03/01 10:00:{second:02}.000, {gpu}, {watts} W"
        for second in range(60)
        for gpu, watts in ((0, 300), (1, 100))
    ]
    Path("gpus.csv").write_text("\n".join(["timestamp, index, power.draw [W]", *rows]) + "\n")
    Path("ends.txt").write_text("20\n40\n59\n")
    return "gpus.csv"


def test_the_estimators_on_a_log(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", log, "--epoch-ends", "ends.txt", "--gpu", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measured"]["rows"] == 3
    assert found["measured"]["energy_J"] == pytest.approx(300 * 59, rel=0.02)


def test_the_epochs_of_a_log(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--epoch-ends", "ends.txt", "--gpu", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("command", ["project", "compare", "export"])
def test_a_log_without_epochs(log: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, log]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith(NO_EPOCHS)


def test_readings_need_no_epochs(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", log, "--table", "power"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 60


@pytest.mark.parametrize(
    "arguments",
    [["compare", "gpus.csv", "gpus.csv"], ["compare", "."], ["export", ".", "--table", "runs"]],
)
def test_options_of_one_log_alone(
    log: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--epoch-ends", "ends.txt"]) == 2
    assert "--epoch-ends is for one log" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("its power; leave it out with gpu=", "its power; leave it out with --gpu"),
        ("gpu='7' is not one of its devices", "--gpu '7' is not one of its devices"),
        ("in interval_s=, as in interval_s=1.0", "in --interval, as in --interval 1.0"),
        ("set epoch_end_s= to a file", "set --epoch-ends to a file"),
        ("choose with tool=", "choose with --tool"),
        ("no times (--query-gpu=timestamp)", "no times (--query-gpu=timestamp)"),
        ("max_gap_s= sets how long", "max_gap_s= sets how long"),  # there is no such option
    ],
)
def test_options_for_arguments(text: str, shown: str) -> None:
    assert with_options(text) == shown


def test_messages_name_options(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(log).read_text()
    Path(log).write_text(text.replace("0, 300 W", "0, [N/A]"))
    assert main(["show", log, "--epoch-ends", "ends.txt"]) == 1
    assert capsys.readouterr().err.endswith("; leave it out with --gpu\n")
    assert main(["show", log, "--gpu", "7"]) == 1
    assert "--gpu '7' is not one of its devices" in capsys.readouterr().err


def test_the_log_of_a_training_needs_marks(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.log").write_text("2026-03-01 10:00:20, epoch 1 done\n")
    assert main(["project", log, "--epoch-ends", "train.log"]) == 1
    assert capsys.readouterr().err.endswith(
        "name one of them epoch_end_s; if this is a training's log, add --epoch-marks\n"
    )
