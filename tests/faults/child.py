"""Runs cases in this process: `python -m tests.faults.child [--real-time] LIBRARY FOLDER NAME`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from simulation.fake_nvml import FakeNvml
from simulation.scene import Scene
from simulation.stepped import NvmlClock, without_threads
from tests.faults import Case, Outcome, encoded, load_cases
from tests.faults.training import collect_warnings


def provoke(case: Case, driver: FakeNvml, folder: Path, *, real_time: bool) -> Outcome:
    """Let a fault happen, by the clock of the case."""
    if real_time or not case.simulated:
        return case.provoke(Scene(driver), folder)
    clock = NvmlClock(driver)
    with without_threads(clock):
        return case.provoke(Scene(driver, clock), folder)


def main(*arguments: str) -> None:
    real_time = arguments[0] == "--real-time"
    library, folder, *names = arguments[real_time:]
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    driver = FakeNvml(Path(library))
    cases = load_cases()
    for name in names:
        driver.reset()
        place = Path(folder) / name
        place.mkdir(parents=True)
        warnings = collect_warnings(place)
        outcome = provoke(cases[name], driver, place, real_time=real_time)
        outcome.warnings = warnings()
        print(encoded(name, outcome), flush=True)


main(*sys.argv[1:])
