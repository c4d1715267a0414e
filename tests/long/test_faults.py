"""Faults of readings by the real clock; tests/test_faults.py lets them go by a simulated one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import all_epochs_recorded, goes_on, load_cases, start_all
from tests.support.forks import Forks

NAMES = [name for name, case in load_cases().items() if case.simulated]


@pytest.mark.timeout(900)
def test_readings_that_fail_hold_nothing_up(
    forks: Forks, nvml_library: Path, tmp_path: Path
) -> None:
    outcome_of = start_all(forks, NAMES, nvml_library, tmp_path, real_time=True)
    trained = [outcome for outcome in map(outcome_of, NAMES) if outcome.planned]
    assert len(trained) > 10  # others are of what happens before a training, or without one
    for outcome in trained:
        assert outcome.slowest_s is not None
        goes_on(outcome)
        all_epochs_recorded(outcome)
