"""The sum over ranks: never partial, whatever is there of them; and how their rows reach rank 0."""

from __future__ import annotations

import json
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, load_trace
from energyest.distributed.rank_exchange import RankExchange
from energyest.errors import TraceError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.recorder import Recorder
from energyest.records.ranks import merge
from tests.support.sensors import Constant
from tests.support.threads import is_within

# ---------------------------------------------------------------------- the sum


def record(
    rank: int,
    energies: list[float],
    *,
    ranks: int = 2,
    kinds: Mapping[str, str | None] | None = None,
    columns: Mapping[str, Any] | None = None,
    **meta: Any,
) -> EnergyTrace:
    """The record of a rank that measured a GPU, unless `kinds` (kind -> uuid) says otherwise.

    Args:
        columns: name -> values that replace the usual ones of the epochs.
    """
    kinds = {"gpu": f"GPU-{rank}"} if kinds is None else kinds
    rows = len(energies)
    share = np.array(energies) / max(1, len(kinds))
    usual = {
        "epoch": np.arange(rows, dtype=float),
        "start_s": np.arange(rows, dtype=float),
        "end_s": np.arange(rows) + 1.0,
        "duration_s": np.ones(rows),
        "energy_J": np.array(energies) if kinds else np.full(rows, math.nan),
        "validation_energy_J": np.array(energies) / 2,
        "samples": np.full(rows, 8.0),
        "loss": np.full(rows, float(rank)),
        **{f"{kind}_energy_J": share for kind in kinds},
    }
    devices = [
        {"device": f"{kind}:0", "kind": kind, **({} if uuid is None else {"uuid": uuid})}
        for kind, uuid in kinds.items()
    ]
    facts = {"run_id": "r", "rank": rank, "world_size": ranks, "devices": devices, **meta}
    return EnergyTrace({**usual, **(columns or {})}, meta=facts)


joules = st.floats(0, 1e6) | st.just(math.nan)


@given(st.lists(st.lists(joules, max_size=6), min_size=1, max_size=5), st.data())
def test_an_energy_is_the_sum_of_all_ranks_or_unknown(
    energies: list[list[float]], data: st.DataObject
) -> None:
    ranks = len(energies)
    gone = data.draw(st.sets(st.integers(1, ranks - 1))) if ranks > 1 else set()
    there = {r: record(r, e, ranks=ranks) for r, e in enumerate(energies) if r not in gone}
    merged = merge(there)
    trace = merged
    assert len(trace) == len(energies[0])
    assert merged.meta["missing_ranks"] == sorted(gone)
    for row in range(len(trace)):
        parts = [
            e[row] if row < len(e) and r not in gone else math.nan for r, e in enumerate(energies)
        ]
        for name, share in (("energy_J", 1), ("gpu_energy_J", 1), ("validation_energy_J", 0.5)):
            assert trace.column(name)[row] == pytest.approx(share * sum(parts), nan_ok=True)
        assert trace.column("mean_power_W")[row] == pytest.approx(sum(parts), nan_ok=True)
        has_all = not gone and all(row < len(e) for e in energies)
        assert trace.column("samples")[row] == pytest.approx(
            8 * ranks if has_all else math.nan, nan_ok=True
        )
    assert (trace.column("loss") == 0).all()


@given(st.lists(st.floats(0, 1e6) | st.none(), min_size=1, max_size=4), st.integers(0, 2))
def test_a_total_is_the_sum_of_all_ranks_or_none(totals: list[float | None], missing: int) -> None:
    ranks = len(totals) + missing
    cut = [{"epoch": 3, "energy_J": t, "gpu_energy_J": t, "samples": 1} for t in totals]
    records = {
        rank: record(
            rank,
            [1.0],
            ranks=ranks,
            total_J=total,
            components={"gpu_energy_J": total},
            interrupted_epoch=cut[rank],
        )
        for rank, total in enumerate(totals)
    }
    meta = merge(records).meta
    known = missing == 0 and None not in totals
    whole = pytest.approx(sum(t or 0 for t in totals)) if known else None
    assert meta.get("total_J") == whole
    assert meta["components"].get("gpu_energy_J") == whole
    assert meta["interrupted_epoch"].get("energy_J") == whole
    assert "samples" not in meta["interrupted_epoch"]  # those of one rank are not those of all


