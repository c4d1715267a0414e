"""Many runs: an index of their folder, runs elsewhere, parts of resumed runs, duplicates."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from energyest import EnergyTrace, load_trace, track
from energyest.cli import main
from energyest.errors import MissingDependencyError, RunsError
from energyest.records import loading
from energyest.records.places import local, remote
from energyest.tradeoff import collect_runs, duplicated_runs, load_traces
from energyest.tradeoff.collect import gather as gather_module
from energyest.tradeoff.collect.index import INDEX_FILE
from tests.support.sensors import Constant


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is seen at once: the disks of tests keep times to the nanosecond."""
    monkeypatch.setattr(local, "SETTLED_AFTER_S", -1.0)
    monkeypatch.setattr(remote, "SETTLED_AFTER_S", -1.0)


def trace(number: int, *, epochs: int = 3, **meta: Any) -> EnergyTrace:
    """A run whose energy says which it is."""
    facts = {
        "run_id": f"id{number}",
        "status": "finished",
        "start_time": f"2026-01-01T00:00:{number % 60:02.0f}+00:00",
        "devices": [
            {"device": "gpu:0", "kind": "gpu", "name": "A40", "utilization": 0.5, "energy_J": 1.0}
        ],
        "model": {"name": "Net", "parameters": 10},
        "hparams": {"lr": 0.1, "arch": f"net{number % 2}", "layers": [1, 2]},
        "user": "ada",
        "host": "node1",
        "project": "vision",
        "job": {"scheduler": "slurm", "id": "17"},
        "total_J": 100.0 + number,
        "duration_s": 60.0,
    }
    return EnergyTrace.from_epochs(
        energy_J=np.full(epochs, 20.0 + number / 10),
        duration_s=[10.0] * epochs,
        samples=[64.0] * epochs,
        val_acc=np.resize([0.5, 0.9, 0.8, 0.7], epochs),
        val_loss=np.linspace(0.7, 0.3, epochs),
        meta=facts | meta,
    )


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders of traces that are read from now on."""
    seen: list[str] = []
    read = gather_module.load_summary

    def noted(folder: Path) -> Any:
        seen.append(folder.name)
        return read(folder)

    monkeypatch.setattr(gather_module, "load_summary", noted)
    return seen


def collected(source: Path | str, **options: Any) -> pd.DataFrame:
    return collect_runs(source, index=True, **options)


# ---------------------------------------------------------------------- the index


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        trace(number).save(tmp_path / "some" / f"run{number}")
    full = collected(tmp_path)
    seen = reads(monkeypatch)
    pd.testing.assert_frame_equal(collected(tmp_path), full)
    assert seen == []
    shutil.rmtree(tmp_path / "some" / "run1")
    trace(1, epochs=4).save(tmp_path / "some" / "run1")
    trace(7).save(tmp_path / "other" / "run7")
    shutil.rmtree(tmp_path / "some" / "run2")
    again = collected(tmp_path)
    assert sorted(seen) == ["run1", "run7"]
    pd.testing.assert_frame_equal(again, collect_runs(tmp_path, index=False))
    assert list(again["energy_J"]) == [100, 101, 103, 104, 107]


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: rewrite(run / "meta.json", '"ada"', '"eve"'),
        lambda run: rewrite(run / "epochs.jsonl", '"val_acc": 0.8', '"val_acc": 0.6'),
        lambda run: rewrite(run / "rank1" / "meta.json", '"total_J": 100.0', '"total_J": 107.0'),
        lambda run: shutil.rmtree(run / "rank1"),
        lambda run: trace(0, rank=2, world_size=2).save(run / "rank2"),
    ],
    ids=["meta", "epochs", "a rank's meta", "a rank that is gone", "a rank that comes late"],
)
def test_every_change_is_seen(change: Callable[[Path], object], tmp_path: Path) -> None:
    run = trace(0, rank=0, world_size=2).save(tmp_path / "run")
    trace(0, rank=1, world_size=2).save(run / "rank1")
    trace(1).save(tmp_path / "other")
    before = collected(tmp_path)
    change(run)
    after = collected(tmp_path)
    assert not after.equals(before)
    pd.testing.assert_frame_equal(after, collect_runs(tmp_path, index=False))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "remove", "rewrite", "rank", "move", "look", "monitor", "break", "above"]
        ),
        st.integers(0, 4),
        st.integers(0, 99),
    ),
    max_size=14,
)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_incremental_is_full(steps: list[Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever happens to the folders, the index never shows in the table."""
    root = tmp_path_factory.mktemp("runs")
    trace(50).save(root / "first")
    monitor = None
    for what, place, number in steps:
        folder = root / f"group{place % 2}" / f"run{place}"
        is_there = (folder / "meta.json").exists()
        if what == "add" and not folder.exists():
            trace(number).save(folder)
        elif what == "remove" and is_there:
            shutil.rmtree(folder)
        elif what == "rewrite" and is_there:
            meta = json.loads((folder / "meta.json").read_text())
            (folder / "meta.json").write_text(json.dumps(meta | {"user": f"user{number}"}))
        elif what == "rank" and is_there and not (folder / "rank1").exists():
            trace(number, run_id="other", rank=1).save(folder / "rank1")
        elif what == "move" and is_there and not (root / f"moved{place}").exists():
            folder.rename(root / f"moved{place}")
        elif what == "above" and folder.parent.exists():
            if (folder.parent / "meta.json").exists():
                for name in ("meta.json", "epochs.jsonl", "power.csv"):
                    (folder.parent / name).unlink()
            else:
                trace(number).save(folder.parent)
        elif what == "break" and is_there:
            (folder / "epochs.jsonl").write_text("{\n")
        elif what == "monitor":
            monitor = [None, "val_acc", "val_loss"][number % 3]
        else:
            found = collected(root, monitor=monitor)
            expected = collect_runs(root, monitor=monitor, index=False)
            pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(collected(root), collect_runs(root, index=False))


