"""Several processes: each records its own part, and none holds up the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from energyest import load_trace


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.ranks", str(folder), *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(
        command, check=False, cwd=root, capture_output=True, text=True, timeout=100
    )


def test_each_rank_has_a_folder_and_the_machine_is_counted_once(tmp_path: Path) -> None:
    result = train(tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = load_trace(tmp_path / "energy"), load_trace(tmp_path / "energy-rank1")
    assert len(first) == len(second) == 4
    assert (first.column("cpu_energy_J") > 0).all()
    assert np.isnan(second.column("cpu_energy_J")).all()
    assert [trace.meta["rank"] for trace in (first, second)] == [0, 1]
    assert (first.column("samples") == 32).all()  # its half
    assert result.stderr.count("rank 0") == 1


def test_a_rank_that_fails_ends_the_training_with_its_error(tmp_path: Path) -> None:
    result = train(tmp_path, "fail")
    assert result.returncode != 0
    assert "rank 1 fails" in result.stderr
    for name in ("energy", "energy-rank1"):
        # Two epochs, or three: the one that failed had ended already.
        assert len(load_trace(tmp_path / name)) in (2, 3)
