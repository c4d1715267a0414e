"""Nothing that the package did not write is replaced, and no draft follows a link."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace, load_trace, track
from energyest.cli import main
from energyest.errors import ConfigurationError, TraceError
from energyest.estimators import PreModel
from energyest.measure.writer import TraceWriter
from energyest.records import own_files, storage
from energyest.records.own_files import OwnFiles
from energyest.records.safe_json import write_json
from simulation.stepped import Clock, without_threads
from tests.support.sensors import Constant
from tests.support.written import META, contents_of, line

NAMES = ("meta.json", "epochs.jsonl", "power.csv", "latest.json")
TRACE = EnergyTrace.from_epochs([1.0, 2.0])


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: the content of its files and the targets of its links."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def writer_of(folder: Path, rows: int, notes: list[str] | None = None) -> TraceWriter:
    """A writer without a thread, for a run with a number of epochs."""

    def contents() -> EnergyTrace:
        writer.forget()  # as the recorder does: what waits is in the contents too
        return contents_of(rows)

    writer = TraceWriter(folder, META, contents, [].append if notes is None else notes.append)
    return writer


def tracked(folder: Path) -> Path | None:
    with track(folder, sensors=[Constant(1)]) as run:
        run.start_epoch()
        run.end_epoch()
    return run.folder


# ---------------------------------------------------------------------- a folder that holds others


def _file(path: Path) -> None:
    path.write_text("mine")


def _link(path: Path) -> None:
    (path.parent.parent / "target").write_text("mine")
    path.symlink_to(path.parent.parent / "target")


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent.parent / "nothing")


@pytest.mark.parametrize("make", [_file, _link, _dangling, Path.mkdir])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_users_own(
    tmp_path: Path, name: str, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "exp").mkdir()
    make(tmp_path / "exp" / name)
    before = tree(tmp_path)
    assert tracked(tmp_path / "exp") == tmp_path / "exp-2"
    assert len(load_trace(tmp_path / "exp-2")) == 1
    assert ("which is not part of a trace" in caplog.text) == (name != "epochs.jsonl")
    shutil.rmtree(tmp_path / "exp-2")
    with pytest.raises(TraceError, match=f"already holds {name}, which is not replaced"):
        TRACE.save(tmp_path / "exp")
    assert tree(tmp_path) == before


def test_other_files_stay_beside_a_trace(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    _file(tmp_path / "exp" / "notes.txt")
    assert tracked(tmp_path / "exp") == tmp_path / "exp"
    assert (tmp_path / "exp/notes.txt").read_text() == "mine"
    assert {path.name for path in (tmp_path / "exp").iterdir()} == {*NAMES[:3], "notes.txt"}


@pytest.mark.parametrize("suffix", [".new", ".tmp", "~"])
def test_drafts_follow_no_link(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "exp").mkdir()
    for name in NAMES:
        (tmp_path / "exp" / f"{name}{suffix}").symlink_to(tmp_path / "victim")
    assert tracked(tmp_path / "exp") == tmp_path / "exp"
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_draft_whose_name_was_guessed_follows_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files.secrets, "token_hex", lambda _: "guessed")
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".it.guessed").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        OwnFiles(tmp_path).replace("it", ["mine"])
    assert (tmp_path / "victim").read_text() == "precious"
    assert os.path.lexists(tmp_path / ".it.guessed")


def test_a_broken_link_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "exp").symlink_to(tmp_path / "nothing")
    assert tracked(tmp_path / "exp") == tmp_path / "exp-2"
    assert not (tmp_path / "nothing").exists()


def test_a_folder_that_is_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "exp").symlink_to(tmp_path / "scratch")
    assert tracked(tmp_path / "exp") == tmp_path / "exp"
    assert len(load_trace(tmp_path / "scratch")) == 1


def test_a_trace_that_cannot_be_saved_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = own_files.write

    def full(file: Any, text: str) -> None:
        if text.startswith("{\n"):  # the meta, which comes last
            raise OSError(28, "No space left on device")
        write(file, text)

    monkeypatch.setattr(own_files, "write", full)
    with pytest.raises(TraceError, match="No space left"):
        TRACE.save(tmp_path / "exp")
    assert list((tmp_path / "exp").iterdir()) == []
    monkeypatch.undo()
    assert len(load_trace(TRACE.save(tmp_path / "exp"))) == 2


@pytest.mark.parametrize("links", [True, False])
def test_of_many_who_make_one_file_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
        (tmp_path / "it").write_text("mine")
        with pytest.raises(FileExistsError):
            OwnFiles(tmp_path).replace("it", ["theirs"])
        (tmp_path / "it").unlink()
        OwnFiles(tmp_path).replace("it", ["ours"])
    else:
        made: list[str] = []

        def make(name: str) -> None:
            try:
                OwnFiles(tmp_path).replace("it", [name])
                made.append(name)
            except FileExistsError:
                pass

        threads = [threading.Thread(target=make, args=(str(i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [(tmp_path / "it").read_text()] == made
    assert len(list(tmp_path.iterdir())) == 1


def _no_links(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_files_are_made_as_any_other(tmp_path: Path) -> None:
    OwnFiles(tmp_path).replace("it", ["ours"])
    (tmp_path / "other").write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("it", "other")}
    assert len(modes) == 1


def test_a_working_directory_that_was_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    with pytest.raises(ConfigurationError, match="the working directory is gone"):
        tracked(Path("energy"))
    assert tracked(tmp_path / "energy") == tmp_path / "energy"


# ---------------------------------------------------------------------- exchanged in mid-run


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, with files by the names of a trace's."""
    path = tmp_path / "victim"
    path.mkdir()
    for name in ("meta.json", "power.csv"):
        (path / name).write_text("precious")
    return path


