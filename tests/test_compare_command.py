"""`energyest compare`, and what `show`, `runs` and others say of energy, CO2e and places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace
from energyest.cli import main
from energyest.cli.app import cli

GPU = {"device": "gpu:0", "kind": "gpu", "name": "H100"}


def save(folder: Path, energy_J: list[float], **meta: Any) -> str:
    known = {"status": "finished", "run_id": str(folder), "devices": [GPU], **meta}
    duration_s = [one_J / 200 for one_J in energy_J]
    val_acc = [0.5] * len(energy_J)
    trace = EnergyTrace.from_epochs(energy_J, duration_s, meta=known, val_acc=val_acc)
    return str(trace.save(folder))


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


# ---------------------------------------------------------------------- compare


def test_estimators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "run", [200.0, *[100.0] * 9])
    rows = {row["method"]: row for row in answer(capsys, "compare", folder)["methods"]}
    assert rows["first epoch"]["error"] == pytest.approx(2000 / 1100 - 1)
    assert rows["STEP"]["error"] == 0  # it has seen all
    rows = {r["method"]: r for r in answer(capsys, "compare", folder, "-n", "20")["methods"]}
    assert rows["STEP"]["energy_J"] == pytest.approx(2100)
    assert "error" not in rows["STEP"]
    assert main(["compare", folder, "--observed", "4"]) == 0
    out = capsys.readouterr().out
    assert "error (%)" in out
    step = next(line for line in out.splitlines() if line.startswith("STEP  "))
    assert step.split()[1] == "1100.0"
    assert "pass ram_GB=" not in out  # an argument of a function


def test_runs_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = save(tmp_path / "a", [100.0] * 4)
    second = save(tmp_path / "b", [100.0] * 3, status="interrupted by SIGTERM")
    found = answer(capsys, "compare", second, first, "--intensity", "100")["runs"]
    assert [run["run"] for run in found] == [second, first]
    assert [run["energy_change"] for run in found] == [0, pytest.approx(1 / 3)]
    assert [run["duration_change"] for run in found] == [0, pytest.approx(1 / 3)]
    assert found[0]["status"] == "interrupted by SIGTERM"
    assert found[1]["co2e_kg"] == pytest.approx(400 / 3.6e6 * 0.1)
    assert main(["compare", first, second]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == f"changes are relative to {first}"
    assert "-25" in out


def test_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model, energy_J in (("small", 60.0), ("large", 100.0)):
        for seed in range(5):
            place = tmp_path / model / str(seed)
            hparams = {"arch": model, "seed": seed}
            save(place, [energy_J + seed] * 4, hparams=hparams, model={"name": "Net"})
    options = ["compare", str(tmp_path), "--by", "arch", "--quality", "val_acc"]
    (pair,) = answer(capsys, *options)["savings"]
    assert (pair["from_arch"], pair["to_arch"]) == ("large", "small")
    assert pair["saving"] == pytest.approx(1 - 62 / 102)
    assert pair["saving_lower"] < pair["saving"] < pair["saving_upper"]
    assert pair["quality_change"] == 0
    assert main(options) == 0
    out = capsys.readouterr().out
    assert out.split()[:4] == ["from", "to", "saving", "(%)"]
    assert "39.22" in out
    assert main(["compare", str(tmp_path), "--by", "no_such"]) == 1
    assert "no_such" in capsys.readouterr().err


# ---------------------------------------------------------------------- energies and emissions


def test_kWh_and_CO2e_by_option_and_by_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "run", [3.6e5] * 10)
    assert main(["show", folder]) == 0
    out = capsys.readouterr().out
    assert "3.6 MJ (1 kWh)" in out
    assert "CO2e" not in out
    assert main(["show", folder, "--intensity", "Germany", "--pue", "1.5"]) == 0
    assert "g/kWh (Germany, " in capsys.readouterr().out
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", "100")
    for command in (["show", folder], ["project", folder, "-n", "10"]):
        assert main(command) == 0
        assert "100 g CO2e" in capsys.readouterr().out
    assert main(["runs", str(tmp_path)]) == 0
    head, row = capsys.readouterr().out.splitlines()
    values = dict(zip(head.split(), row.split(), strict=True))
    assert (values["energy_kWh"], values["co2e_kg"]) == ("1", "0.1")
    for wrong in (["--intensity", "Germny"], ["--intensity", "-1"], ["--pue", "0.9"]):
        assert main(["show", folder, *wrong]) == 1
        assert capsys.readouterr().err.startswith("energyest: ")


def test_runs_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "run", [3.6e6], hparams={"note": "=1+1"})
    (run,) = answer(capsys, "runs", str(tmp_path))["runs"]
    assert (run["energy_kWh"], run["co2e_kg"], run["note"]) == (1, None, "=1+1")


# ---------------------------------------------------------------------- places


def test_the_only_trace_below_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = save(tmp_path / "logs" / "version_0" / "energy", [7.0] * 4)
    # The record of another of its processes is no trace of its own.
    save(Path(inner) / "rank1", [7.0] * 4)
    for place in (tmp_path / "logs", tmp_path / "logs" / "version_0"):
        for command in (["show"], ["project", "-n", "9"], ["compare"], ["export"]):
            assert main([*command, str(place)]) == 0
            captured = capsys.readouterr()
            assert captured.err == f"note: the trace of {place} is in {inner}\n"
            assert captured.out


def test_several_traces_below_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(7):
        save(tmp_path / f"version_{number}" / "energy", [7.0] * 4)
    assert main(["show", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "holds no trace itself, but 7 of them below it" in err
    assert "version_4/energy, ...;" in err
    assert f"`energyest runs {tmp_path}`" in err
    assert main(["show", str(tmp_path / "no")]) == 1
    assert "there is no such folder" in capsys.readouterr().err


# ---------------------------------------------------------------------- the whole


def test_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shwo"]) == 2
    assert "there is no command 'shwo'. Did you mean show?" in capsys.readouterr().err
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err
    assert main(["show", "--no-such"]) == 2
    assert "energyest show --help says more" in capsys.readouterr().err
    assert main(["--version"]) == 0


@pytest.mark.parametrize("name", cli.list_commands(None))  # type: ignore[arg-type]
def test_help_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"energyest {name}" in out.partition("Examples:")[2]
    assert ("--json" in out) or name in {"run", "metrics"}
    assert out.isascii()
    assert "energyest[" not in out  # pip finds the package in a clone alone
    assert max(map(len, out.splitlines())) <= 80


QUICK = """
import sys
import energyest
assert not {"click", "rich"} & {name.partition(".")[0] for name in sys.modules}
from energyest.cli import main
for command in ([], ["--help"], ["show", "--help"], ["run", "--help"], ["run", "--", "no-such"]):
    main(command)
    if command[-1:] == ["no-such"]:
        break  # measuring brings numpy, when signals wait already
    slow = {"numpy", "pandas", "torch", "rich", "scipy"} & set(sys.modules)
    assert not slow, (command, slow)
"""


def test_help_and_run_bring_neither_numpy_nor_rich(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUICK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_completion_of_a_shell(tmp_path: Path) -> None:
    environment = {"_ENERGYEST_COMPLETE": "bash_complete", "COMP_WORDS": "energyest sh"}
    done = subprocess.run(
        [sys.executable, "-m", "energyest"],
        env={**os.environ, **environment, "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "plain,show\n"
