"""Sweeps by Optuna, submitit and Ray: every training leaves a trace, in one place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from energyest.tradeoff import collect_runs

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "scale_out"


def run(name: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "package", "trainings"),
    [("optuna_sweep", "optuna", 4), ("submitit_array", "submitit", 3), ("ray_sweep", "ray", 3)],
)
def test_sweep(name: str, package: str, trainings: int, tmp_path: Path) -> None:
    pytest.importorskip(package)
    said = run(name, tmp_path, str(tmp_path / "runs"))
    runs = collect_runs(tmp_path / "runs")
    assert len(runs) == trainings
    assert runs["model"].nunique() == trainings
    assert (runs["energy_J"] > 0).all()
    accuracies = [float(found) for found in re.findall(r"accuracy (\d\.\d+)", said)]
    assert accuracies
    assert set(accuracies) <= {round(value, 3) for value in runs["val_acc"]}


def test_probes(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    said = run("probe_nodes", tmp_path)
    assert "PRE with a probe of" in said
    assert "for 90 epochs" in said
