"""Runs groups of cases: `python -m tests.faults.child [--real-time] LIBRARY FOLDER NAME,NAME ...`.

Each group has a process of its own, forked from this one, which has imported what they all need.
Prints a line of JSON for each case, or for what went wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from simulation.fake_nvml import FakeNvml
from simulation.scene import Scene
from simulation.stepped import NvmlClock, without_threads
from tests.faults import Case, Outcome, load_cases
from tests.faults.training import collect_warnings

# Most of them sleep most of the time.
AT_A_TIME = 12


def provoke(case: Case, driver: FakeNvml, folder: Path, *, real_time: bool) -> Outcome:
    """Let a fault happen, by the clock of the case."""
    if real_time or not case.simulated:
        return case.provoke(Scene(driver), folder)
    clock = NvmlClock(driver)
    with without_threads(clock):
        return case.provoke(Scene(driver, clock), folder)


def run(names: Sequence[str], library: Path, folder: Path, *, real_time: bool) -> None:
    """One case after the other, in this process."""
    driver = FakeNvml(library)
    for name in names:
        driver.reset()
        place = folder / name
        place.mkdir(parents=True)
        warnings = collect_warnings(place)
        outcome = provoke(load_cases()[name], driver, place, real_time=real_time)
        outcome.warnings = warnings()
        result = folder / f"{name}.json"
        result.write_text(json.dumps({"case": name, "outcome": asdict(outcome)}))


def start(names: Sequence[str], library: Path, folder: Path, *, real_time: bool) -> int:
    """Fork a process that runs a group; returns its pid."""
    pid = os.fork()
    if pid == 0:
        with open(folder / f"{names[0]}.err", "w") as errors:
            os.dup2(errors.fileno(), 1)
            os.dup2(errors.fileno(), 2)
        run(names, library, folder, real_time=real_time)
        sys.exit(0)  # as any process of Python ends, and as those do that a case forks
    return pid


def told(names: Sequence[str], folder: Path) -> list[str]:
    """Lines on a group that has ended."""
    files = {name: folder / f"{name}.json" for name in names}
    errors = (folder / f"{names[0]}.err").read_text()[-4000:]
    return [
        file.read_text() if file.exists() else json.dumps({"case": name, "error": errors})
        for name, file in files.items()
    ]


def main(*arguments: str) -> None:
    real_time = arguments[0] == "--real-time"
    library, folder, *groups = arguments[real_time:]
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    load_cases()
    import_module("pandas")  # for the tables of traces
    waiting = [group.split(",") for group in groups]
    running: dict[int, Sequence[str]] = {}
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            names = waiting.pop(0)
            pid = start(names, Path(library), Path(folder), real_time=real_time)
            running[pid] = names
        pid, _ = os.wait()
        for line in told(running.pop(pid), Path(folder)):
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