def test_another_question_is_answered_from_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace(1).save(tmp_path / "run")
    last = collected(tmp_path)
    best = collected(tmp_path, monitor="val_acc")
    assert (last["val_acc"][0], best["val_acc"][0]) == (0.8, 0.9)
    seen = reads(monkeypatch)
    pd.testing.assert_frame_equal(collected(tmp_path), last)
    pd.testing.assert_frame_equal(collected(tmp_path, monitor="val_acc"), best)
    assert list(collected(tmp_path, model="arch")["model"]) == ["net1"]
    assert list(collected(tmp_path, model="layers")["model"]) == ["[1, 2]"]
    assert seen == []


def test_what_has_just_changed_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a step of the disk's clock would not show."""
    monkeypatch.setattr(local, "SETTLED_AFTER_S", 100.0)
    trace(1).save(tmp_path / "run")
    collected(tmp_path)
    seen = reads(monkeypatch)
    collected(tmp_path)
    assert seen == ["run"]


def test_small_folders_are_left_as_they_are(tmp_path: Path) -> None:
    trace(1).save(tmp_path / "run")
    collect_runs(tmp_path)
    assert not (tmp_path / INDEX_FILE).exists()


def test_large_folders_get_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather_module, "_FEWEST_INDEXED", 3)
    for number in range(3):
        trace(number).save(tmp_path / f"run{number}")
    collect_runs(tmp_path)
    seen = reads(monkeypatch)
    assert len(collect_runs(tmp_path)) == 3
    assert seen == []
    assert len(collect_runs(tmp_path, index=False)) == 3
    assert len(seen) == 3