def test_a_rank_that_was_cut_off_in_another_epoch_leaves_its_energy_unknown() -> None:
    first = record(0, [1.0], total_J=2.0, interrupted_epoch={"epoch": 1, "energy_J": 1.0})
    second = record(1, [1.0], total_J=2.0, interrupted_epoch={"epoch": 2, "energy_J": 1.0})
    assert merge({0: first, 1: second}).meta["interrupted_epoch"] == {"epoch": 1}


def test_processors_and_memory_are_those_of_the_ranks_that_have_them() -> None:
    machine: dict[str, str | None] = {"gpu": "GPU-0", "cpu": None, "ram": None}
    trace = merge({0: record(0, [90.0], kinds=machine), 1: record(1, [7.0])})
    assert trace.column("cpu_energy_J") == trace.column("ram_energy_J") == 30
    assert trace.column("gpu_energy_J") == 37
    assert trace.column("energy_J") == 97
    assert [d["device"] for d in trace.devices] == ["gpu:0", "cpu:0", "ram:0", "gpu:0@rank1"]


def test_a_rank_without_devices_adds_nothing_but_its_samples() -> None:
    trace = merge({0: record(0, [5.0]), 1: record(1, [math.nan], kinds={}, notes=["no"])})
    assert trace.column("energy_J") == 5
    assert trace.column("samples") == 16
    assert trace.meta["notes"] == ["rank 1: no"]
    # Neither does rank 0, whose rows may lack the kinds of the others.
    trace = merge({0: record(0, [math.nan], kinds={}), 1: record(1, [5.0])})
    assert trace.column("energy_J") == trace.column("gpu_energy_J") == 5


def test_a_gpu_that_ranks_share_is_counted_once() -> None:
    machine: dict[str, str | None] = {"gpu": "GPU-0", "cpu": None}
    shared = {
        0: record(0, [10.0], ranks=3, kinds=machine, total_J=10.0),
        1: record(1, [6.0], ranks=3, kinds={"gpu": "GPU-0"}, total_J=6.0),  # or another MIG device
        2: record(2, [7.0], ranks=3, total_J=7.0),
    }
    merged = merge(shared)
    assert merged.epoch_columns["energy_J"] == 17
    assert merged.epoch_columns["gpu_energy_J"] == 12
    assert merged.meta["total_J"] == 17
    assert [d["device"] for d in merged.meta["devices"]] == ["gpu:0", "cpu:0", "gpu:0@rank2"]
    # If it cannot be separated from what was measured with it, nothing is made up.
    shared[1] = record(1, [6.0], ranks=3, kinds=machine, total_J=6.0)
    merged = merge(shared)
    assert np.isnan(merged.epoch_columns["energy_J"]).all()
    assert "total_J" not in merged.meta


@given(st.lists(st.floats(0, 1e3), max_size=3), st.lists(st.floats(0, 1e3), max_size=3))
def test_rows_from_before_a_resumption_are_of_all_ranks_already(
    earlier: list[float], later: list[float]
) -> None:
    first = record(0, earlier + later, earlier_rows=len(earlier))
    numbers = np.arange(len(later), dtype=float) + len(earlier)
    second = record(1, later, columns={"epoch": numbers})
    expected = earlier + [2 * value for value in later]
    assert merge({0: first, 1: second}).epoch_columns["energy_J"] == pytest.approx(expected)
    unknown = merge({0: first}).epoch_columns["energy_J"]
    assert unknown[: len(earlier)] == pytest.approx(earlier)
    assert np.isnan(unknown[len(earlier) :]).all()


def test_rows_of_other_epochs_are_not_added() -> None:
    second = record(1, [1.0, 1.0, 1.0], columns={"epoch": np.array([0.0, 2.0, 3.0])})
    energy_J = merge({0: record(0, [5.0, 5.0, 5.0]), 1: second}).epoch_columns["energy_J"]
    assert energy_J == pytest.approx([6, math.nan, math.nan], nan_ok=True)


