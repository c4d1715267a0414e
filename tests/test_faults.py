"""Every fault of `tests.faults`: what the training and its trace must show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import Outcome, load_cases, start_all

CASES = load_cases()


@pytest.fixture(scope="module")
def outcome_of(
    request: pytest.FixtureRequest,
    nvml_library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Outcome]]:
    """Runs all cases that are asked for at once, as most of them sleep most of the time."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    pool, futures = start_all(names, nvml_library, tmp_path_factory.mktemp("faults"))
    with pool:
        yield lambda name: futures[name].result()[name]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, outcome_of: Callable[[str], Outcome]) -> None:
    outcome = outcome_of(name)
    for check in CASES[name].checks:
        check(outcome)
