"""Whether a training is the same with a monitor as without."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from simulation.setups import Build, outcome, same
from tests.support.sensors import Constant
from tests.support.trainers import monitor_of


def check_unchanged(build: Build, pl: ModuleType, folder: Path) -> Any:
    """Train with and without a monitor, on a GPU that PRE knows; returns the monitor."""
    monitor = monitor_of(folder / "energy", Constant(300.0, "gpu:0", "NVIDIA H100 80GB HBM3"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = outcome(build, pl, folder)
        again = outcome(build, pl, folder)
        watched = outcome(build, pl, folder, monitor)
    for name, value in plain.items():
        assert same(value, again[name]), f"{name} differs from run to run: this shows nothing"
        assert same(value, watched[name]), name
    assert plain["losses"]
    assert len(monitor.trace) >= 1
    return monitor
