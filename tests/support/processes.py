"""Trainings of two processes, and what their traces have to hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energyest import EnergyTrace, load_trace
from tests.support.source import ROOT

EPOCHS = 4


WATTS = {0: 100.0, 1: 30.0}


def train(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run simulation/ranks.py in two processes; ended by force, it is a hang."""
    return subprocess.run(
        [sys.executable, "-m", "simulation.ranks", str(folder), *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def said(result: subprocess.CompletedProcess[str], word: str) -> dict[str, Any]:
    """The line of JSON that a process printed after a word."""
    lines = [line for line in result.stdout.splitlines() if line.startswith(word + " ")]
    assert len(lines) == 1, result.stdout + result.stderr
    seen: dict[str, Any] = json.loads(lines[0].removeprefix(word))
    return seen


def parts(folder: Path) -> list[EnergyTrace]:
    return [load_trace(folder / "energy", ranks=[0]), load_trace(folder / "energy/rank1")]


def check_truth(folder: Path) -> EnergyTrace:
    """Each rank's energy is that of its GPU; their sum is that of both, or unknown."""
    own = parts(folder)
    for rank, trace in enumerate(own):
        truth_J = WATTS[rank] * trace.column("duration_s")
        assert trace.column("gpu_energy_J") == pytest.approx(truth_J, rel=1e-3)
    whole = load_trace(folder / "energy")
    both = min(map(len, own))
    for name in ("energy_J", "gpu_energy_J"):
        sums = sum(trace.column(name)[:both] for trace in own)
        if name == "gpu_energy_J":
            assert whole.column(name)[:both] == pytest.approx(sums)
        assert np.isnan(whole.column(name)[both:]).all()
    # Processors and memory are the machine's: one of the processes counts them.
    assert whole.column("cpu_energy_J")[:both] == pytest.approx(
        own[0].column("cpu_energy_J")[:both]
    )
    assert {d["kind"] for d in own[1].devices} == {"gpu"}
    return whole


def check_death(tmp_path: Path, option: str) -> None:
    """A rank dies or fails in its third epoch: what was measured is in every folder."""
    result = train(tmp_path, option)
    assert result.returncode != 0
    assert "energyest" not in result.stderr
    assert ("ValueError: rank 1 fails" in result.stderr) == (option == "fail=1")
    whole = check_truth(tmp_path)
    # Two epochs, or three: the one that failed had ended already.
    assert all(2 <= len(trace) <= 3 for trace in parts(tmp_path))
    assert np.isfinite(whole.column("energy_J")[:2]).all()
    assert whole.meta["run_id"] == parts(tmp_path)[1].meta["run_id"]