def test_power_is_the_summed_energy_over_the_time() -> None:
    own = {"mean_power_W": np.ones(3), "duration_s": np.array([4.0, 0.0, 4.0])}
    first = record(0, [10.0, 0.0, 6.0], columns=own)
    second = record(1, [30.0, 0.0], columns={"mean_power_W": np.ones(2)})
    power_W = merge({0: first, 1: second}).epoch_columns["mean_power_W"]
    assert power_W == pytest.approx([10, math.nan, math.nan], nan_ok=True)


def test_readings_of_a_resumed_run_are_shifted_by_the_first_epoch_of_all() -> None:
    first = record(0, [1.0] * 4, earlier_rows=2)  # epochs 2 and 3 end at 3 s and 4 s
    second = record(1, [1.0] * 2, columns={"end_s": np.array([501.0, 502.0])})

    def read(time_s: float) -> dict[str, Any]:
        return {"time_s": np.array([time_s]), "device": np.array(["gpu:0"], dtype=object)}

    merged = merge(
        {
            0: EnergyTrace(first.epoch_columns, read(2.5), first.meta),
            1: EnergyTrace(second.epoch_columns, read(500.5), second.meta),
        }
    )
    assert list(merged.power_columns["time_s"]) == [2.5, 2.5]


# ---------------------------------------------------------------------- folders


def saved(folder: Path, rank: int, energies: list[float], **meta: Any) -> Path:
    """A rank's trace in the folder of rank 0, with readings on a clock of its own."""
    late_s = 1000.0 * rank
    start_s = late_s + np.arange(len(energies))
    one = record(rank, energies, columns={"start_s": start_s, "end_s": start_s + 1}, **meta)
    power = {
        "time_s": np.arange(len(energies) + 1) + late_s,
        "device": np.full(len(energies) + 1, "gpu:0", dtype=object),
        "power_W": np.full(len(energies) + 1, 1.0),
    }
    path = folder if rank == 0 else folder / f"rank{rank}"
    return EnergyTrace(one.epoch_columns, power, one.meta).save(path)


def test_readings_are_put_on_the_clock_of_rank_0(tmp_path: Path) -> None:
    saved(tmp_path, 0, [1.0, 2.0])
    saved(tmp_path, 1, [3.0, 4.0])
    trace = load_trace(tmp_path)
    assert trace.column("energy_J") == pytest.approx([4, 6])
    times = {d: set(part["time_s"]) for d, part in trace.power.groupby("device")}
    assert times == {"gpu:0": {0, 1, 2}, "gpu:0@rank1": {0, 1, 2}}


def test_ranks_can_be_chosen(tmp_path: Path) -> None:
    saved(tmp_path, 0, [1.0], ranks=4)
    saved(tmp_path, 2, [3.0], ranks=4)
    assert np.isnan(load_trace(tmp_path).column("energy_J")).all()
    assert load_trace(tmp_path).meta["missing_ranks"] == [1, 3]
    assert math.isnan(load_trace(tmp_path).total_J)
    assert load_trace(tmp_path, ranks=[0]).total_J == 1
    assert load_trace(tmp_path, ranks=[2, 0]).column("energy_J") == 4
    assert load_trace(tmp_path / "rank2").column("energy_J") == 3
    for wrong in ([], [0, 1], [7]):
        with pytest.raises(TraceError, match="no trace of rank"):
            load_trace(tmp_path, ranks=wrong)


def test_the_folder_of_a_machine_without_rank_0(tmp_path: Path) -> None:
    saved(tmp_path, 2, [3.0], ranks=4)
    saved(tmp_path, 3, [4.0], ranks=4)
    assert np.isnan(load_trace(tmp_path).column("energy_J")).all()
    assert load_trace(tmp_path, ranks=[2, 3]).column("energy_J") == 7
    with pytest.raises(TraceError, match="no trace of rank 0"):
        load_trace(tmp_path, ranks=[0])


def test_a_sum_that_was_saved_is_the_whole(tmp_path: Path) -> None:
    saved(tmp_path / "a", 0, [1.0, 2.0])
    saved(tmp_path / "a", 1, [3.0, 4.0])
    whole = load_trace(tmp_path / "a")
    again = load_trace(whole.save(tmp_path / "b"))
    assert again.epochs.equals(whole.epochs)
    assert again.power.equals(whole.power)
    assert again.meta == whole.meta
    with pytest.raises(TraceError, match="cannot be split"):
        load_trace(tmp_path / "b", ranks=[0])


