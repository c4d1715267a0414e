"""Runs on machines whose clocks differ: each joule is where it belongs, whatever the clocks say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, load_trace
from energyest.carbon import CarbonSeries, co2e_by_hour
from energyest.carbon.spending import spending
from energyest.exporters import RunView, metrics_of
from energyest.tradeoff import collect_runs

HOUR, EPOCHS = 3600.0, 4
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
STAIRS = CarbonSeries(NOON.timestamp() + HOUR * np.arange(8), [100.0 * i for i in range(1, 9)])


def stored(folder: Path, begins: Sequence[str | None], zeros_s: Sequence[float]) -> Path:
    """A run of an hour an epoch: when each rank says it began, and its time at the first epoch."""
    for rank, (began, zero_s) in enumerate(zip(begins, zeros_s, strict=True)):
        start_s = zero_s + HOUR * np.arange(EPOCHS)
        energy_J = 1e6 * (1 + rank) * np.ones(EPOCHS)
        epochs = {
            "epoch": np.arange(EPOCHS, dtype=float),
            "start_s": start_s,
            "end_s": start_s + HOUR,
            "duration_s": np.full(EPOCHS, HOUR),
            "energy_J": energy_J,
            "gpu_energy_J": energy_J,
        }
        time_s = zero_s + np.linspace(0, EPOCHS * HOUR, 9)
        power = {
            "time_s": time_s,
            "device": np.full(9, "gpu:0", dtype=object),
            "power_W": np.full(9, energy_J[0] / HOUR),
        }
        meta = {
            **{"run_id": "r", "status": "finished", "rank": rank, "world_size": len(begins)},
            **{"host": f"node{rank}", "total_J": 1e6 * (1 + rank) * EPOCHS},
            **{"duration_s": EPOCHS * HOUR, "planned_epochs": EPOCHS},
            "devices": [{"device": "gpu:0", "kind": "gpu", "uuid": f"GPU-{rank}"}],
            **({} if began is None else {"start_time": began}),
        }
        path = folder / f"rank{rank}" if rank else folder
        EnergyTrace(epochs, power, meta).save(path)
    return folder


ZEROS_S = {
    "the same": [0.0, 0.0, 0.0],
    "hours later": [0.0, 7200.0, 50_000.0],
    "negative": [0.0, -7200.0, -1e9],
}
BEGINS = {
    "ahead": [NOON.isoformat(), (NOON + timedelta(hours=5)).isoformat(), "2061-01-01T00:00:00Z"],
    "behind": [NOON.isoformat(), (NOON - timedelta(hours=5)).isoformat(), "1970-01-01T00:00:00Z"],
    "in another zone, or nothing": [NOON.isoformat(), "2026-03-01T23:00:00+11:00", None],
}


@pytest.mark.parametrize("zeros_s", ZEROS_S.values(), ids=[*ZEROS_S])
@pytest.mark.parametrize("begins", BEGINS.values(), ids=[*BEGINS])
def test_clocks_of_other_ranks_change_nothing(
    zeros_s: list[float], begins: list[str | None], tmp_path: Path
) -> None:
    alike = stored(tmp_path / "alike", [NOON.isoformat()] * 3, [0.0] * 3)
    differ = stored(tmp_path / "differ", begins, zeros_s)
    expected, found = load_trace(alike), load_trace(differ)
    assert found.column("energy_J") == pytest.approx([6e6] * EPOCHS)
    assert found.total_J == 24e6
    assert found.epochs.equals(expected.epochs)
    np.testing.assert_allclose(found.power["time_s"], expected.power["time_s"], atol=1e-5)
    assert found.power.drop(columns="time_s").equals(expected.power.drop(columns="time_s"))
    np.testing.assert_array_equal(found.energy_over_time(), expected.energy_over_time())
    assert found.co2e_kg(STAIRS) == pytest.approx(6e6 / 3.6e9 * (100 + 200 + 300 + 400))
    assert co2e_by_hour(found, STAIRS).equals(co2e_by_hour(expected, STAIRS))
    # In a table, and for Prometheus.
    table = collect_runs({"run": differ})
    assert list(table.started) == [NOON.isoformat()]
    assert table.equals(collect_runs({"run": alike}))
    both = [metrics_of({"run": RunView.of(trace)}) for trace in (expected, found)]
    assert both[0] == both[1]


def test_a_run_may_go_on_where_the_clock_is_behind() -> None:
    """Two hours from noon on, and two more on a machine that says it is ten: they come after."""
    trace = EnergyTrace.from_epochs(
        [1e6, 1e6, 2e6, 2e6],
        [HOUR] * 4,
        start_s=[-2 * HOUR, -HOUR, 0.0, HOUR],
        end_s=[-HOUR, 0.0, HOUR, 2 * HOUR],
        meta={
            "start_time": (NOON - timedelta(hours=2)).isoformat(),
            "earlier_parts": [{"start_time": NOON.isoformat(), "rows": 2}],
            **{"total_J": 6e6, "duration_s": 2 * HOUR},
        },
    )
    time_s, used_J = trace.energy_over_time()
    at_s = NOON.timestamp() + HOUR * np.arange(5)
    assert np.interp(at_s, time_s, used_J) == pytest.approx([0, 1e6, 2e6, 4e6, 6e6])
    assert trace.co2e_kg(STAIRS) == pytest.approx((100 + 200 + 600 + 800) / 3.6e3)


whole = st.integers(-(10**6), 10**6).map(float)


@given(st.lists(st.tuples(st.integers(0, 3), whole), min_size=1, max_size=4), st.floats(0, 1e6))
def test_time_goes_on_and_nothing_is_lost(parts: list[tuple[int, float]], outside_J: float) -> None:
    """Of a run in parts with any clocks, each of so many epochs of ten seconds."""
    rows = sum(count for count, _ in parts)
    before = rows - parts[-1][0]
    start_s = 10.0 * (np.arange(rows) - before)
    energy_J = 1.0 + np.arange(rows)
    firsts = np.cumsum([0, *(count for count, _ in parts[:-1])])
    begins = [(int(first), at_s) for first, (_, at_s) in zip(firsts, parts, strict=True)]
    total_J = float(energy_J.sum()) + outside_J
    lasted_s = 10.0 * parts[-1][0] + 5
    time_s, used_J = spending((start_s, start_s + 10, energy_J), begins, lasted_s, total_J)
    assert (np.diff(time_s) >= 0).all()
    assert (np.diff(used_J) >= 0).all()
    assert used_J[-1] == pytest.approx(total_J)
    # Each epoch still takes its time.
    assert time_s[2:-1:2] - time_s[1:-1:2] == pytest.approx(10.0, abs=1e-6)
