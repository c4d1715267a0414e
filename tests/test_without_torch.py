"""A machine without torch, Lightning and fvcore: what works there, and what says what to install.

`python -m nox -s tests_without_torch` runs all tests that apply on such a machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from energyest.checks import check_installed
from energyest.errors import EnergyestError, MissingDependencyError
from tests.conftest import WITH_TORCH

# None of them is found.
WITHOUT = """
from importlib.machinery import PathFinder
absent, find_spec = {absent!r}, PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.split(".")[0] in absent else find_spec(name, path, target)
PathFinder.find_spec = find
"""


USED = """
import sys
import energyest
from energyest import carbon, cli, estimators, gpus, plots, readers, tradeoff
from energyest.estimators.pre.model import PreModel
from energyest.profiling import HostProbe, Operation, Probe, Workload
from energyest.tracking.track import find_sensors

with energyest.track("energy", components=("cpu",), batch_size=len) as run:
    for epoch in run.epochs(3):
        with run.validation():
            run.log(samples=10)
        run.count_flops(print, [1])
print(run.trace.meta["status"], len(energyest.load_trace("energy")), run.planned_epochs)
trace = energyest.EnergyTrace.from_epochs(energy_J=[100.0] * 5, duration_s=[1.0] * 5)
print(energyest.estimate_step(trace, epochs=10).energy_J)
for name in [name for name in sys.modules if name.startswith("energyest.")]:
    assert not {"lightning", "huggingface"} & set(name.split(".")), name
"""


def run_without(program: str, folder: Path, *absent: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=absent or WITH_TORCH) + program],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_track_and_estimate(tmp_path: Path) -> None:
    done = run_without(USED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["finished 3 3", "1000.0"]
    lack = "count_flops needs torch and fvcore, which are not installed: pip install torch fvcore"
    about = [line for line in done.stderr.splitlines() if "energyest" in line and "FLOPs" in line]
    assert about == [f"energyest: FLOPs are not counted: {lack}"]  # said once, in one line
    assert "Traceback" not in done.stderr
    assert "may be incomplete" not in done.stderr


def test_each_that_needs_torch_says_so(tmp_path: Path) -> None:
    program = """
import energyest
from energyest import profiling
asked = [(energyest, n) for n in ("EnergyMonitor", "EnergyCallback", "describe_workload")]
asked += [(profiling, n) for n in ("describe_workload", "probe", "probe_host")]
for module, name in asked:
    try:
        getattr(module, name)
    except energyest.EnergyestError as error:
        print(error)
"""
    done = run_without(program, tmp_path)
    assert done.returncode == 0, done.stderr
    both = "torch and fvcore, which are not installed: pip install torch fvcore"
    assert done.stdout.splitlines() == [
        "EnergyMonitor needs torch, pytorch-lightning and fvcore, which are not installed: "
        "pip install torch pytorch-lightning fvcore",
        f"EnergyCallback needs {both}",
        *(f"{name} needs {both}" for name in ("describe_workload",) * 2 + ("probe", "probe_host")),
    ]


def test_lightning_alone_may_be_missing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run_without("import energyest; energyest.EnergyMonitor", tmp_path, "pytorch_lightning")
    lack = "EnergyMonitor needs pytorch-lightning, which is not installed: pip install pytorch-lig"
    assert lack in done.stderr


def test_what_is_installed_is_not_asked_for() -> None:
    check_installed("this", "json", "numpy")
    with pytest.raises(
        MissingDependencyError, match="this needs no-such-module, which is not"
    ) as e:
        check_installed("this", "json", "no_such_module")
    assert e.value.name == "no_such_module"
    assert isinstance(e.value, EnergyestError)
    assert isinstance(e.value, ImportError)
