"""The examples run, and print what the gallery shows; popular libraries are in tests/extras."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from energyest import EnergyTrace, load_trace
from tests.support.examples import POPULAR, added_lines, lines_that_measure, load_script
from tests.support.gallery import form

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
GALLERY = ROOT / "docs" / "gallery.md"
STORED = ROOT / "docs" / "gallery"
# What an example needs beside the package's own requirements, torch and Lightning among them.
NEEDS = {
    "huggingface": "transformers",
    "lightning_monitor": "pytorch_lightning",
    **dict.fromkeys(
        ("budget", "choose_a_gpu", "estimate_before_training", "loop_pytorch", "resume"), "torch"
    ),
}
SIMPLE = [*NEEDS, "loop_sklearn", "nvidia_smi_log", "own_sensor"]
# Those in processes of their own: JAX stays out of the tests', DDP starts another.
APART = ["loop_jax"]
LONG = ["ddp", "digits"]

if not EXAMPLES.exists() or not GALLERY.exists():
    pytest.skip("the tests run without the examples", allow_module_level=True)
# The command that makes the gallery.
MAKER = runpy.run_path(str(ROOT / "docs" / "gallery.py"))


def test_each_example_is_run_by_a_test() -> None:
    assert sorted([*SIMPLE, *APART, *LONG]) == sorted(p.stem for p in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("script", sorted(EXAMPLES.rglob("*.py")), ids=lambda script: script.stem)
def test_each_example_is_in_the_gallery(script: Path) -> None:
    name, path = script.stem, script.relative_to(ROOT).as_posix()
    lines = GALLERY.read_text(encoding="utf-8").splitlines()
    links = rf"\[{name}\.py\]\(\.\./{path}\), \[its \w+\]\(gallery/{name}\.txt\)"
    assert sum(bool(re.fullmatch(links, line)) for line in lines) == 1
    assert (STORED / f"{name}.txt").read_text(encoding="utf-8").strip()
    assert {"Python", "energyest"} <= stored_run(name)["versions"].keys()
    saves_picture = ".svg" in script.read_text(encoding="utf-8")
    assert (STORED / f"{name}.svg").exists() == saves_picture
    assert any(f"(gallery/{name}.svg)" in line for line in lines) == saves_picture


def test_the_gallery_holds_nothing_else() -> None:
    names = {script.stem for script in EXAMPLES.rglob("*.py")}
    assert {file.stem for file in STORED.iterdir()} == names | {"runs"}
    assert stored_runs().keys() == names
    text = GALLERY.read_text(encoding="utf-8")
    assert all(f"examples/{file.name})" in text for file in EXAMPLES.glob("*.ipynb"))


@pytest.mark.parametrize("name", SIMPLE)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_an_example_prints_what_the_gallery_shows(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert_is_shown(name, capsys.readouterr().out)
    if name.startswith("loop"):
        assert_is_trained(load_trace(next(Path("runs").iterdir())))
    assert len(list(tmp_path.glob("*.svg"))) == (STORED / f"{name}.svg").exists()


def test_the_example_for_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    assert_is_shown("loop_jax", printed("loop_jax", tmp_path))
    trace = load_trace(tmp_path / "runs" / "jax")
    assert_is_trained(trace)
    assert trace.meta["synchronized"] == ["jax"]


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
def test_a_longer_example(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning")
    assert_is_shown(name, printed(name, tmp_path, *MAKER["ARGUMENTS"].get(name, ())))


def test_the_form_leaves_out_what_varies() -> None:
    shown = "AMD EPYC: 12.5 J in 3 s\n1 2.5e-3\n2 nan\n1.2 kJ (3 Wh) for 5 epochs in 3 s [STEP]"
    again = "a GPU: 1.5 kJ in 3 ms\n1 2\nNone"
    assert form(shown, ["AMD EPYC"]) == form(again, ["a GPU"])
    for other in ("a GPU: 1.5 kJ in epochs\n1 2\nNone", "a GPU: 1.5 kJ in 3 ms\nNone"):
        assert form(other, ["a GPU"]) != form(again, ["a GPU"])


def assert_is_shown(name: str, text: str) -> None:
    """The stored output has the form of what an example has printed here."""
    stored = (STORED / f"{name}.txt").read_text(encoding="utf-8").split(MAKER["LOGGED"])[0]
    hint = f"if this is meant: python docs/gallery.py {name}"
    assert form(stored, stored_run(name)["devices"]) == form(text, MAKER["device_names"]()), hint


def assert_is_trained(trace: EnergyTrace) -> None:
    assert trace.column("val_acc")[-1] > 0.7
    assert (trace.column("energy_J") > 0).all()


def printed(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{os.path.realpath(folder)}/", "")


def stored_runs() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((STORED / "runs.json").read_text(encoding="utf-8"))
    return found


def stored_run(name: str) -> dict[str, Any]:
    """When, where and with which versions the stored output was made."""
    run: dict[str, Any] = stored_runs()[name]
    return run


@pytest.mark.parametrize("script", sorted(POPULAR.glob("*.py")), ids=lambda script: script.stem)
def test_measuring_adds_less_than_ten_lines(script: Path) -> None:
    added = added_lines(script)
    assert 0 < len(added) < 10
    assert lines_that_measure(script) <= added


def test_a_loop_in_the_manner_of_nanogpt(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    load_script("nanogpt_loop").main(["--max-iters", "50", "--out", str(tmp_path)])
    trace = load_trace(tmp_path / "energy")
    assert trace.unit == "interval"
    assert list(trace.column("steps")) == [20, 20, 10]
    assert (trace.column("validation_s") > 0).all()
    assert (trace.column("validation_s") < trace.column("duration_s")).all()
    losses = trace.column("val_loss")
    assert losses[-1] < losses[0] < 10
    assert (trace.column("energy_J") > 0).all()
    assert (tmp_path / "ckpt.pt").exists()
