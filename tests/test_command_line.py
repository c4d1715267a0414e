"""The command line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from energyest import EnergyTrace
from energyest.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> str:
    energy = [200.0, 100, 100, 100, 100]
    trace = EnergyTrace.from_epochs(energy_J=energy, duration_s=[1.0] * 5, val_acc=[0.5] * 5)
    return str(trace.save(tmp_path / "trace"))


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    assert "cpu:0" in capsys.readouterr().out


def test_show(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", folder]) == 0
    out = capsys.readouterr().out
    assert "5 epochs" in out
    assert "val_acc" in out
    assert "gpu_energy_J" not in out  # nothing was measured there


def test_what_a_file_says_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = ["\x07bell\nenergyest: all is well"]
    meta = {"status": "\x1b[2Jgone", "notes": notes, "devices": [{"name": "\x9b31m"}]}
    trace = EnergyTrace.from_epochs(energy_J=[1.0] * 4, meta=meta, **{"a\x1b[31mb": [1.0] * 4})
    for command in ("show", "project"):
        main(
            [command, str(trace.save(tmp_path / command)), *["-n", "9"][: 2 * (command != "show")]]
        )
    out, err = capsys.readouterr()
    assert "?[2Jgone" in out
    assert "\nenergyest:" not in out
    assert "a?[31mb" in out
    assert all(c.isprintable() or c == "\n" for c in out + err)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_a_terminal_cannot_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    meta = {"devices": [{"device": "gpu:0", "kind": "gpu", "name": "GPU 日本é"}], "notes": ["精度"]}
    trace = EnergyTrace.from_epochs(energy_J=[1.0] * 4, meta=meta, **{"é精度": [1.0] * 4})
    folder = str(trace.save(tmp_path / "trace"))
    for arguments in (["show", folder], ["project", folder, "-n", "9"], ["show", "/精度"]):
        written = io.BytesIO()
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(
                sys, stream, io.TextIOWrapper(written, encoding, write_through=True)
            )
        assert main(arguments) in (0, 1)
        assert written.getvalue().decode(encoding)
        monkeypatch.undo()


def test_project(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "-n", "10"]) == 0
    assert "1.1 kJ (305.6 mWh) for 10 epochs" in capsys.readouterr().out


def test_of_a_finished_run_errors_are_in_per_cent(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["project", folder, "-n", "5"]) == 0
    out, err = capsys.readouterr()
    head, *rows = out.splitlines()
    assert "error (%)" in head
    assert "the training has ended: this is what it cost" in err
    row = next(row for row in rows if row.startswith("first epoch"))
    assert row.split()[-2:] == ["400.0", "66.7"]  # 1000 J instead of 600 J


def test_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, acc in (("one", 0.25), ("two", 0.5)):
        hparams = {"arch": "a\x1b[31m\nb", "lr": 0.5, "optimizer": f"adam {name}"}
        meta = {"hparams": hparams, "status": "finished"}
        trace = EnergyTrace.from_epochs(energy_J=[7.0] * 4, val_acc=[acc] * 4, meta=meta)
        trace.save(tmp_path / name)
    EnergyTrace.from_epochs([1.0], meta={"status": "SIGTERM"}).save(tmp_path / "killed")
    table = tmp_path / "runs.csv"
    assert main(["runs", str(tmp_path), "--model", "arch", "--csv", str(table)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "val_acc" in out
    assert "0.25" in out
    assert "a?[31m?b" in out
    assert "adam two" in out
    assert "lr" not in out  # the same in both
    assert "gpu" not in out  # not known of any
    assert err.startswith("note: left out (unfinished or copies): killed (SIGTERM)")
    assert "--unfinished to include" in err
    assert main(["runs", str(tmp_path), "--unfinished"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert len(table.read_text().splitlines()) > 2
    assert main(["runs", str(tmp_path), "--csv", str(tmp_path / "no" / "file")]) == 1
    assert "energyest: " in capsys.readouterr().err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("energyest: no trace at")


def test_fewer_epochs_than_measured(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "-n", "3"]) == 1
    assert "less than the 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("meta", "arguments", "answer"),
    [
        ({"planned_epochs": 10}, [], "for 10 epochs"),
        ({"planned_epochs": 7.5}, [], "for 7.5 epochs"),
        ({"planned_epochs": 10}, ["-n", "8"], "for 8 epochs"),
        ({"planned_epochs": 10}, ["--steps", "100"], "for 20 epochs"),
        ({"planned_duration_s": 12.0}, [], "in 12 s"),
        ({"planned_epochs": 60, "interval_steps": 5}, [], "for 60 intervals"),
    ],
)
def test_length_of_the_training(
    meta: dict[str, float],
    arguments: list[str],
    answer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = EnergyTrace.from_epochs([100.0] * 5, [1.0] * 5, steps=[5] * 5, meta=meta)
    assert main(["project", str(trace.save(tmp_path / "planned")), *arguments]) == 0
    out = capsys.readouterr().out
    assert answer in out
    assert "Green Algorithms" in out


def test_nobody_knows_the_length(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder]) == 1
    assert "pass --epochs or --steps" in capsys.readouterr().err


def test_epochs_and_steps(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "-n", "10", "--steps", "100"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_not_stable_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = EnergyTrace.from_epochs([100.0] * 2)
    assert main(["project", str(trace.save(tmp_path / "short")), "-n", "10"]) == 1
    captured = capsys.readouterr()
    assert "not stable yet" in captured.err
    assert "Best guess so far" in captured.out
    assert "STEP" in captured.out
    empty = EnergyTrace.from_epochs([])
    assert main(["project", str(empty.save(tmp_path / "empty")), "-n", "10"]) == 1