def test_what_only_looks_like_a_rank_is_left_out(tmp_path: Path) -> None:
    folder, other = tmp_path / "energy", tmp_path / "other"
    saved(folder, 0, [1.0], ranks=2)
    saved(other, 1, [3.0])
    (folder / "rank1").symlink_to(other / "rank1")  # out of the folder
    (folder / "rank2").symlink_to(".")  # itself
    (folder / "rank3").write_text("a file")
    (folder / "rank4").mkdir()  # nothing in it
    saved(folder, 5, [9.0], run_id="of another training")
    (folder / f"rank{10**9}").mkdir()
    (folder / "rank01").mkdir()
    trace = load_trace(folder)
    assert [entry["rank"] for entry in trace.meta["ranks"]] == [0]
    assert trace.meta["missing_ranks"] == [1]
    assert load_trace(folder, ranks=[0]).column("energy_J") == 1


def test_folders_in_the_trace_of_one_process_are_none_of_its_business(tmp_path: Path) -> None:
    saved(tmp_path, 0, [1.0], ranks=1)
    (tmp_path / "rank1").mkdir()
    (tmp_path / "rank1" / "meta.json").write_text("no JSON")
    assert load_trace(tmp_path).column("energy_J") == 1


@pytest.mark.parametrize("number", [10**9, -1, True, "2", None, 1.5])
def test_a_number_of_ranks_that_cannot_be_is_ignored(tmp_path: Path, number: object) -> None:
    saved(tmp_path, 0, [1.0])
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "world_size": number}))
    assert load_trace(tmp_path).column("energy_J") == 1


# ---------------------------------------------------------------------- the way to rank 0


class Store:
    """A store in memory, which can fail, be slow or hang."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.trouble: Callable[[], None] = lambda: None

    def set(self, key: str, value: str) -> None:
        self.trouble()
        self.values[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        self.trouble()
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        self.trouble()
        return self.values[key]

    def delete_key(self, key: str) -> bool:
        self.trouble()
        return self.values.pop(key, None) is not None


# Nothing that comes takes so long, on any machine; and what does not come is given up far sooner.
LONG_S, SHORT_S = 60.0, 30.0


class Rank:
    """A process of the training, without the process."""

    def __init__(self, store: Store, rank: int, ranks: int = 2, folder: Path | None = None) -> None:
        self.rank, self.epochs = rank, 0
        meta = {"run_id": "r", "rank": rank, "world_size": ranks, "host": f"host{rank}"}
        watts = 10.0 * (rank + 1)
        sensor = Constant(watts, counter_W=watts, uuid=f"GPU-{rank}")
        self.recorder = Recorder([sensor], folder=folder, interval_s=0.01, meta=meta)
        self.recorder.start()
        self.group = RankExchange(self.recorder, store, rank=rank, world_size=ranks, run_id="r")

    def epoch(self, timeout_s: float = LONG_S) -> float:
        """Train one; returns how long it took to share it."""
        self.recorder.start_epoch(self.epochs)
        time.sleep(0.03)
        self.recorder.end_epoch()
        self.epochs += 1
        self.group._shared_s = time.monotonic()  # as `share` notes, which does not wait
        return self.gather(timeout_s)

    def gather(self, timeout_s: float = LONG_S, *, is_last: bool = False) -> float:
        began_s = time.monotonic()
        self.group.gather((self.epochs, 0), timeout_s, is_last=is_last)
        return time.monotonic() - began_s

    def die(self) -> None:
        """End silently; its thread would end with its process, which does not exist here."""
        self.recorder.stop()
        self.group._worker.close()

    def end(self, timeout_s: float = LONG_S) -> float:
        self.recorder.stop()
        return self.gather(timeout_s, is_last=True)

    def last_row(self) -> dict[str, float]:
        """As it is logged when it has just ended."""
        rows, _ = self.recorder.rows_from(0)
        return self.group.with_others(rows[-1])


@pytest.fixture(autouse=True)
def _store_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that answers is waited for, however slow the machine is."""
    monkeypatch.setattr("energyest.distributed.rank_exchange._LAST_S", LONG_S)


