"""`energyest export` and `energyest plot`: files for other programs, and pictures."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

from energyest import EnergyTrace, load_trace
from energyest.cli import main

FORMULA = '=HYPERLINK("http://x","y")'


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Three epochs, one of which was not measured, and a metric with the name of a formula."""
    meta = {"status": "finished", "hparams": {"note": FORMULA, "lr": -0.5, "mixed": "text"}}
    energy_J = [1234.5678901234567, math.nan, 3.0]
    trace = EnergyTrace.from_epochs(
        energy_J, [1.0, 2.0, 3.0], meta=meta, **{"=1+1": [1.0, 2.0, 3.0], "loss": [-1.0] * 3}
    )
    return str(trace.save(tmp_path / "runs" / "one"))


def read_csv(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), float_precision="round_trip")  # as pandas 3.1 does anyway


def test_csv_and_back(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", folder]) == 0
    table = read_csv(capsys.readouterr().out)
    known = load_trace(folder).epochs
    assert list(table.columns) == [str(n).replace("=1+1", "'=1+1") for n in known]
    assert table["energy_J"].tolist()[::2] == known["energy_J"].tolist()[::2]  # to the last digit
    assert table["energy_J"].isna().tolist() == [False, True, False]
    assert table["loss"].tolist() == [-1.0] * 3  # numbers are no formulas


def test_json_and_back(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", folder, "--to", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "finished"
    assert found["energy_J"] is None  # of one epoch it is not known
    known = load_trace(folder).epochs
    table = pd.DataFrame(found["epochs"]).astype(float)
    pd.testing.assert_frame_equal(table, known.astype(float))


def test_runs_as_csv_hold_what_export_writes(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, exported = tmp_path / "runs.csv", tmp_path / "exported.csv"
    above = str(Path(folder).parent)
    more = ["--intensity", "100"]
    assert main(["runs", above, "--csv", str(runs), *more]) == 0
    said = capsys.readouterr()
    assert said.err.endswith(f"written: {runs} (1 rows of runs)\n")
    assert "written" not in said.out
    assert main(["export", above, "--table", "runs", "-o", str(exported), *more]) == 0
    assert runs.read_bytes() == exported.read_bytes()
    assert {"energy_kWh", "co2e_kg"} <= set(read_csv(runs.read_text()))
    assert main(["runs", above, "--csv", str(runs)]) == 0  # is still a table of runs


def test_parquet_and_back(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "epochs.parquet"
    assert main(["export", folder, "--output", str(file)]) == 0
    assert "3 rows of epochs" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_parquet(file), load_trace(folder).epochs)
    runs = tmp_path / "runs.parquet"
    assert main(["export", folder, "--table", "runs", "-o", str(runs)]) == 0
    assert pd.read_parquet(runs)["note"].tolist() == [FORMULA]
    assert main(["export", folder, "--to", "parquet"]) == 2
    assert "--output FILE" in capsys.readouterr().err


def test_parquet_of_values_of_several_types(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", "text"), ("c", None)):
        hparams = {} if value is None else {"mixed": value}
        meta = {"status": "finished", "hparams": hparams}
        EnergyTrace.from_epochs([1.0], meta=meta).save(tmp_path / "runs" / name)
    file = tmp_path / "runs.parquet"
    assert main(["export", str(tmp_path / "runs"), "-o", str(file)]) == 0
    mixed = pd.read_parquet(file).set_index("run")["mixed"]
    assert mixed[["a", "b"]].tolist() == ["1", "text"]
    assert pd.isna(mixed["c"])


def test_parquet_without_pyarrow(
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    assert main(["export", folder, "-o", str(tmp_path / "x.parquet")]) == 1
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()


def test_runs(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    EnergyTrace.from_epochs([3.6e6], meta={"status": "finished"}).save(Path(folder).parent / "two")
    above = str(Path(folder).parent)
    assert main(["export", above, "--intensity", "100"]) == 0
    table = read_csv(capsys.readouterr().out).set_index("run")
    assert table.loc["two", "energy_kWh"] == 1
    assert table.loc["two", "co2e_kg"] == pytest.approx(0.1)
    assert table.loc["one", "note"] == f"'{FORMULA}"
    assert table.loc["one", "lr"] == -0.5
    assert main(["export", above, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert {row["run"]: row["energy_J"] for row in rows} == {"one": None, "two": 3.6e6}


def test_power(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = EnergyTrace.from_power([0, 1, 2], [5.0, 5.0, 5.0], [2])
    folder = str(trace.save(tmp_path / "trace"))
    assert main(["export", folder, "--table", "power"]) == 0
    table = read_csv(capsys.readouterr().out)
    assert table["power_W"].tolist() == [5.0] * 3
    assert table["device"].tolist() == ["gpu:0"] * 3


def test_files_are_not_replaced_unasked(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "epochs.csv"
    file.write_text("mine")
    for command in ("export", "plot"):
        target = file.with_suffix(".csv" if command == "export" else ".png")
        target.write_text("mine")
        assert main([command, folder, "--output", str(target)]) == 1
        assert "--force replaces it" in capsys.readouterr().err
        assert target.read_text() == "mine"
        assert main([command, folder, "--output", str(target), "--force"]) == 0
        assert target.read_bytes() != b"mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epochs.csv", "epochs.png", "runs"]
    assert main(["export", folder, "--output", str(tmp_path / "no" / "x.csv")]) == 1
    assert main(["export", folder, "--output", str(tmp_path)]) == 1
    assert "is a folder" in capsys.readouterr().err


def test_two_formats(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", folder, "--json", "--to", "csv"]) == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ending", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")]
)
def test_pictures(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, begin: bytes
) -> None:
    file = tmp_path / f"picture.{ending}"
    assert main(["plot", folder, "-n", "20", "--output", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file)}
    assert file.read_bytes().startswith(begin)


def test_pictures_that_cannot_be(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", folder]) == 2
    assert "--output FILE is missing" in capsys.readouterr().err
    assert main(["plot", folder, "-o", str(tmp_path / "picture.doc")]) == 1
    assert "must end with .png, .svg or .pdf" in capsys.readouterr().err
    assert main(["plot", folder, "-n", "2", "-o", str(tmp_path / "x.png")]) == 1
    assert "less than the 3" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_pictures_without_matplotlib(
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "energyest.plots.picture", raising=False)
    assert main(["plot", folder, "-o", str(tmp_path / "x.png")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_runs_to_a_file(
    ending: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    above, runs, exported = str(Path(folder).parent), tmp_path / f"a.{ending}", tmp_path / "b"
    assert main(["runs", above, "--to", str(runs)]) == 0
    assert capsys.readouterr().out == f"written: {runs} (1 rows of runs)\n"
    assert main(["export", above, "--table", "runs", "--to", ending, "-o", str(exported)]) == 0
    assert runs.read_bytes() == exported.read_bytes()
    before = runs.read_bytes()
    assert main(["runs", above, "--to", str(runs)]) == 1  # it is there already
    assert "--force replaces it" in capsys.readouterr().err
    runs.write_bytes(b"old")
    assert main(["runs", above, "--to", str(runs), "--force", "--json"]) == 0
    assert runs.read_bytes() == before
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"][0]["lost_J"] == 0
    assert err.endswith(f"written: {runs} (1 rows of runs)\n")


def test_runs_to_a_file_without_a_format(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", folder, "--to", "runs.xlsx"]) == 2
    assert "must end with .csv, .parquet or .json" in capsys.readouterr().err


def test_what_a_resumed_run_has_lost_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def save(name: str, total_J: float, *earlier: tuple[str, float], **meta: str) -> None:
        parts = [{"run_id": one, "total_J": before_J} for one, before_J in earlier]
        facts = {"run_id": name, "total_J": total_J, "status": "finished", "earlier_parts": parts}
        EnergyTrace.from_epochs([total_J], meta=facts | meta).save(tmp_path / name)

    save("first", 500.0, status="SIGTERM")
    save("second", 700.0, ("first", 400.0))
    save("third", 70.0, ("deleted", 40.0))
    assert main(["runs", str(tmp_path), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "note: 100 J (27.78 mWh) were used after checkpoints" in err
    assert "note: lost_J is not known for 1 of 2 runs" in err
    rows = {row["run"]: row for row in json.loads(out)["runs"]}
    assert {name: row["lost_J"] for name, row in rows.items()} == {"second": 100, "third": None}
    assert main(["runs", str(tmp_path), "--parts"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "lost_J" in head.split()
    assert [line.split()[0] for line in lines] == ["first", "second", "third"]


def test_an_index_is_kept_where_it_is_asked_for(folder: str, tmp_path: Path) -> None:
    above = Path(folder).parent
    assert main(["runs", str(above)]) == 0
    assert sorted(path.name for path in above.iterdir()) == ["one"]
    assert main(["runs", str(above), "--index"]) == 0
    assert sorted(path.name for path in above.iterdir()) == [".energyest-runs-1.json", "one"]
