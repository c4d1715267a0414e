"""The scripts in examples/popular: loaded, and what measuring adds to them."""

from __future__ import annotations

import importlib.util
import tokenize
from pathlib import Path
from types import ModuleType

POPULAR = Path(__file__).parents[2] / "examples" / "popular"
# What ends each line that measuring adds to a script.
ADDED = "# +"


def load_script(name: str) -> ModuleType:
    """A script, as a module."""
    spec = importlib.util.spec_from_file_location(f"popular_{name}", POPULAR / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def added_lines(script: Path) -> set[int]:
    """Numbers of the lines that are marked."""
    lines = script.read_text(encoding="utf-8").splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith(ADDED)}


def lines_that_measure(script: Path) -> set[int]:
    """Numbers of the lines that speak of energyest, or of what they take from it."""
    with script.open("rb") as file:
        words = list(tokenize.tokenize(file.readline))
    names = {"energyest", "track", "EnergyCallback", "run", "energy"}
    return {word.start[0] for word in words if word.type == tokenize.NAME and word.string in names}
