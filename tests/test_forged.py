"""Numbers that no training can have are refused, in the files of a trace and in checkpoints."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch

from energyest import EnergyTrace, load_trace, track
from energyest.errors import TraceError
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.recorder import Recorder
from energyest.records.epoch_table import check_rows, check_totals
from simulation.stepped import Clock, without_threads
from tests.support.cost import costs_at_most
from tests.support.sensors import Constant
from tests.support.trainers import PlNet, loader, make_trainer, monitor_of

Change = Callable[[dict[str, Any]], Any]


def recorded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Four epochs of 4 s at 100 W, 2 s before, and 3 s of a fifth: its folder, and its state."""
    clock = Clock()
    with without_threads():
        recorder = Recorder([Constant(100)], folder=tmp_path / "energy", clock=clock)
        recorder.start()
        clock.sleep(2)
        for epoch in range(4):
            recorder.start_epoch(epoch, continues=epoch > 0)
            clock.sleep(4)
            recorder.end_epoch({"steps": 8.0, "val_acc": 0.5})
        recorder.start_epoch(4, continues=True)
        clock.sleep(3)
        state = RunCheckpoint.of(recorder.trace(so_far=True)).state_dict()
        recorder.stop("interrupted")
    return tmp_path / "energy", json.loads(json.dumps(state))


def changed(columns: dict[str, list[Any]], name: str, row: int, value: Any) -> None:
    columns[name][row] = value


# Values that no training can have in its rows, of which there are four here.
ROWS: dict[str, tuple[str, int, Any]] = {
    "negative energy": ("energy_J", 1, -5.0),
    "negative energy of GPUs": ("gpu_energy_J", 1, -5.0),
    "negative energy of a validation": ("validation_energy_J", 3, -1.0),
    "negative duration": ("duration_s", 0, -1.0),
    "negative duration of a validation": ("validation_s", 0, -1.0),
    "negative power": ("mean_power_W", 2, -1.0),
    "negative steps": ("steps", 2, -1.0),
    "absurd energy": ("energy_J", 2, 1e19),
    "absurd duration": ("duration_s", 2, 1e12),
    "absurd steps": ("steps", 2, 1e300),
    "absurd time": ("end_s", 3, 1e12),
    "absurdly early": ("start_s", 0, -1e12),
    "ends before it begins": ("end_s", 3, 12.0),
    "begins in the one before": ("start_s", 2, 8.0),
    "begins before all": ("start_s", 3, -100.0),
    "lasts longer than it did": ("duration_s", 1, 5.0),
    "more than the total": ("energy_J", 1, 3000.0),
}
# What no training can have in its totals: of 1600 J and 16 s in rows, 2 s before and 3 s after.
TOTALS: dict[str, tuple[str, Any]] = {
    "negative": ("energy_J", -1.0),
    "nothing": ("energy_J", 0.0),
    "less than the rows": ("energy_J", 1560.0),
    "absurd": ("energy_J", 1e30),
    "negative seconds": ("duration_s", -5.0),
    "fewer seconds than the rows": ("duration_s", 15.0),
    "absurd seconds": ("duration_s", 1e30),
}


def rows_of(folder: Path) -> dict[str, list[Any]]:
    lines = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines] for name in lines[0]}


def write_rows(folder: Path, columns: dict[str, list[Any]]) -> None:
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_meta(folder: Path, **values: Any) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | values))


def test_what_was_recorded_is_accepted(tmp_path: Path) -> None:
    folder, state = recorded(tmp_path)
    assert load_trace(folder).total_J == pytest.approx(2100, rel=0.02)
    assert len(RunCheckpoint.from_state_dict(state)) == 4


@pytest.mark.parametrize("case", ROWS)
def test_rows(tmp_path: Path, case: str) -> None:
    name, row, value = ROWS[case]
    folder, state = recorded(tmp_path)
    columns = rows_of(folder)
    for of in (columns, state["columns"]):
        changed(of, name, row, value)
    write_rows(folder, columns)
    with pytest.raises(TraceError, match=name.split("_")[0] if "total" not in case else "total_J"):
        load_trace(folder)
    with pytest.raises(TraceError, match="the state of a run"):
        RunCheckpoint.from_state_dict(state)
    # Of a run that was killed, too: its total may be older than its last row.
    if "total" not in case:
        change_meta(folder, status="running")
        with pytest.raises(TraceError, match=name):
            load_trace(folder)


