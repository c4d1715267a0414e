"""Two processes that Hugging Face's Trainer trains: each records its own part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from energyest import load_trace
from tests.support.processes import EPOCHS, Trained, check_truth
from tests.support.source import ROOT

pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(900)


def train(folder: Path, *options: str) -> Trained:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *("-m", "simulation.huggingface_ranks", str(folder), *options),
        ],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return Trained(folder, [result.returncode], result.stdout, result.stderr)


def test_rank_0_shows_and_the_folder_holds_both_also_when_resumed(tmp_path: Path) -> None:
    result = train(tmp_path)
    seen, plain = result.said("SEEN"), train(tmp_path / "plain", "monitor=no").said("SEEN")
    assert seen["weights"] == plain["weights"]
    whole = check_truth(tmp_path)
    assert len(whole) == EPOCHS
    assert whole.total_J == pytest.approx(seen["total_J"])
    assert seen["projection_J"] == pytest.approx(whole.column("energy_J").sum())
    assert seen["logged"] == EPOCHS
    assert (whole.column("samples") == 64).all()
    assert (whole.column("validation_s") > 0).all()
    assert whole.meta["missing_ranks"] == []
    # While it trained, an epoch before the last was known.
    assert np.isfinite(seen["epochs"][-1][:-1]).all()

    later = train(tmp_path, "resume=yes", "epochs=6").said("SEEN")
    resumed = load_trace(tmp_path / "energy-2")
    assert list(resumed.column("epoch")) == list(range(6))
    assert resumed.meta["earlier_rows"] == EPOCHS
    np.testing.assert_allclose(
        resumed.column("energy_J")[:EPOCHS], whole.column("energy_J"), rtol=0.05
    )
    assert later["total_J"] == pytest.approx(resumed.total_J)
    assert later["total_J"] > seen["total_J"]


def test_a_rank_without_a_callback_holds_up_nobody(tmp_path: Path) -> None:
    result = train(tmp_path, "without=1", "epochs=2")
    assert "no EnergyCallback responded from rank 1" in result.stderr
    assert np.isnan(load_trace(tmp_path / "energy").column("energy_J")).all()
    assert np.isfinite(load_trace(tmp_path / "energy", ranks=[0]).column("energy_J")).all()


def test_a_budget_stops_both_at_once_with_a_checkpoint(tmp_path: Path) -> None:
    result = train(tmp_path, "epochs=50", "budget_kWh=1e-4")
    whole = load_trace(tmp_path / "energy")
    assert 1 <= len(whole) < 50
    assert len(load_trace(tmp_path / "energy" / "rank1")) == len(whole)
    assert result.stderr.count("the training ends here") == 1
    steps = int(whole.column("steps").sum())
    assert (tmp_path / f"checkpoint-{steps}").is_dir()