def _by_a_link(energy: Path, victim: Path) -> None:
    energy.symlink_to(victim)


def _by_a_folder(energy: Path, victim: Path) -> None:
    victim.rename(energy)


def _by_an_empty_folder(energy: Path, victim: Path) -> None:
    energy.mkdir()


def _by_a_file(energy: Path, victim: Path) -> None:
    energy.write_text("precious")


EXCHANGES = (_by_a_link, _by_a_folder, _by_an_empty_folder, _by_a_file)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_folder_that_is_exchanged_is_not_written_through(
    tmp_path: Path,
    victim: Path,
    exchange: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes: list[str] = []
    energy = tmp_path / "energy"
    writer = writer_of(energy, 1, notes)
    writer.put(rows=[line(0)])
    writer.write_waiting()
    energy.rename(tmp_path / "away")
    exchange(energy, victim)
    before = tree(tmp_path)
    for last in (False, False, True):
        writer.put(rows=[line(1)], meta=META, latest=META)
        writer.write_waiting(last=last)
    assert tree(tmp_path) == before
    assert writer.folder is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "taken the place" in caplog.text
    assert notes == [
        f"something else has taken the place of {energy} during the run: "
        "the trace was kept in memory"
    ]


def exchange(folder: Path, victim: Path) -> None:
    """Replace a folder by a link; its writer may have recreated it in between."""
    for attempt in range(20):
        folder.rename(folder.with_name(f"away{attempt}"))
        try:
            folder.symlink_to(victim)
        except FileExistsError:
            continue
        return
    raise AssertionError(f"{folder} comes back each time")


def test_a_run_goes_on_in_memory(tmp_path: Path, victim: Path) -> None:
    before, clock = tree(victim), Clock()
    # Without its thread, so that the writer does not come between the two steps of the exchange.
    with without_threads(clock), track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        for epoch in run.epochs(3):
            clock.sleep(1.0)
            if epoch == 1:
                run._session._recorder._writer.write_waiting()
                exchange(tmp_path / "energy", victim)
    assert tree(victim) == before
    assert run.folder is None
    assert len(run.trace) == 3
    assert "taken the place" in run.trace.meta["notes"][-1]
    assert len(load_trace(run.trace.save(tmp_path / "saved"))) == 3


def test_a_parent_that_is_exchanged(tmp_path: Path, victim: Path) -> None:
    before = tree(victim)
    energy = tmp_path / "logs" / "energy"
    writer = writer_of(energy, 1)
    (tmp_path / "logs").rename(tmp_path / "away")
    (tmp_path / "logs").symlink_to(victim)
    writer.put(rows=[line(0)], latest=META)
    writer.write_waiting()
    assert writer.folder is None
    assert tree(victim) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_exchanged_in_mid_run_stays(tmp_path: Path, name: str) -> None:
    energy = tmp_path / "energy"
    writer = writer_of(energy, 2)
    writer.put(rows=[line(0)], latest=META)
    writer.write_waiting()
    (energy / name).unlink()
    (energy / name).write_text("mine")
    for last in (False, True):
        writer.put(meta=META, latest=META)
        writer.write_waiting(last=last)
    assert (energy / name).read_text() == "mine"
    assert writer.folder == tmp_path / "energy-2"
    assert len(load_trace(tmp_path / "energy-2")) == 2


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES])
def test_files_that_vanish_are_written_again(tmp_path: Path, names: tuple[str, ...]) -> None:
    energy = tmp_path / "energy"
    writer = writer_of(energy, 2)
    writer.put(rows=[line(0), line(1)], latest=META)
    writer.write_waiting()
    for name in names:
        (energy / name).unlink()
    writer.put(meta=META)
    writer.write_waiting(last=True)
    assert writer.folder == energy
    assert len(load_trace(energy)) == 2
    assert {path.name for path in energy.iterdir()} == set(NAMES[:3])