def energy_J(rank: Rank) -> np.ndarray[Any, Any]:
    rank.group.look()
    return rank.group.trace().column("energy_J")


def has_final_rows(rank: Rank) -> bool:
    """Wait until all of its own rows are final."""

    def final() -> bool:
        rows, known = rank.recorder.rows_from(0)
        return len(rows) == known

    return is_within(final)


def test_rank_0_has_the_sum_while_it_trains_and_afterwards(tmp_path: Path) -> None:
    store = Store()
    first, second = Rank(store, 0, folder=tmp_path / "energy"), Rank(store, 1)
    for epochs in (1, 2, 3, 4):
        second.epoch()
        first.epoch()
        assert first.last_row()["epoch"] == epochs - 1
        assert has_final_rows(first)
        assert has_final_rows(second)

        def agrees() -> bool:
            return first.last_row()["energy_J"] == pytest.approx(energy_J(first)[-1], rel=1e-3)

        assert is_within(agrees)  # the other's final row has come
        assert np.isfinite(energy_J(first)).all()
        assert math.isfinite(first.group.total_J)
    second.end()
    first.end()
    own, other = first.recorder.trace(), second.recorder.trace()
    assert energy_J(first) == pytest.approx(own.column("energy_J") + other.column("energy_J"))
    assert first.group.total_J == pytest.approx(own.total_J + other.total_J)
    assert other.column("energy_J") == pytest.approx(20 * other.column("duration_s"), rel=1e-2)
    # Every message was taken, and the store is clean.
    assert not store.values
    # Rank 1 wrote nowhere here, so that its copy completes the folder.
    whole = load_trace(tmp_path / "energy")
    assert whole.column("energy_J") == pytest.approx(energy_J(first))
    assert whole.total_J == pytest.approx(first.group.total_J)
    assert load_trace(tmp_path / "energy/rank1").meta["host"] == "host1"


def test_an_epoch_that_the_others_have_not_told_of_is_taken_to_be_like_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("energyest.distributed.rank_exchange.RANKS_S", 0.05)
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    for rank in (first, second):
        rank.recorder.start_epoch(0)
    time.sleep(0.1)
    for rank in (first, second):
        rank.recorder.end_epoch()
    first.group.share((1, 0))
    assert math.isnan(first.last_row()["energy_J"])  # nothing is known of the other
    assert math.isnan(first.group.total_after_J(first.last_row()))
    second.epochs = 1
    second.group.share((1, 0))
    assert is_within(lambda: np.isfinite(energy_J(first)).all())
    first.recorder.start_epoch(1)
    time.sleep(0.1)
    own = first.recorder.end_epoch()
    began_s = time.monotonic()
    first.group.share((2, 0))
    row = first.group.with_others(own)
    total_J = first.group.total_after_J(own)
    assert time.monotonic() - began_s < SHORT_S
    assert own["energy_J"] == pytest.approx(10 * own["duration_s"], rel=0.05)
    # The other's 20 W, for as long as this epoch.
    assert row["energy_J"] == pytest.approx(30 * own["duration_s"], rel=0.05)
    assert row["mean_power_W"] == pytest.approx(30, rel=0.05)
    assert row["duration_s"] == own["duration_s"]
    # Both ranks so far; the other has reported up to its first epoch.
    assert total_J == pytest.approx(30 * own["end_s"], rel=0.2)
    # What is shown is what was measured.
    assert np.isnan(energy_J(first)).tolist() == [False, True]
    second.epoch()
    for rank in (second, first):
        rank.end()
    assert np.isfinite(energy_J(first)).all()


def test_a_checkpoint_within_an_epoch_counts_nothing_twice() -> None:
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    for rank in (second, first):
        rank.epoch()
    time.sleep(0.2)
    for rank in (second, first):
        rank.gather()  # as where a checkpoint is made
    for rank in (second, first):
        rank.recorder.start_epoch(1)
    time.sleep(0.05)
    own = first.recorder.end_epoch()
    assert first.group.total_after_J(own) == pytest.approx(30 * own["end_s"], rel=0.25)
    second.recorder.end_epoch()
    for rank in (second, first):
        rank.end()


