"""The house rules: who imports whom, and what `import energyest` costs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import energyest
from energyest.records.meta import TraceMeta
from tests.conftest import skipped_without_torch
from tests.support.each import for_each
from tests.support.source import MODULES, PACKAGE, ROOT, imports_of, strings_of

ADAPTERS = ("adapters", "lightning", "huggingface")
# The rooms, from the ground up: each may import those before it, and none after it. A room is a
# folder or a module at the top.
ORDER = (
    *(
        "errors",
        "checks",
        "patience",
        "arrays",
        "integration",
        "display",
        "markup",
        "frames",
        "carbon",
        "estimate",
        "settings",
        "provenance",
        "versions",
    ),
    *("gpus", "records", "summary", "measure", "profiling", "estimators"),
    *("distributed", "tracking", *ADAPTERS),
    *("tradeoff", "readers", "plots", "report", "exporters", "program", "cli"),
)
# Rooms that an earlier one stands beside, and must not know.
STRANGERS = {
    "profiling": {"carbon", "estimate", "settings", "summary"},
    "estimators": {"settings", "summary", "measure", "profiling"},
    "distributed": {"profiling", "estimators"},
    "huggingface": {"lightning"},
    "exporters": {"measure", "profiling", "distributed", "tracking", "readers", *ADAPTERS},
    "program": {*ADAPTERS, "tradeoff", "readers", "plots", "report"},
    "tradeoff": {"measure", "profiling", "distributed", "tracking", *ADAPTERS},
    "readers": {
        *("integration", "carbon", "estimate", "gpus", "measure", "profiling", "estimators"),
        *("distributed", "tracking", "tradeoff", *ADAPTERS),
    },
    "report": {"measure", "profiling", "distributed", "tracking", "readers", *ADAPTERS},
    "plots": {"measure", "profiling", "distributed", "tracking", "readers", *ADAPTERS},
}
# As long and as wide as the house rules allow.
MOST_LINES, MOST_MODULES, MOST_NAMES = 400, 14, 16


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def inner_imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, as paths."""
    found = set()
    for name in imports_of(path):
        parts = name.split(".")
        while parts[0] == "energyest" and len(parts) > 1:
            module = PACKAGE.joinpath(*parts[1:])
            for file in (module.with_suffix(".py"), module / "__init__.py"):
                if file.exists():
                    found.add(str(file.relative_to(PACKAGE)))
                    parts = []
                    break
            if not parts:
                break
            parts = parts[:-1]
    return found


@for_each(MODULES)
def test_imports_go_down(path: Path) -> None:
    if room(path) in ("__init__", "__main__"):
        return  # the doors of the house: they lead everywhere
    rooms = {Path(file).parts[0].removesuffix(".py") for file in inner_imports(path)}
    allowed = {room(path), "__init__", *ORDER[: ORDER.index(room(path))]}
    assert rooms <= allowed - STRANGERS.get(room(path), set())


def test_no_command_imports_another() -> None:
    """What several need stands in `energyest.cli` itself."""
    commands = PACKAGE / "cli" / "commands"
    for path in commands.glob("*.py"):
        others = {file for file in inner_imports(path) if Path(file).parent == Path("cli/commands")}
        assert not others - {"cli/commands/__init__.py"}, path


def test_no_circle_of_files() -> None:
    imports = {str(path.relative_to(PACKAGE)): inner_imports(path) for path in MODULES}
    del imports["__init__.py"]  # it leads everywhere, and is asked for the version alone
    while leaves := [file for file, needs in imports.items() if not needs & imports.keys()]:
        for file in leaves:
            del imports[file]
    assert not imports, sorted(imports)


def test_files_and_folders_stay_small() -> None:
    long = {str(p): n for p in MODULES if (n := len(p.read_text().splitlines())) > MOST_LINES}
    assert not long
    wide = {
        str(folder): n
        for folder in {path.parent for path in MODULES}
        if (n := sum(p.parent == folder and p.stem[:2] != "__" for p in MODULES)) > MOST_MODULES
    }
    assert not wide


