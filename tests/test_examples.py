"""The loops in examples/ run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from energyest import load_trace

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.skipif(not EXAMPLES.exists(), reason="the tests run without the examples")
@pytest.mark.parametrize("name", ["loop_pytorch", "loop_sklearn", "loop_jax"])
def test_loop(name: str, tmp_path: Path) -> None:
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