def test_a_handler_may_ask_for_a_checkpoint_in_the_middle_of_a_sum() -> None:
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    for rank in (second, first):
        rank.epoch()
    with first.group._lock:  # as the main thread holds it that the handler has interrupted
        assert first.gather(timeout_s=0.1) < SHORT_S
    for rank in (second, first):
        rank.end()


def test_rank_0_looks_again_until_the_others_have_told() -> None:
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    first.recorder.start_epoch(0)
    first.recorder.end_epoch()
    first.group.share((1, 0))  # when the other has not ended its epoch
    second.epoch()
    assert is_within(lambda: bool(first.group._others[1].messages))
    for rank in (second, first):
        rank.end()


def test_a_copy_has_all_but_the_last_epochs_if_rank_0_is_killed(tmp_path: Path) -> None:
    store = Store()
    first, second = Rank(store, 0, folder=tmp_path / "energy"), Rank(store, 1)
    for _ in range(6):
        second.epoch()
        first.epoch()
    copied = tmp_path / "energy/rank1"
    assert is_within(lambda: len(load_trace(copied)) >= 4)
    assert is_within(lambda: not first.group._copies.is_busy)  # it grows no more
    rows = len(load_trace(copied))
    assert load_trace(copied).meta["status"] == "running"
    whole = load_trace(tmp_path / "energy").column("energy_J")
    assert np.isfinite(whole[:rows]).all()
    assert np.isnan(whole[rows:]).all()
    second.end()
    first.end()


def test_a_copy_does_not_touch_the_folder_of_a_rank(tmp_path: Path) -> None:
    store = Store()
    first = Rank(store, 0, folder=tmp_path / "energy")
    second = Rank(store, 1, folder=tmp_path / "energy/rank1")
    for rank in (second, first):
        rank.epoch()
    for rank in (second, first):
        rank.end()
    assert sorted(p.name for p in (tmp_path / "energy").iterdir() if p.is_dir()) == ["rank1"]
    assert len(load_trace(tmp_path / "energy/rank1").power)


def test_a_rank_that_dies_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energyest.distributed.rank_exchange._PATIENCE_S", 0.3)
    monkeypatch.setattr("energyest.distributed.rank_exchange._GOES_ON_S", 0.0)
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    second.epoch()
    first.epoch()
    second.die()
    assert 0.3 <= first.epoch(timeout_s=0.3) < SHORT_S
    assert all(first.epoch() < SHORT_S for _ in range(3))
    assert np.isfinite(energy_J(first)).tolist() == [True, False, False, False, False]
    assert math.isnan(first.last_row()["energy_J"])
    assert 0.3 <= first.end(timeout_s=0.3) < SHORT_S
    assert np.isfinite(energy_J(first)).tolist() == [True, False, False, False, False]


def test_a_rank_that_was_late_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energyest.distributed.rank_exchange._PATIENCE_S", 0.1)
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    first.epoch(timeout_s=0.1)
    second.epoch()
    assert is_within(lambda: np.isfinite(energy_J(first)).all())
    asked = threading.Event()
    store.trouble = asked.set

    def come_once_awaited() -> None:
        assert asked.wait(LONG_S)
        second.epoch()

    late = threading.Thread(target=come_once_awaited)
    late.start()
    assert first.epoch() < SHORT_S
    # It has waited: else it would have come back before the other had begun.
    assert second.epochs == 2
    late.join()
    assert np.isfinite(energy_J(first)).all()
    for rank in (second, first):
        rank.end()


