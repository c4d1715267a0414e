"""What commands show on terminals, in pipes, and as JSON."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace
from energyest.cli import main
from energyest.cli.output import as_plain, print_json, print_table
from tests.support.terminals import Terminal, on_terminal

GPUS = [{"device": f"gpu:{i}", "kind": "gpu", "name": "H100 [red]80GB[/red]"} for i in range(2)]


def trace_of(epochs: int, meta: dict[str, Any] | None = None, **columns: Any) -> EnergyTrace:
    energy_J = [123456.0] * epochs
    known = {"status": "finished", "devices": GPUS, **(meta or {})}
    names = ("gpu_energy_J", "cpu_energy_J", "steps", "samples", "val_acc")
    more = {name: [0.25] * epochs for name in names} | columns
    more |= {"start_s": [60.0 * i for i in range(epochs)]}
    more |= {"end_s": [60.0 * i for i in range(1, epochs + 1)]}
    return EnergyTrace.from_epochs(energy_J, [60.0] * epochs, meta=known, **more)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(trace_of(3, {"planned_epochs": 30}).save(tmp_path / "trace"))


# ---------------------------------------------------------------------- terminals


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("epochs", [1, 3, 200])
def test_a_table_fits_its_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int, epochs: int
) -> None:
    folder = str(trace_of(epochs).save(tmp_path / "trace"))
    lines = on_terminal(monkeypatch, "show", folder, columns=columns).lines
    assert max(map(len, lines)) <= columns
    head = next(line for line in lines if line.startswith("epoch "))
    assert "energy_J" in head
    assert ("start_s" in head) == (columns == 200)
    assert any("123456" in line for line in lines)  # numbers stay whole


def test_a_terminal_says_which_columns_it_lacks_room_for(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "too wide for this terminal: end_s" in on_terminal(monkeypatch, "show", folder).text
    main(["show", folder])
    out = capsys.readouterr().out
    assert "end_s" in out
    assert "too wide" not in out


def test_of_many_epochs_a_terminal_shows_the_first_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trace_of(200).save(tmp_path / "trace"))
    lines = on_terminal(monkeypatch, "show", folder).lines
    assert len(lines) < 40
    assert any(line.startswith("  199 ") for line in lines)
    assert "200 rows; --all shows each of them" in lines
    assert len(on_terminal(monkeypatch, "show", folder, "--all").lines) > 200
    main(["show", folder])
    assert len(capsys.readouterr().out.splitlines()) > 200


def test_sentences_break_between_words(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = on_terminal(monkeypatch, "project", folder, columns=60).lines
    assert max(map(len, lines)) <= 60
    assert "for 30 epochs" in " ".join(line.strip() for line in lines)


def test_no_color(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[1m" in on_terminal(monkeypatch, "show", folder).getvalue()
    shown = Terminal()
    with monkeypatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", shown)
        main(["show", folder])
    assert not {"\x1b[3", "\x1b[9"} & {shown.getvalue()[i : i + 3] for i in range(len(shown.text))}


def test_markup_and_emoji_are_text(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", folder])
    assert "2 x H100 [red]80GB[/red]" in capsys.readouterr().out
    print_table({"[bold]name": ["[red]a", ":smile:", "\x1b[31mb"], "n": [1, 2.5, math.nan]})
    assert capsys.readouterr().out.splitlines() == [
        "[bold]name    n",
        "[red]a        1",
        ":smile:     2.5",
        "?[31mb        -",
    ]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_rich_writes_what_the_encoding_has(
    monkeypatch: pytest.MonkeyPatch, encoding: str, tmp_path: Path
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding, write_through=True)
    folder = str(trace_of(4, {"status": "日本"}, **{"é精度": [1.0] * 4}).save(tmp_path / "日本"))
    for arguments in (
        ["show", folder],
        ["show", folder, "--json"],
        ["compare", folder, folder],
        ["export", folder],
        ["watch", folder],
        ["日本"],
        ["doctor"],
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            patch.setattr(sys, "stderr", stream)
            main(arguments)
    text = written.getvalue().decode(encoding)
    assert "Traceback" not in text
    assert ("日本" in text) == (encoding == "utf-8")


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """As `energyest show FOLDER | head`."""
    long = str(trace_of(3000).save(tmp_path / "long"))
    # Without a buffer, the system may take a part of a text and say nothing.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = subprocess.Popen(
        [sys.executable, "-m", "energyest", "show", long],
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    program.stdout.read(10)
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait() == 1


@pytest.mark.parametrize(
    ("redirection", "said"),
    [("> /dev/full", "stdout cannot be written: No space left on device"), (">&-", "")],
)
def test_output_that_cannot_be_written(redirection: str, said: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m energyest devices {redirection}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", command], env=buffered, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == bool(said)
    assert done.stderr == (f"energyest: {said}\n" if said else "")


# ---------------------------------------------------------------------- JSON


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize(
    "arguments",
    [
        ["devices"],
        ["doctor"],
        ["show", "TRACE"],
        ["project", "TRACE"],
        ["project", "TRACE", "-n", "9"],
        ["compare", "TRACE"],
        ["compare", "TRACE", "TRACE"],
        ["runs", "FOLDER"],
        ["export", "TRACE"],
        ["export", "FOLDER", "--table", "runs"],
        ["watch", "TRACE"],
        ["pre", "TRACE"],
        ["show", "no such folder"],
    ],
    ids=" ".join,
)
def test_json_is_all_there_is_on_stdout(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    places = {"TRACE": folder, "FOLDER": str(tmp_path)}
    status = main([*(places.get(one, one) for one in arguments), "--json"])
    out = capsys.readouterr().out
    if out:
        assert isinstance(json.loads(out, parse_constant=refuse), dict)
    else:
        assert status == 1
        assert arguments[0] in ("pre", "show")


def test_show_as_json(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", folder, "--json", "--intensity", "500", "--pue", "2"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["energy_J"] == pytest.approx(3 * 123456)
    assert shown["energy_kWh"] == pytest.approx(3 * 123456 / 3.6e6)
    assert shown["co2e_kg"] == pytest.approx(3 * 123456 / 3.6e6 * 0.5 * 2)
    assert shown["duration_s"] == 180
    assert (shown["rows"], shown["unit"], shown["status"]) == (3, "epoch", "finished")
    assert [row["epoch"] for row in shown["epochs"]] == [0, 1, 2]
    assert shown["epochs"][0]["ram_energy_J"] is None


def test_project_as_json(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["project", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["is_stable"]
    assert found["estimate"]["epochs"] == 30
    assert found["estimate"]["energy_J"] == pytest.approx(30 * 123456, rel=1e-6)
    assert {row["method"] for row in found["methods"]} >= {"STEP", "first epoch"}
    short = str(EnergyTrace.from_epochs([100.0] * 2).save(tmp_path / "short"))
    assert main(["project", short, "-n", "10", "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert not found["is_stable"]
    assert "not stable yet" in found["reason"]
    assert found["estimate"]["energy_J"] == pytest.approx(1000)
    assert "not stable yet" in captured.err
    empty = str(EnergyTrace.from_epochs([]).save(tmp_path / "empty"))
    assert main(["project", empty, "-n", "10", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["estimate"] is None


def test_what_json_has_no_word_for(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    strange = {
        "a": [math.nan, np.float64("inf"), np.int64(3)],
        1: "\x7f\x1b精",
        "b": np.bool_(True),
    }
    assert as_plain(strange) == {"a": [None, None, 3], "1": "\x7f\x1b精", "b": True}
    print_json(strange)
    out = capsys.readouterr().out
    assert out.isascii()
    assert all(c.isprintable() or c == "\n" for c in out)
    assert json.loads(out)["1"] == "\x7f\x1b精"


# ---------------------------------------------------------------------- notes


def test_what_the_library_warns_of_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a line of source nor what a name holds shows."""
    for i, precision in enumerate(("fp32", "fp32", "bf16", "bf16")):
        meta = {"status": "finished", "model": {"name": f"a{i % 2}\x1b[31m\n"}}
        meta |= {"precision": precision, "run_id": str(i), "devices": GPUS[:1]}
        EnergyTrace.from_epochs([5.0], [1.0], meta=meta).save(tmp_path / str(i))
    main(["compare", str(tmp_path), "--by", "gpu"])
    main(["compare", str(tmp_path), "--by", "model"])
    captured = capsys.readouterr()
    assert "note: runs of a" in captured.err
    assert "UserWarning" not in captured.err
    assert all(c.isprintable() or c == "\n" for c in captured.err + captured.out)


def test_csv_for_a_terminal_and_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trace_of(1, **{"a\x1b[31mb": [1.0]}).save(tmp_path / "trace"))
    assert "a?[31mb" in on_terminal(monkeypatch, "export", folder).getvalue()
    main(["export", folder])
    assert "a\x1b[31mb" in capsys.readouterr().out
