"""Several processes, in further ways: another engine, and a rank that has no run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from energyest import load_trace
from tests.support.processes import EPOCHS, WATTS, check_death, check_truth, train

pytestmark = pytest.mark.timeout(900)


def test_processes_that_lightning_starts(tmp_path: Path) -> None:
    """In tests/test_ranks.py they are started from outside."""
    result = train(tmp_path)
    assert result.statuses == [0], result.stderr
    whole = check_truth(tmp_path)
    assert len(whole) == EPOCHS
    assert whole.total_J == pytest.approx(result.said("SEEN")["total_J"])
    assert whole.meta["missing_ranks"] == []


def test_another_engine(tmp_path: Path) -> None:
    result = train(tmp_path, "strategy=model_parallel")
    assert result.statuses == [0], result.stderr
    assert len(check_truth(tmp_path)) == EPOCHS


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_a_run_holds_up_nobody(tmp_path: Path, rank: int) -> None:
    result = train(tmp_path, f"broken={rank}", "epochs=2")
    assert result.statuses == [0], result.stderr
    seen = result.said("SEEN")
    if rank:
        assert np.isnan(load_trace(tmp_path / "energy").column("energy_J")).all()
        assert np.isfinite(load_trace(tmp_path / "energy", ranks=[0]).column("energy_J")).all()
        # Rank 0 waits for the first row of the others, for 2 s, and at the end of the run for 3 s.
        first_s, *between_s, last_s = seen["wait_s"]
        assert first_s < 3
        assert all(wait_s < 1 for wait_s in between_s)
        assert last_s < 5
    else:
        second = load_trace(tmp_path / "energy", ranks=[1])
        assert second.column("gpu_energy_J") == pytest.approx(
            WATTS[1] * second.column("duration_s"), rel=1e-3
        )


def test_processes_that_are_spawned(tmp_path: Path) -> None:
    result = train(tmp_path, "strategy=ddp_spawn")
    assert result.statuses == [0], result.stderr
    whole = check_truth(tmp_path)
    assert len(whole) == EPOCHS
    parent = result.said("PARENT")
    assert parent == {"epochs": EPOCHS, "total_J": pytest.approx(whole.total_J)}


def test_a_rank_that_fails(tmp_path: Path) -> None:
    check_death(train(tmp_path, "fail=1"), "fail=1")


@pytest.mark.parametrize("broken", ["", "broken=1"])
def test_a_budget_stops_all_ranks_at_once(tmp_path: Path, broken: str) -> None:
    result = train(tmp_path, "epochs=50", "budget_kWh=1e-4", *filter(None, [broken]))
    assert result.statuses == [0], result.stderr
    whole = load_trace(tmp_path / "energy")
    if broken:  # the energy of all is not known: nothing is stopped by it, and nobody waits
        assert len(whole) == 50
        assert "is not known" in result.stderr
        return
    assert 1 <= len(whole) < 50
    assert len(load_trace(tmp_path / "energy" / "rank1")) == len(whole)
    assert result.stderr.count("the training ends here") == 1