def changed_inside(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Somebody changes the content, and its checksum too."""

    def change(data: bytes) -> bytes:
        head, _, body = data.partition(b"\n")
        assert old in body
        body = body.replace(old, new, 1)
        said = json.loads(head) | {"checksum": hashlib.blake2b(body, digest_size=16).hexdigest()}
        return json.dumps(said).encode() + b"\n" + body

    return change


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda data: b"[1, 2]",
    "foreign": lambda data: b'{"name": "somebody else"}',
    "no text": lambda data: b"\xff\xfe" + data,
    "newer": lambda data: data.replace(b'"format": 1', b'"format": 2'),
    "other columns": lambda data: data.replace(b'"job_id"', b'"job_nr"'),
    "another number": lambda data: data.replace(b"101.0", b"102.0"),
    "a number that is text": changed_inside(b"101.0", b'"101"'),
    "a number out of range": changed_inside(b"101.0", b"1e999"),
    "NaN": changed_inside(b"101.0", b"NaN"),
    "a text that is a list": changed_inside(b'"ada"', b"[1]"),
    "another file": changed_inside(b'"meta.json"', b'"../../etc/passwd"'),
    "a folder above": changed_inside(b'"run0"', b'".."'),
    "no runs": changed_inside(b'"runs"', b'"walks"'),
    "a layout that is not there": changed_inside(b'"run0":[0', b'"run0":[7'),
    "deep": lambda data: b"[" * 100_000,
}


WHY = {
    "cut short": "it is damaged: its checksum differs",
    "foreign": "it was not written by energyest",
    "newer": "it was written by another version of energyest",
    "other columns": "it was written by another version of energyest",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_cannot_be_used_is_made_anew(
    damage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number in range(3):
        trace(number).save(tmp_path / f"run{number}")
    expected = collected(tmp_path)
    index = tmp_path / INDEX_FILE
    good = index.read_bytes()
    bad = DAMAGES[damage](good)
    assert bad != good
    index.write_bytes(bad)
    with caplog.at_level(logging.WARNING, logger="energyest"):
        pd.testing.assert_frame_equal(collected(tmp_path), expected)
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"the index {INDEX_FILE} of {tmp_path.name} is made anew: it" in message
    assert WHY.get(damage, "") in message
    seen = reads(monkeypatch)
    caplog.clear()
    pd.testing.assert_frame_equal(collected(tmp_path), expected)
    assert seen == []
    assert not caplog.records


def test_a_newer_version_keeps_its_own_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has another name, so that two versions that share a folder do not undo each other."""
    trace(0).save(tmp_path / "run0")
    expected = collected(tmp_path)
    newer = tmp_path / INDEX_FILE.replace("1", "2")
    newer.write_bytes((tmp_path / INDEX_FILE).read_bytes().replace(b"101.0", b"102.0"))
    content = newer.read_bytes()
    for _ in range(2):
        pd.testing.assert_frame_equal(collected(tmp_path), expected)
        trace(0).save(tmp_path / "run1")  # and another look, which writes an index
        shutil.rmtree(tmp_path / "run1")
    assert newer.read_bytes() == content
    assert not caplog.records


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_index_never_raises(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever bytes change, there is a table of the runs that are there."""
    root = tmp_path_factory.mktemp("runs")
    for number in range(2):
        trace(number).save(root / f"run{number}")
    collected(root)
    content = bytearray((root / INDEX_FILE).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (root / INDEX_FILE).write_bytes(bytes(content))
    assert sorted(collected(root)["run"]) == ["run0", "run1"]


def test_a_link_in_place_of_the_index_is_not_followed(tmp_path: Path) -> None:
    trace(1).save(tmp_path / "runs" / "run")
    other = tmp_path / "precious.json"
    other.write_text("{}")
    (tmp_path / "runs" / INDEX_FILE).symlink_to(other)
    assert len(collected(tmp_path / "runs")) == 1
    assert other.read_text() == "{}"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    trace(1).save(tmp_path / "run")
    tmp_path.chmod(0o555)
    try:
        assert len(collected(tmp_path)) == 1
        assert not (tmp_path / INDEX_FILE).exists()
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), OSError(30, "read-only"), OSError(28)]
)
def test_a_disk_that_takes_no_index(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """As above, also where root runs the tests."""

    def fail(*_: object) -> None:
        raise error

    trace(1).save(tmp_path / "run")
    monkeypatch.setattr(local, "OwnFiles", fail)
    assert len(collected(tmp_path)) == 1
    assert not caplog.records  # nobody has asked for an index
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def _collect_often(root: str, times: int, sums: Any) -> None:
    local.SETTLED_AFTER_S = -1.0
    for _ in range(times):
        sums.put(float(collect_runs(root, index=True)["energy_J"].sum()))


def test_several_processes_at_once(tmp_path: Path) -> None:
    """Each sees all runs at any time, and what is left is a whole index."""
    for number in range(4):
        trace(number).save(tmp_path / f"run{number}")
    context = multiprocessing.get_context("spawn")
    sums = context.Queue()
    others = [
        context.Process(target=_collect_often, args=(str(tmp_path), 15, sums)) for _ in range(2)
    ]
    for other in others:
        other.start()
    total, seen = 406.0, []
    for number in range(10, 40):  # meanwhile, the index has to change
        shutil.rmtree(tmp_path / "run0", ignore_errors=True)
        trace(0).save(tmp_path / f"again{number}")
        time.sleep(0.02)
        shutil.rmtree(tmp_path / f"again{number}")
        trace(0).save(tmp_path / "run0")
    seen = [sums.get(timeout=120) for _ in range(30)]
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0]
    assert set(seen) <= {total, total - 100.0}  # with or without the one that comes and goes
    assert collected(tmp_path)["energy_J"].sum() == total
    _, body = (tmp_path / INDEX_FILE).read_bytes().split(b"\n")
    assert len(json.loads(body)["runs"]) == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        INDEX_FILE,
        *(f"run{i}" for i in range(4)),
    }


def test_a_folder_that_vanishes_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        trace(number).save(tmp_path / f"run{number}")
    read = gather_module.load_summary

    def vanish(folder: Path) -> Any:
        if folder.name == "run1":
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setattr(gather_module, "load_summary", vanish)
    with pytest.warns(UserWarning, match="left out, as it vanished while it was read: run1"):
        assert list(collected(tmp_path)["run"]) == ["run0", "run2"]


def test_a_trace_that_vanishes_is_left_out_of_all_and_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def vanish(folder: Path, *rest: Any, **options: Any) -> Any:
        if folder.name == "run1":
            shutil.rmtree(folder)
        return read(folder, *rest, **options)

    read = loading.read_ranks
    monkeypatch.setattr(loading, "read_ranks", vanish)
    trace(0).save(tmp_path / "run0")
    trace(1).save(tmp_path / "run1")
    with pytest.warns(UserWarning, match="left out, as it vanished while it was read: run1"):
        assert list(load_traces(tmp_path)) == ["run0"]
    trace(1).save(tmp_path / "run1")
    assert main(["runs", str(tmp_path)]) == 0
    shown = capsys.readouterr()
    assert "left out, as it vanished while it was read: run1" in shown.err
    assert "run0" in shown.out
    assert "run1" not in shown.out


def test_what_cannot_be_read_is_named_each_time(tmp_path: Path) -> None:
    trace(0).save(tmp_path / "good")
    for name in ("bad", "bad/deeper"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "meta.json").write_text("{")
    trace(1).save(tmp_path / "bad" / "deeper" / "run")
    for _ in range(3):
        with pytest.warns(UserWarning, match="cannot be read: bad: .*meta.json is damaged"):
            assert list(collected(tmp_path)["run"]) == ["good", "bad/deeper/run"]


def test_readings_are_read_only_where_they_are_needed(tmp_path: Path) -> None:
    readings = {"time_s": np.array([0.0, 30.0]), "device": np.array(["gpu:0"] * 2, dtype=object)}
    readings |= {"utilization": np.array([0.2, 0.4])}
    for name, known in (("known", {"utilization": 0.5}), ("unknown", {})):
        device = {"device": "gpu:0", "kind": "gpu", **known}
        made = trace(len(name), devices=[device])
        EnergyTrace(made.epoch_columns, readings, made.meta).save(tmp_path / name)
    runs = collected(tmp_path).set_index("run")
    assert runs["utilization"].to_dict() == pytest.approx({"known": 0.5, "unknown": 0.3})
    for name in ("known", "unknown"):
        rewrite(tmp_path / name / "power.csv", "0.4", "0.6")
    runs = collected(tmp_path).set_index("run")
    assert runs["utilization"].to_dict() == pytest.approx({"known": 0.5, "unknown": 0.4})


# ---------------------------------------------------------------------- elsewhere


@pytest.fixture
def memory() -> Iterator[Any]:
    """A file system of fsspec in memory, emptied afterwards."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


def upload(folder: Path, files: Any, address: str = "/bucket/runs") -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            files.pipe_file(f"{address}/{path.relative_to(folder)}", path.read_bytes())


def test_runs_at_an_address(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        run = trace(number, rank=0, world_size=2).save(tmp_path / "some" / f"run{number}")
        trace(number, rank=1, world_size=2).save(run / "rank1")
    trace(5).save(tmp_path / "run5")
    upload(tmp_path, memory)
    expected = collect_runs(tmp_path, monitor="val_acc")
    found = collected("memory://bucket/runs", monitor="val_acc")
    pd.testing.assert_frame_equal(found, expected)
    assert memory.exists(f"/bucket/runs/{INDEX_FILE}")
    seen: list[str] = []
    fetch = remote.RemotePlace._fetch
    monkeypatch.setattr(
        remote.RemotePlace,
        "_fetch",
        lambda place, one, files: seen.append(one.name) or fetch(place, one, files),
    )
    pd.testing.assert_frame_equal(collected("memory://bucket/runs", monitor="val_acc"), expected)
    assert seen == []
    rewrite(tmp_path / "some" / "run1" / "rank1" / "meta.json", "101.0", "121.0")
    trace(7).save(tmp_path / "run7")
    upload(tmp_path / "run7", memory, "/bucket/runs/run7")
    upload(tmp_path / "some/run1", memory, "/bucket/runs/some/run1")
    memory.rm("/bucket/runs/run5", recursive=True)
    shutil.rmtree(tmp_path / "run5")
    again = collected("memory://bucket/runs", monitor="val_acc")
    assert set(seen) == {"run7", "some/run1"}
    pd.testing.assert_frame_equal(again, collect_runs(tmp_path, monitor="val_acc"))
    assert list(load_traces("memory://bucket/runs")) == list(load_traces(tmp_path))


def test_readings_elsewhere_are_fetched_where_they_are_needed(tmp_path: Path, memory: Any) -> None:
    readings = {"time_s": np.array([0.0, 30.0]), "device": np.array(["gpu:0"] * 2, dtype=object)}
    readings |= {"utilization": np.array([0.2, 0.4])}
    made = trace(1, devices=[{"device": "gpu:0", "kind": "gpu"}])
    EnergyTrace(made.epoch_columns, readings, made.meta).save(tmp_path / "run")
    upload(tmp_path, memory)
    assert collected("memory://bucket/runs")["utilization"][0] == pytest.approx(0.3)


def test_addresses_that_lead_nowhere(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunsError, match="there is no folder memory://bucket/nothing"):
        collect_runs("memory://bucket/nothing")
    with pytest.raises(RunsError, match=r"nonsense://x cannot be opened: .*nonsense"):
        collect_runs("nonsense://x")
    with pytest.raises(MissingDependencyError, match="pip install fsspec, and s3fs"):
        collect_runs("s3://bucket/runs")
    monkeypatch.setitem(__import__("sys").modules, "fsspec.core", None)
    with pytest.raises(MissingDependencyError, match=r"memory://bucket needs a package"):
        collect_runs("memory://bucket")


def test_a_damaged_index_elsewhere(tmp_path: Path, memory: Any, caplog: Any) -> None:
    trace(1).save(tmp_path / "run")
    upload(tmp_path, memory)
    memory.pipe_file(f"/bucket/runs/{INDEX_FILE}", b"{")
    assert len(collected("memory://bucket/runs")) == 1
    assert "is made anew: it is damaged" in caplog.text
    caplog.clear()
    assert len(collected("memory://bucket/runs")) == 1
    assert not caplog.records


def test_an_address_of_this_machine_is_a_folder(tmp_path: Path) -> None:
    trace(1).save(tmp_path / "run")
    assert list(collect_runs(f"file://{tmp_path}")["run"]) == ["run"]


# ---------------------------------------------------------------------- parts and columns


def test_whose_run_it_is(tmp_path: Path) -> None:
    two = [{"device": f"gpu:{i}", "kind": "gpu", "name": "A40", "utilization": 0.5} for i in (0, 1)]
    trace(1, devices=two).save(tmp_path / "run")
    (row,) = collect_runs(tmp_path).to_dict("records")
    columns = ("user", "host", "project", "scheduler", "job_id", "gpu", "gpu_name", "gpus")
    expected = ["ada", "node1", "vision", "slurm", "17", "2 x A40", "A40", 2]
    assert [row[name] for name in columns] == expected
    assert (row["run_id"], row["earlier_runs"], row["resumed_as"]) == ("id1", None, None)
    assert (row["part_energy_J"], row["lost_J"]) == (101, 0)


class Parts:
    """Runs in parts, and joules that were really used."""

    def __init__(self) -> None:
        self.traces: dict[str, EnergyTrace] = {}
        self.used_J = 0.0

    def add(self, name: str, after: str | None, at_J: float, more_J: float, status: str) -> None:
        """A part that goes on from the checkpoint of another at `at_J`."""
        chain: list[dict[str, Any]] = []
        if after is not None:
            before = self.traces[after].meta
            chain = [*before.get("earlier_parts", ()), {"run_id": after, "total_J": at_J}]
        self.used_J += more_J
        total_J = (at_J if after is not None else 0.0) + more_J
        started = f"2026-01-01T00:00:{len(self.traces):02}+00:00"
        meta = {"run_id": name, "status": status, "total_J": total_J, "start_time": started}
        self.traces[name] = EnergyTrace.from_epochs(
            [total_J / 2] * 2, meta={**meta, "earlier_parts": chain}
        )


def test_the_lost_part_of_a_resumed_run_has_a_name() -> None:
    runs = Parts()
    runs.add("first", None, 0, 500, "SIGTERM")
    runs.add("second", "first", 400, 300, "SIGTERM")  # 100 J are lost
    runs.add("third", "second", 640, 200, "finished")  # 60 J are lost
    runs.add("other", None, 0, 50, "finished")
    table = collect_runs(runs.traces).set_index("run")
    assert table["energy_J"].to_dict() == {"third": 840, "other": 50}
    assert table["lost_J"].to_dict() == {"third": 160, "other": 0}
    assert table.loc["third", "earlier_runs"] == "first second"
    parts = collect_runs(runs.traces, parts=True).set_index("run")
    assert parts["lost_J"].to_dict() == {"first": 100, "second": 60, "third": 0, "other": 0}
    assert parts["part_energy_J"].to_dict() == {
        **{"first": 500, "second": 300, "third": 200, "other": 50}
    }
    following = {"first": "second", "second": "third"}
    assert parts["resumed_as"].dropna().to_dict() == following


def test_a_part_that_is_not_there_may_have_lost_some() -> None:
    runs = Parts()
    runs.add("first", None, 0, 500, "SIGTERM")
    runs.add("second", "first", 400, 300, "finished")
    del runs.traces["first"]
    (row,) = collect_runs(runs.traces).to_dict("records")
    assert (row["energy_J"], row["part_energy_J"]) == (700, 300)
    assert math.isnan(row["lost_J"])


@given(
    chains=st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.floats(1, 1e6)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_joule_counts_twice_and_none_is_missed(chains: list[Any]) -> None:
    runs = Parts()
    for number, chain in enumerate(chains):
        after = None
        for place, (share, more_J) in enumerate(chain):
            name = f"{number}.{place}"
            before = runs.traces[after].meta["total_J"] if after else 0.0
            carried = runs.traces[after].meta["earlier_parts"][-1:] if after else []
            least = carried[0]["total_J"] if carried else 0.0
            at_J = least + share * (before - least)
            runs.add(name, after, at_J, more_J, "finished" if place % 2 else "SIGTERM")
            after = name
    whole = collect_runs(runs.traces, unfinished=True)
    assert len(whole) == len(chains)
    assert (whole["energy_J"] + whole["lost_J"]).sum() == pytest.approx(runs.used_J)
    parts = collect_runs(runs.traces, unfinished=True, parts=True)
    assert len(parts) == sum(map(len, chains))
    assert parts["part_energy_J"].sum() == pytest.approx(runs.used_J)
    last = parts["resumed_as"].isna()
    total_J = parts.loc[last, "energy_J"].sum() + parts["lost_J"].sum()
    assert total_J == pytest.approx(runs.used_J)


def test_two_runs_from_one_checkpoint() -> None:
    """Both contain what was before it: only the parts can be added up."""
    runs = Parts()
    runs.add("first", None, 0, 500, "SIGTERM")
    runs.add("left", "first", 400, 300, "finished")
    runs.add("right", "first", 450, 100, "finished")
    table = collect_runs(runs.traces).set_index("run")
    assert table["lost_J"].to_dict() == {"left": 0, "right": 50}
    parts = collect_runs(runs.traces, parts=True)
    assert parts["part_energy_J"].sum() == runs.used_J == 900


def test_a_training_that_was_really_resumed(tmp_path: Path) -> None:
    with track(tmp_path / "energy", sensors=[Constant(100.0)], quiet=True) as run:
        for epoch in run.epochs(4):
            time.sleep(0.01)
            if epoch == 1:
                state = run.state_dict()
            if epoch == 2:
                break
    with track(tmp_path / "energy", sensors=[Constant(100.0)], quiet=True) as again:
        again.load_state_dict(state)
        for _ in again.epochs(4):
            time.sleep(0.01)
    first, second = (load_trace(tmp_path / name) for name in ("energy", "energy-2"))
    (row,) = collect_runs(tmp_path).to_dict("records")
    kept_J = second.meta["earlier_parts"][0]["total_J"]
    assert row["run"] == "energy-2"
    assert row["energy_J"] == second.total_J
    assert row["lost_J"] == pytest.approx(first.total_J - kept_J)
    assert row["lost_J"] > 0.005 * 100
    parts = collect_runs(tmp_path, parts=True, unfinished=True)
    used_J = first.total_J + second.total_J - kept_J
    assert parts["part_energy_J"].sum() == pytest.approx(used_J)


# ---------------------------------------------------------------------- duplicates


def test_duplicates_and_what_they_cost() -> None:
    same = {"hparams": {"lr": 0.1, "seed": 1}}
    traces = {
        "a": trace(3, **same, user="ada"),
        "b": trace(1, **same, user="eve"),
        "c": trace(2, hparams={"lr": 0.1, "seed": 2}),
        "d": trace(4, hparams={"lr": 0.2, "seed": 1}),
    }
    runs = collect_runs(traces)
    (row,) = duplicated_runs(runs, hparams=["lr", "seed"]).to_dict("records")
    assert (row["runs"], row["first_run"], row["other_runs"]) == (2, "b", "a")
    assert (row["energy_J"], row["repeated_J"], row["users"]) == (204, 103, "ada eve")
    assert duplicated_runs(runs, hparams=["lr"])["runs"].tolist() == [3]
    assert duplicated_runs(runs, by="lr")["runs"].tolist() == [3]
    assert duplicated_runs(runs)["runs"].tolist() == [4]
    assert not len(duplicated_runs(runs, by="run"))
    with pytest.raises(RunsError, match="lacks 'batch'"):
        duplicated_runs(runs, hparams=["batch"])


def test_a_duplicate_of_unknown_cost_is_not_free() -> None:
    runs = collect_runs({"a": trace(1), "b": trace(2)})
    runs.loc[1, "energy_J"] = np.nan
    (row,) = duplicated_runs(runs).to_dict("records")
    assert math.isnan(row["energy_J"])
    assert math.isnan(row["repeated_J"])
