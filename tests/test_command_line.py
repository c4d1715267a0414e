"""The command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from energyest import EnergyTrace
from energyest.__main__ import main


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


def test_project(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "-n", "10"]) == 0
    assert "1.1 kJ (0.0003056 kWh) for 10 epochs" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().err.startswith("energyest: no trace at")


def test_fewer_epochs_than_measured(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "-n", "3"]) == 1
    assert "fewer than the 5" in capsys.readouterr().err
