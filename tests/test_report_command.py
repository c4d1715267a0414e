"""`energyest report`: the page of a training as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energyest import EnergyTrace
from energyest.cli import main

pytest.importorskip("energyest.report")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    meta = {"status": "finished"}
    trace = EnergyTrace.from_epochs([3.6e5] * 10, [1000.0] * 10, meta=meta)
    return trace.save(tmp_path / "logs" / "energy")


def test_in_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # an earlier report is replaced
        assert main(["report", str(folder), "--intensity", "100"]) == 0
        assert capsys.readouterr().out == f"written: {folder / 'report.html'}\n"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!")
    assert "CO2e" in page
    (folder / "report.html").write_text("mine")
    assert main(["report", str(folder)]) == 1
    assert (folder / "report.html").read_text() == "mine"
    assert "report.html" in capsys.readouterr().err


def test_elsewhere(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "page.html"
    assert main(["report", str(folder.parent), "--output", str(file), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"file": str(file)}
    assert captured.err.startswith("note: the trace of ")
    assert file.exists()
    assert not (folder.parent / "report.html").exists()


def test_a_log_needs_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "power.csv"
    log.write_text("time_s,power_W\n0,100\n1,100\n2,100\n")
    assert main(["report", str(log)]) == 2
    assert "--output FILE is missing" in capsys.readouterr().err