@pytest.mark.parametrize("case", TOTALS)
def test_totals(tmp_path: Path, case: str) -> None:
    name, value = TOTALS[case]
    folder, state = recorded(tmp_path)
    change_meta(folder, **{{"energy_J": "total_J"}.get(name, name): value})
    state["total"][name] = value
    with pytest.raises(TraceError, match=r"total_J|duration_s"):
        load_trace(folder)
    with pytest.raises(TraceError, match="the state of a run"):
        RunCheckpoint.from_state_dict(state)


@pytest.mark.parametrize("total_J", [5e5, 1e7])
def test_more_than_can_have_been_drawn(tmp_path: Path, total_J: float) -> None:
    folder, _ = recorded(tmp_path)
    change_meta(folder, total_J=total_J)
    with pytest.raises(TraceError, match=r"more than the 160.* of its rows and what can have been"):
        load_trace(folder)


@pytest.mark.parametrize(
    "meta",
    [
        {"components": {"gpu_energy_J": -1.0}},
        {"interrupted_epoch": {"epoch": 4, "energy_J": -300.0, "duration_s": 3.0}},
        {"interrupted_epoch": {"epoch": 4, "energy_J": 300.0, "duration_s": -3.0}},
        {"devices": [{"device": "gpu:0", "kind": "gpu", "energy_J": -2100.0}]},
        {"devices": [{"device": "gpu:0", "kind": "gpu", "missing_s": -9.0}]},
        {"earlier_total_J": -1.0, "earlier_rows": 0},
        {"carried_J": -1.0},
    ],
)
def test_other_sums(tmp_path: Path, meta: dict[str, Any]) -> None:
    folder, _ = recorded(tmp_path)
    change_meta(folder, **meta)
    with pytest.raises(TraceError, match="not negative"):
        load_trace(folder)


def test_a_rank_is_checked_by_itself(tmp_path: Path) -> None:
    """Its negative energy does not hide in the sum."""
    folder, _ = recorded(tmp_path)
    rank1, _ = recorded(tmp_path / "other")
    run_id = load_trace(folder).meta["run_id"]
    change_meta(folder, world_size=2)
    change_meta(rank1, world_size=2, rank=1, run_id=run_id)
    rank1.rename(folder / "rank1")
    assert load_trace(folder).total_J == pytest.approx(4200, rel=0.02)
    columns = rows_of(folder / "rank1")
    changed(columns, "energy_J", 0, -10.0)
    write_rows(folder / "rank1", columns)
    with pytest.raises(TraceError, match="not negative"):
        load_trace(folder)