def test_a_store_that_fails_for_a_while_loses_nothing() -> None:
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)

    def fail() -> None:
        raise ConnectionError("the store is gone")

    second.epoch()
    store.trouble = fail
    for _ in range(2):
        second.epoch()
        first.epoch(timeout_s=0.05)
        assert np.isnan(energy_J(first)).all()
        assert math.isnan(first.group.total_J)
    store.trouble = lambda: None
    first.epoch(timeout_s=0.05)  # its third

    def arrives() -> bool:
        second.gather()  # what failed goes with the next message
        return bool(np.isfinite(energy_J(first)).all())

    assert is_within(arrives)
    for rank in (second, first):
        rank.end()
    assert energy_J(first) == pytest.approx(
        first.recorder.trace().column("energy_J") + second.recorder.trace().column("energy_J")
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_a_store_that_hangs_holds_up_nobody(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store, back = Store(), threading.Event()
    one = Rank(store, rank)
    store.trouble = lambda: bool(back.wait(LONG_S)) and None
    monkeypatch.setattr("energyest.distributed.rank_exchange._LAST_S", 0.1)
    try:
        assert one.epoch(timeout_s=0.1) < SHORT_S
        assert one.epoch(timeout_s=0.1) < SHORT_S
        assert len(one.group.trace()) == 2
        assert one.end(timeout_s=0.1) < SHORT_S
    finally:
        back.set()


def test_a_provisional_row_counts_until_the_final_one_comes() -> None:
    store = Store()
    first = Rank(store, 0)

    def tell(number: int, joules: float, *, final: int, ended: int) -> None:
        message = {
            "final": final,
            "rows": [{"epoch": 0, "end_s": 1.0, "energy_J": joules, "gpu_energy_J": joules}],
            "meta": {k: record(1, []).meta[k] for k in ("run_id", "rank", "world_size", "devices")},
            "progress": [ended, 0],
            "since_s": 0.0,
            "is_last": False,
        }
        store.set(f"energyest/r/1/{number}", json.dumps(message))

    tell(0, 1000.0, final=0, ended=1)
    first.epoch()
    assert has_final_rows(first)
    (own_J,) = first.recorder.trace().column("energy_J")
    assert energy_J(first) == pytest.approx([1000 + own_J], rel=1e-12)
    assert first.last_row()["energy_J"] == pytest.approx(energy_J(first)[0], rel=1e-12)
    tell(1, 2000.0, final=1, ended=1)
    assert is_within(lambda: energy_J(first)[0] > 1500 + own_J)
    assert energy_J(first) == pytest.approx([2000 + own_J], rel=1e-12)
    assert first.last_row()["energy_J"] == pytest.approx(energy_J(first)[0], rel=1e-12)
    first.end(timeout_s=0.1)


def test_the_last_row_of_a_resumed_run() -> None:
    store = Store()
    first, second = Rank(store, 0), Rank(store, 1)
    before = EnergyTrace.from_epochs([5.0, 6.0, 7.0], [1.0] * 3, meta={"total_J": 18.0})
    first.recorder.continue_from(RunCheckpoint.of(before))
    for rank in (second, first):
        rank.epochs = 3
        rank.epoch()
    assert has_final_rows(first)
    row = first.last_row()
    assert row["epoch"] == 3
    assert row["energy_J"] == pytest.approx(energy_J(first)[-1], rel=1e-12)
    own = [rank.recorder.trace() for rank in (first, second)]
    both_J = sum(trace.column("energy_J")[-1] for trace in own)
    assert row["energy_J"] == pytest.approx(both_J, rel=1e-3)
    assert row["duration_s"] == own[0].column("duration_s")[-1]
    for rank in (second, first):
        rank.end()


def test_a_store_that_is_slow_delivers_late() -> None:
    store, answers = Store(), threading.Event()
    first, second = Rank(store, 0), Rank(store, 1)
    store.trouble = lambda: bool(answers.wait(LONG_S)) and None
    second.epoch()
    try:
        assert first.epoch(timeout_s=0.05) < SHORT_S
        assert np.isnan(energy_J(first)).all()
    finally:
        answers.set()
    assert is_within(lambda: np.isfinite(energy_J(first)).all())
    for rank in (second, first):
        rank.end()


def test_invalid_messages_are_left_out() -> None:
    store = Store()
    first = Rank(store, 0)
    for number, text in enumerate(("no JSON", "[]", '{"rows": 7}', "{}")):
        store.set(f"energyest/r/1/{number}", text)
    first.epoch(timeout_s=0.1)
    assert np.isnan(energy_J(first)).all()
    assert not store.values
    first.end(timeout_s=0.1)


def test_the_store_is_let_go_at_the_end() -> None:
    """It holds the port at which the processes of the next training may want to meet."""
    store = Store()
    gone = weakref.ref(store)
    first = Rank(store, 0, ranks=1)
    first.epoch()
    del store
    assert gone() is not None
    first.end()
    assert is_within(lambda: gone() is None)
