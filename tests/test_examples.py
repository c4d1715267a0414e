"""The loops in examples/ run; those of popular libraries are in tests/extras."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from energyest import load_trace
from tests.support.examples import POPULAR, added_lines, lines_that_measure, load_script

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests run without the examples")
@pytest.mark.parametrize("name", ["loop_pytorch", "loop_sklearn", "loop_jax"])
def test_loop(name: str, tmp_path: Path) -> None:
    if name == "loop_pytorch":
        pytest.importorskip("torch")
    arguments = ["--epochs", "3", "--folder", str(tmp_path / "energy")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    if name == "loop_jax" and find_spec("jax") is None:
        assert done.returncode == 1
        assert "this example needs JAX" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 3
    assert trace.column("val_acc")[-1] > 0.7
    assert (trace.column("energy_J") > 0).all()
    assert trace.meta.get("synchronized") == (["jax"] if name == "loop_jax" else None)


@pytest.mark.parametrize("script", sorted(POPULAR.glob("*.py")), ids=lambda script: script.stem)
def test_measuring_adds_less_than_ten_lines(script: Path) -> None:
    added = added_lines(script)
    assert 0 < len(added) < 10
    assert lines_that_measure(script) <= added


@pytest.mark.skipif(not POPULAR.exists(), reason="the tests run without the examples")
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