def test_what_is_known_of_a_killed_run_may_be_older_than_its_rows(tmp_path: Path) -> None:
    folder, _ = recorded(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    run_id = meta["run_id"]
    for name in ("total_J", "duration_s", "components", "interrupted_epoch"):
        del meta[name]
    (folder / "meta.json").write_text(json.dumps(meta | {"status": "running"}))
    latest = {"format": 1, "run_id": run_id, "total_J": 1500.0, "duration_s": 15.0}
    (folder / "latest.json").write_text(json.dumps(latest))
    trace = load_trace(folder)
    assert trace.total_J >= 1600
    assert "duration_s" not in trace.meta


def test_what_is_not_known_is_not_refused(tmp_path: Path) -> None:
    nan = np.full(3, math.nan)
    unknown = {"start_s": nan, "end_s": nan, "duration_s": nan, "energy_J": nan}
    check_rows(unknown, "")
    for total_J in (math.nan, 0.0, 5.0):
        check_totals(total_J, math.nan, unknown, 0, "")
    # Between rows that are known, too.
    some = {name: np.array([0.0, math.nan, 20.0]) for name in ("start_s", "end_s")}
    check_rows(some, "")
    some["start_s"][2] = -1
    with pytest.raises(TraceError, match="before the end of the previous epoch"):
        check_rows(some, "")
    assert len(load_trace(EnergyTrace.from_epochs([1.0, 2.0]).save(tmp_path / "e"))) == 2


def test_a_counter_that_corrects_itself(tmp_path: Path) -> None:
    """A counter that takes back booked energy: a row is then unknown, and the total lower."""
    rows = {"energy_J": np.array([100.0, math.nan, 100.0])}
    check_totals(150.0, math.nan, rows, 1, "")
    with pytest.raises(TraceError, match="less than the 200"):
        check_totals(90.0, math.nan, rows, 1, "")


# ---------------------------------------------------------------------- checkpoints alone

ABSURD: dict[str, Change] = {
    "many rows": lambda s: s.update(columns={n: [0.0] * (2**20 + 1) for n in s["columns"]}),
    "many values": lambda s: s["columns"].update(
        {name: [0.0] * 2**20 for name in (*s["columns"], *map(str, range(40)))}
    ),
    "absurd number": lambda s: changed(s["columns"], "epoch", 3, 1e300),
    "absurd steps under way": lambda s: s["open_row"].update(steps=1e300),
    "absurd samples under way": lambda s: s["open_row"].update(samples=1e300),
    "negative samples under way": lambda s: s["open_row"].update(samples=-1.0),
    "negative total of GPUs": lambda s: s["total"].update(gpu_energy_J=-1.0),
    "less than with the row under way": lambda s: s["total"].update(energy_J=1700.0),
    "row under way ends early": lambda s: s["open_row"].update(end_s=0.0),
    "no list": lambda s: s["columns"].update(energy_J={"0": 1.0}),
    "lists in a list": lambda s: s["columns"].update(energy_J=[[1.0]] * 4),
    "huge": lambda s: s["columns"].update(energy_J=[10**400] * 4),
    "text": lambda s: s["columns"].update(energy_J=["1"] * 3 + ["x"]),
    "complex": lambda s: s["total"].update(energy_J=1j),
}


@pytest.mark.parametrize("case", ABSURD)
def test_states(tmp_path: Path, case: str) -> None:
    _, state = recorded(tmp_path)
    ABSURD[case](state)
    with costs_at_most(20), pytest.raises(TraceError, match="the state of a run"):
        RunCheckpoint.from_state_dict(state)


def test_columns_of_a_state_that_no_trace_can_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As an older version could write them."""
    _, state = recorded(tmp_path)
    state["columns"] |= {"amends_row": [0.0] * 4, "\ud800": [1.0] * 4}
    with track(tmp_path / "later", sensors=[Constant(1)]) as run:
        run.load_state_dict(state)
        for _ in run.epochs(5):
            pass
    trace = load_trace(tmp_path / "later")
    assert len(trace) == 5
    assert sorted(trace.metrics) == ["val_acc"]
    assert len(caplog.records) == 1
    assert "left out of the state" in caplog.text


CHECKPOINTS: dict[str, Change] = {
    "overlap": lambda one: changed(one["run"]["columns"], "start_s", 1, -1e6),
    "total": lambda one: one["run"]["total"].update(energy_J=1.0),
    "duration": lambda one: changed(one["run"]["columns"], "duration_s", 0, -1.0),
    "size": lambda one: one["run"].update(
        columns={n: [0.0] * (2**20 + 1) for n in ("epoch", "start_s", "end_s")}
    ),
    "epoch": lambda one: one.update(epoch=-1),
    "batches": lambda one: one.update(batches=10**30),
    "text": lambda one: one.update(batches="3"),
    "nothing": dict.clear,
}


@pytest.fixture(scope="module")
def resumable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    torch.manual_seed(0)
    trainer = make_trainer(
        pytorch_lightning, folder, monitor_of(None, count_flops=False), max_epochs=2
    )
    trainer.fit(PlNet(), loader())
    trainer.save_checkpoint(folder / "it.ckpt")
    return folder / "it.ckpt"


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.long if c == "size" else ()) for c in CHECKPOINTS],
)
def test_a_training_goes_on_from_a_forged_checkpoint(
    tmp_path: Path, resumable: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = torch.load(resumable, weights_only=True)
    forged = copy.deepcopy(checkpoint)
    CHECKPOINTS[case](forged["energyest"]["0"])
    torch.save(forged, tmp_path / "forged.ckpt")
    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3)
    trainer.fit(PlNet(), loader(), ckpt_path=tmp_path / "forged.ckpt")
    assert trainer.current_epoch == 3
    assert len(monitor.trace) == 1  # it starts over
    assert len(load_trace(tmp_path / "energy")) == 1
    ours = [record for record in caplog.records if record.name == "energyest"]
    assert [record.levelname for record in ours] == ["WARNING"]
