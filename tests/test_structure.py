"""The house rules: who imports whom, and what `import energyest` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import energyest
from tests.support.source import MODULES, PACKAGE, ROOT, imports_of, strings_of


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


# What each room may import from the package itself; a room is a folder or a module at the top.
ALLOWED = {
    "errors": {"estimate"},  # for a type annotation alone
    "integration": set(),
    "arrays": {"errors", "integration"},
    "carbon": {"arrays", "errors", "integration"},
    "estimate": {"carbon"},
    "gpus": {"errors"},
    "records": {"arrays", "carbon", "errors", "estimators", "gpus", "integration"},
    "measure": {"errors", "integration", "records"},
    "profiling": {"errors", "gpus", "measure", "records"},
    "estimators": {"carbon", "errors", "estimate", "gpus", "integration", "records"},
    "distributed": {"measure", "records"},
    "tracking": {
        "distributed",
        "errors",
        "estimate",
        "estimators",
        "measure",
        "profiling",
        "records",
    },
    "lightning": {
        "distributed",
        "errors",
        "estimate",
        "estimators",
        "gpus",
        "measure",
        "profiling",
        "records",
        "tracking",
    },
    "tradeoff": {"errors", "estimate", "estimators", "gpus", "integration", "records"},
    "plots": {"errors", "estimate", "estimators", "integration", "records", "tradeoff"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path: Path) -> None:
    if room(path) in ("__init__", "__main__"):
        return  # the doors of the house: they lead everywhere
    rooms = {
        name.split(".")[1]
        for name in imports_of(path)
        if name.startswith("energyest.") and name != "energyest.__version__"
    }
    assert rooms <= ALLOWED[room(path)] | {room(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_estimators_know_no_torch_no_nvml_no_files(path: Path) -> None:
    if room(path) == "estimators":
        foreign = {name.split(".")[0] for name in imports_of(path)}
        assert not foreign & {"torch", "pynvml", "pytorch_lightning", "psutil", "pathlib", "os"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_plots_imports_matplotlib(path: Path) -> None:
    names = {name.split(".")[0] for name in imports_of(path)}
    assert "matplotlib" not in names or room(path) == "plots"


# What stands beside the package, and what none of its files may import or run.
BESIDE = {
    "energyest": ("tests", "simulation", "benchmarks", "examples"),
    "simulation": ("tests", "benchmarks", "examples"),
    "benchmarks": ("tests",),
    "tests": ("benchmarks",),
}


@pytest.mark.parametrize("folder", BESIDE)
def test_package_and_benchmarks_use_no_tests_and_tests_no_benchmarks(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    if not files:
        pytest.skip(f"the tests run without {folder}")
    inside = tuple(f"{other}{sign}" for other in BESIDE[folder] for sign in "./")
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in files
        # A module or a script may be run, too.
        for name in imports_of(path) | strings_of(path)
        if name.startswith(inside)
    }
    assert not found


def test_no_test_module_imports_another() -> None:
    """What several need stands in tests/support."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in imports_of(path)
        if name.startswith("tests.") and ".test_" in name
    }
    assert not found


def test_files_stay_small() -> None:
    longest = {p.name: len(p.read_text().splitlines()) for p in MODULES}
    assert max(longest.values()) <= 450, longest


IMPORT = """
import sys, time
before, known = time.process_time(), set(sys.modules)
import energyest
print(time.process_time() - before, sorted(set(sys.modules) - known))
"""


def test_import_is_fast_and_brings_neither_torch_nor_pandas() -> None:
    # The processor's time, and the least of several: others may be busy.
    outputs = [
        subprocess.run(
            [sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True
        ).stdout.split(maxsplit=1)
        for _ in range(3)
    ]
    assert min(float(seconds) for seconds, _ in outputs) < 0.15
    loaded = set(ast.literal_eval(outputs[0][1]))
    assert not {name.split(".")[0] for name in loaded} & {
        *("torch", "pandas", "numpy", "pytorch_lightning", "scipy", "matplotlib", "pynvml"),
    }
    assert len(loaded) < 100, sorted(loaded)


def test_estimating_from_a_list_needs_no_torch() -> None:
    script = (
        "import sys; from energyest import EnergyTrace, estimate_step\n"
        "estimate_step(EnergyTrace.from_epochs(energy_J=[1,1,1,1]), 10)\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there() -> None:
    for name in energyest.__all__:
        assert getattr(energyest, name) is not None
    assert set(energyest.__all__) <= set(dir(energyest))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        energyest.nothing  # noqa: B018
