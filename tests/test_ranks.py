"""Several processes: each records its own part, and none blocks or breaks the others.

Further tests, which take longer, are in tests/long.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from energyest import load_trace
from tests.support.forks import Forks
from tests.support.processes import (
    EPOCHS,
    Trained,
    check_death,
    check_truth,
    parts,
    train_at_once,
)

pytest.importorskip("torch")  # what is trained there, in processes of its own, needs it
pytestmark = pytest.mark.timeout(900)


# A rank that is waited for in vain ends these after a minute.
WITHOUT = ("without=1 timeout_s=60", "without=0 timeout_s=60")
TRAININGS = ("", "monitor=no", "kill=1", "kill=0", *WITHOUT)


@pytest.fixture(scope="module")
def trained(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    results = train_at_once(forks, tmp_path_factory.mktemp("ranks"), *TRAININGS)
    return dict(zip(TRAININGS, results, strict=True))


def test_rank_0_shows_and_the_folder_holds_all_ranks(trained: dict[str, Trained]) -> None:
    result, plain = trained[""], trained["monitor=no"]
    assert result.statuses == plain.statuses == [0, 0], result.stderr + plain.stderr
    seen, without = result.said("SEEN"), plain.said("SEEN")
    whole = check_truth(result.folder)
    first, second = parts(result.folder)
    assert len(whole) == len(first) == len(second) == EPOCHS
    # While it trained: what had ended before was known by the next epoch at the latest, or later by
    # as long as others were busy.
    ends_s = whole.column("end_s")
    for epoch, shown in enumerate(seen["epochs"]):
        known = np.isfinite(shown)
        assert known[ends_s[: epoch + 1] < ends_s[epoch] - seen["busy_s"]].all()
        assert np.array(shown)[known] == pytest.approx(
            whole.column("gpu_energy_J")[: epoch + 1][known], rel=1e-2
        )
    assert seen["total_J"] == pytest.approx(first.total_J + second.total_J)
    assert whole.total_J == pytest.approx(seen["total_J"])
    assert seen["projection_J"] == pytest.approx(whole.column("energy_J").sum())
    assert (whole.column("samples") == 64).all()
    assert [(d["kind"], d["rank"]) for d in whole.devices] == [
        *(("gpu", 0), ("cpu", 0), ("ram", 0)),
        ("gpu", 1),
    ]
    assert set(whole.power_columns["device"]) == {d["device"] for d in whole.devices}
    assert whole.meta["missing_ranks"] == []
    # The training does not feel it: same weights, no collective call more, at the start or later.
    assert seen["weights"] == without["weights"]
    assert increments(seen["calls"]) == increments(without["calls"])
    assert len(increments(seen["calls"])) == EPOCHS - 1
    assert extra(seen["calls"][0], without["calls"][0]) == {}


def increments(calls: list[dict[str, int]]) -> list[dict[str, int]]:
    return [extra(after, before) for before, after in itertools.pairwise(calls)]


def extra(calls: dict[str, int], than: dict[str, int]) -> dict[str, int]:
    counts = {name: count - than.get(name, 0) for name, count in calls.items()}
    return {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize("option", WITHOUT)
def test_a_rank_without_a_monitor_holds_up_nobody(option: str, trained: dict[str, Trained]) -> None:
    result, plain = trained[option], trained["monitor=no"]
    assert result.statuses == [0, 0], result.stderr
    assert result.said("SEEN")["weights"] == plain.said("SEEN")["weights"]
    if option == WITHOUT[0]:
        assert "no EnergyMonitor responded from rank 1" in result.stderr
        trace = load_trace(result.folder / "energy")
        assert trace.meta["missing_ranks"] == [1]
        assert np.isnan(trace.column("energy_J")).all()
        assert np.isnan(trace.total_J)
    else:
        assert "rank 0 has no EnergyMonitor" in result.stderr
        trace = load_trace(result.folder / "energy/rank1")
        assert trace.column("gpu_energy_J") == pytest.approx(
            30 * trace.column("duration_s"), rel=1e-3
        )
    assert len(trace) == EPOCHS
    assert result.stderr.count("Use the same callbacks on every rank") == 1


@pytest.mark.parametrize("option", ["kill=1", "kill=0"])
def test_every_folder_survives_the_death_of_a_rank(
    trained: dict[str, Trained], option: str
) -> None:
    check_death(trained[option], option)
