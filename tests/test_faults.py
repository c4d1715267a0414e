"""Every fault of `tests.faults`: what the training and its trace must show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import Outcome, load_cases, start_all
from tests.support.forks import LIGHTNING, Forks

pytest.importorskip("torch")  # what is trained there, in processes of its own, needs it

CASES = load_cases()

# The first one waits for the start of many.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest,
    forks: Forks,
    nvml_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Outcome]:
    """Runs all cases that are asked for at once."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    return start_all(forks, names, nvml_library, tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def soak(forks: Forks, outcome_of: object, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Some seconds of the soak, beside the faults; its last training is brought to its end."""
    folder = tmp_path_factory.mktemp("soak")
    return forks.start("tests.faults.child:run_soak", 0.2, 1, folder=folder, needs=LIGHTNING)


@pytest.mark.usefixtures("soak")
@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, outcome_of: Callable[[str], Outcome]) -> None:
    outcome = outcome_of(name)
    for check in CASES[name].checks:
        check(outcome)


def test_a_short_soak(forks: Forks, soak: int) -> None:
    ended = forks.wait(soak)
    assert ended.status == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    # No energy is wrong, and none is unknown without a fault that explains it, however many are.
    assert found["violations"] == [], ended.stdout
    assert found["runs"] >= 1, ended.stdout
    assert found["faults"] >= 1, ended.stdout
    # The very first epoch is calm: it at least is known.
    assert 0 <= found["unknown_rows"] < found["rows"] == found["epochs"], ended.stdout
