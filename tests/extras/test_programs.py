"""`energyest run` of real programs: how many epochs it finds, in a pipe and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from energyest import load_trace

# How each is started, and what it needs.
PROGRAMS = {
    "lightning_tqdm": ("lightning_epochs", "tqdm", "pytorch_lightning"),
    "lightning_rich": ("lightning_epochs", "rich", "pytorch_lightning"),
    "huggingface_bar": ("huggingface_epochs", "bar", "transformers"),
    "huggingface_no-bar": ("huggingface_epochs", "no-bar", "transformers"),
    "keras": ("script", "keras_loop", "keras"),
    "ultralytics": ("script", "ultralytics_callbacks", "ultralytics"),
}


def run(command: list[str], folder: Path, *, in_terminal: bool) -> None:
    """Run a program, whose output goes into a pipe or to a terminal."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "TERM": "xterm-256color",
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_OFFLINE": "true",
    }
    if not in_terminal:
        subprocess.run(command, capture_output=True, check=True, env=environment)
        return
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # nobody writes any more
            pass
    os.close(ours)
    assert process.returncode == 0


@pytest.mark.parametrize("in_terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_epochs_of_a_program(name: str, in_terminal: bool, tmp_path: Path) -> None:
    module, argument, library = PROGRAMS[name]
    pytest.importorskip(library)
    program = [sys.executable, "-m", f"tests.support.programs.{module}", argument]
    if module == "script":
        program += ["--epochs", "3", "--output", str(tmp_path / "out")]
    measure = [sys.executable, "-m", "energyest", "run", "--components", "cpu"]
    run(
        [*measure, "--folder", str(tmp_path / "energy"), "--", *program],
        tmp_path,
        in_terminal=in_terminal,
    )
    trace = load_trace(tmp_path / "energy")
    if name == "lightning_rich" and not in_terminal:  # its bar is drawn once, at the end
        assert len(trace) == 1
        assert any("none was recognised" in note for note in trace.meta["notes"])
        return
    assert list(trace.column("epoch")) == [0, 1, 2]
    assert trace.meta["planned_epochs"] == 3
    assert np.isfinite(trace.column("energy_J")).all()