@for_each(MODULES)
def test_the_first_line_says_what_is_inside(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert len(docstring.splitlines()[0]) > 20


def test_keys_of_a_meta_are_documented() -> None:
    text = (ROOT / "docs" / "reference" / "trace_files.md").read_text(encoding="utf-8")
    assert not [key for key in TraceMeta.__annotations__ if f"`{key}`" not in text]


def test_keys_of_a_meta_are_declared() -> None:
    """Readers name a key of `TraceMeta`, or of an object that a meta holds."""
    inner = {"name", "model", "gpus", "epoch", "energy_J", "missing_s"}
    inner |= {"tool", "source", "method", "device", "parameters"}
    inner |= {"train_samples", "validation_samples"}
    inner |= {"monitor", "patience", "min_delta", "best", "waited"}
    inner |= {"stopped", "findings", "reason", "gpu_energy_J", "rows", "id", "limits"}
    inner |= {"scheduler"}
    inner |= {"stopping_threshold", "divergence_threshold"}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            name = getattr(node.func, "id", "")
            key = node.args[1]
            if name.startswith("read_") and isinstance(key, ast.Constant):
                assert key.value in TraceMeta.__annotations__.keys() | inner, path
            direct = ast.unparse(node.func)
            assert path.name == "meta.py" or not direct.endswith("trace.meta.get"), path


@for_each(MODULES)
def test_estimators_know_no_torch_no_nvml_no_files(path: Path) -> None:
    if room(path) == "estimators":
        foreign = {name.split(".")[0] for name in imports_of(path)}
        assert not foreign & {"torch", "pynvml", "pytorch_lightning", "psutil", "pathlib", "os"}


@for_each(MODULES)
def test_only_plots_imports_matplotlib(path: Path) -> None:
    names = {name.split(".")[0] for name in imports_of(path)}
    names_a_figure = path.relative_to(PACKAGE).as_posix() in ("records/trace.py", "estimate.py")
    assert "matplotlib" not in names or room(path) == "plots" or names_a_figure


def test_results_find_matplotlib_only_when_they_are_plotted() -> None:
    """`trace.plot()` and `estimate.plot()` go through the package's front door, when called."""
    script = (
        "import sys; from energyest import EnergyTrace, estimate_step\n"
        "estimate_step(EnergyTrace.from_epochs(energy_J=[1,1,1,1]), 10)\n"
        "assert 'matplotlib' not in sys.modules and 'energyest.plots' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Folders next to the package, which its files must not import or run.
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
    """Code needed by several tests is in tests/support."""
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in imports_of(path)
        if name.startswith("tests.") and ".test_" in name
    }
    assert not found


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


@skipped_without_torch()
def test_public_names() -> None:
    assert len(energyest.__all__) <= MOST_NAMES
    for name in energyest.__all__:
        assert getattr(energyest, name) is not None
    assert set(energyest.__all__) <= set(dir(energyest))
    with pytest.raises(AttributeError, match="nothing"):
        energyest.nothing  # noqa: B018


NAMESPACES = [
    "carbon",
    "errors",
    "estimators",
    "gpus",
    "measure",
    "plots",
    "profiling",
    "readers",
    "report",
    "tradeoff",
]


@pytest.mark.parametrize("name", NAMESPACES)
@skipped_without_torch()
def test_namespaces_are_there_after_a_plain_import(name: str) -> None:
    script = f"import energyest; print(energyest.{name}.__name__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"energyest.{name}\n"
    namespace = importlib.import_module(f"energyest.{name}")
    for public in getattr(namespace, "__all__", ()):
        assert getattr(namespace, public) is not None


@skipped_without_torch()
def test_type_checkers_see_the_names_that_there_are() -> None:
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    named = {
        alias.asname: f"energyest.{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module
    }
    assert sorted(named) == energyest.__all__
    for name, module in named.items():
        assert getattr(importlib.import_module(module), str(name)) is getattr(energyest, str(name))