def test_a_file_system_that_numbers_files_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file there is never the same as it was: that a trace is one's own has to be believed."""
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    writer = writer_of(tmp_path / "energy", 2)
    writer.put(rows=[line(0), line(1)], latest=META)
    writer.write_waiting()
    writer.put(meta=META, latest=META)
    writer.write_waiting(last=True)
    assert writer.folder == tmp_path / "energy"
    assert len(load_trace(tmp_path / "energy")) == 2


# ---------------------------------------------------------------------- models and tables


@pytest.mark.parametrize("held", ["mine", '{"kind": "a model of mine"}', "[]", ""])
def test_a_model_replaces_models_alone(tmp_path: Path, held: str) -> None:
    model = PreModel.load(Path(storage.__file__).parents[1] / "data" / "pre_model.json")
    path = tmp_path / "model.json"
    path.write_text(held)
    with pytest.raises(OSError, match="was not written by energyest"):
        model.save(path)
    assert path.read_text() == held
    path.unlink()
    for _ in range(2):
        model.save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["model.json"]
    PreModel.load(path)


def test_a_model_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "it").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "it")
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "link", {"kind": "energyest x"})
    (tmp_path / "it").unlink()
    write_json(tmp_path / "link", {"kind": "energyest x"})
    assert json.loads((tmp_path / "it").read_text()) == {"kind": "energyest x"}
    for odd in (tmp_path, tmp_path / "circle"):
        (tmp_path / "circle").unlink(missing_ok=True)
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        with pytest.raises(OSError, match=r"not replaced|Too many"):
            write_json(odd, {"kind": "energyest x"})


def _runs(folder: Path) -> Path:
    meta = {"hparams": {"=opt": "=1+1", "minus": "-x", "fine": "a,b"}, "status": "finished"}
    EnergyTrace.from_epochs([7.0] * 4, meta=meta).save(folder / "one")
    return folder


def test_the_command_line_replaces_tables_of_its_own_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, table = str(_runs(tmp_path / "runs")), tmp_path / "table.csv"
    for held in ("x,y\n1,2\n", "run\n", "run,model,gpu,mine\n"):
        table.write_text(held)
        assert main(["runs", runs, "--csv", str(table)]) == 1
        assert table.read_text() == held
        assert "was not written by energyest" in capsys.readouterr().err
    table.write_text("")  # as of mktemp
    assert main(["runs", runs, "--csv", str(table)]) == 0
    first = table.read_text()
    assert main(["runs", runs, "--csv", str(table)]) == 0
    assert table.read_text() == first
    assert "'=opt" in first
    assert "'=1+1" in first
    assert "'-x" in first
    assert '"a,b"' in first


def test_a_table_goes_into_a_pipe(tmp_path: Path) -> None:
    runs = str(_runs(tmp_path / "runs"))
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert main(["runs", runs, "--csv", str(tmp_path / "pipe")]) == 0
    reader.join()
    assert read[0].startswith("run,model,gpu")
    assert (tmp_path / "pipe").is_fifo()
