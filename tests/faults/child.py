"""Runs cases in this process: `python -m tests.faults.child LIBRARY FOLDER NAME ...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from simulation.fake_nvml import FakeNvml
from simulation.scene import Scene
from tests.faults import encoded, load_cases
from tests.faults.training import collect_warnings


def main(library: str, folder: str, *names: str) -> None:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    driver = FakeNvml(Path(library))
    cases = load_cases()
    for name in names:
        driver.reset()
        place = Path(folder) / name
        place.mkdir(parents=True)
        warnings = collect_warnings(place)
        outcome = cases[name].provoke(Scene(driver), place)
        outcome.warnings = warnings()
        print(encoded(name, outcome), flush=True)


main(*sys.argv[1:])
