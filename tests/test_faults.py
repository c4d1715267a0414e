"""Every fault of `tests.faults`: what the training and its trace must show."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from simulation.fake_nvml import environment
from tests.faults import ROOT, Outcome, load_cases, running

CASES = load_cases()


# Some seconds of it: the training that they end in is brought to its end.
SOAK = """
import json
from simulation.soak import soak
soaked = soak(minutes=0.2, seed=1)
names = ("runs", "epochs", "rows", "unknown_rows", "violations")
print(json.dumps({**{name: getattr(soaked, name) for name in names},
                  "faults": sum(soaked.world.counts.values())}))
"""


@pytest.fixture(scope="module")
def soak(nvml_library: Path) -> Iterator[subprocess.Popen[str]]:
    """Some seconds of the soak, beside the faults, which sleep most of the time."""
    with subprocess.Popen(
        [sys.executable, "-c", SOAK],
        cwd=ROOT,
        env=environment(nvml_library),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest,
    soak: subprocess.Popen[str],
    nvml_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Outcome]]:
    """Runs all cases that are asked for at once, as most of them sleep most of the time."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    folder = tmp_path_factory.mktemp("faults")
    with running(names, nvml_library, folder) as outcome_of_one:
        yield outcome_of_one


@pytest.mark.timeout(900)  # the first one waits for the start of many
@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, outcome_of: Callable[[str], Outcome]) -> None:
    outcome = outcome_of(name)
    for check in CASES[name].checks:
        check(outcome)


@pytest.mark.timeout(900)
def test_a_short_soak(soak: subprocess.Popen[str]) -> None:
    output, _ = soak.communicate(timeout=600)
    assert soak.returncode == 0, output
    found = json.loads(output.splitlines()[-1])
    # No energy is wrong, and none is unknown without a fault that explains it, however many are.
    assert found["violations"] == [], output
    assert found["runs"] >= 1, output
    assert found["faults"] >= 1, output
    # The very first epoch is calm: it at least is known.
    assert 0 <= found["unknown_rows"] < found["rows"] == found["epochs"], output
