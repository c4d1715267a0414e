"""Runs a group of cases, or the soak for some seconds, in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from simulation.fake_nvml import FakeNvml
from simulation.scene import Scene
from simulation.stepped import NvmlClock, without_threads
from tests.faults import Case, Outcome, load_cases
from tests.faults.training import collect_warnings


def run(names: Sequence[str], library: str, folder: str, real_time: bool) -> None:
    """Run one case after the other; what comes of each is left in the folder, as `NAME.json`."""
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
        (Path(folder) / f"{name}.json").write_text(json.dumps(asdict(outcome)))


def provoke(case: Case, driver: FakeNvml, folder: Path, *, real_time: bool) -> Outcome:
    """Let a fault happen, by the clock of the case."""
    if real_time or not case.simulated:
        return case.provoke(Scene(driver), folder)
    clock = NvmlClock(driver)
    with without_threads(clock):
        return case.provoke(Scene(driver, clock), folder)


def run_soak(minutes: float, seed: int) -> None:
    """Run the soak, and print what came of it as a last line of JSON."""
    from simulation.soak import soak

    soaked = soak(minutes, seed)
    names = ("runs", "epochs", "rows", "unknown_rows", "violations")
    told = {name: getattr(soaked, name) for name in names}
    print(json.dumps({**told, "faults": sum(soaked.world.counts.values())}))
