"""Each public function has an example in its docstring, and the example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import energyest
from tests.conftest import skipped_without_torch
from tests.support import snippet_names
from tests.support.example_logs import write_logs, write_tensorboard
from tests.support.markdown import ROOT

MODULES = ("", "estimators", "tradeoff", "readers", "carbon", "gpus", "plots", "profiling")
# Classes that users make themselves; the others are results, which functions return.
MADE = {
    *("EnergyMonitor", "EnergyCallback", "EnergyTrace", "Estimate", "NotStableError"),
    *("PlannedChange", "PreModel", "TableModel", "Gpu", "Workload"),
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_names() -> dict[str, str]:
    """What has an example: name -> the module that users import it from."""
    found: dict[str, str] = {}
    for name in MODULES:
        module = importlib.import_module(f"energyest.{name}".rstrip("."))
        own = [name for name, thing in vars(module).items() if _is_public(name, thing, module)]
        for public in getattr(module, "__all__", own):
            # By its name alone: to look at them would import transformers.
            if public.islower() or public in MADE:
                found.setdefault(public, module.__name__)
    return found


def _is_public(name: str, thing: object, module: ModuleType) -> bool:
    return name[0] != "_" and getattr(thing, "__module__", None) == module.__name__


NAMES = public_names()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    """What examples take for granted, each made when it is first asked for."""
    from energyest.tradeoff import collect_runs, load_traces
    from tests.support.run_tables import runs_table

    snippet_names.unpacked.where = tmp_path_factory.mktemp("runs")
    choices = snippet_names.unpacked.folder()
    return {
        "runs": cache(lambda: collect_runs(choices, model="architecture")),
        "traces": cache(lambda: list(load_traces(choices).values())[:3]),
        "workload": cache(
            lambda: energyest.describe_workload(snippet_names.network(), snippet_names.batch())
        ),
        "table": lambda: runs_table(deviation=0.1),
        "model": snippet_names.lightning_model,
        "datamodule": snippet_names.datamodule,
        "text_model": snippet_names.text_model,
        "texts": snippet_names.texts,
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example_runs(
    name: str,
    given: dict[str, Callable[[], Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with skipped_without_torch():
        _run_examples(name, given, capsys)


def _run_examples(
    name: str, given: dict[str, Callable[[], Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    thing = getattr(importlib.import_module(NAMES[name]), name)
    # A decorator hides the file of what it decorates.
    module = sys.modules[thing.__module__]
    finder = doctest.DocTestFinder(recurse=inspect.isclass(thing))
    tests = [test for test in finder.find(thing, name, module=module, globs={}) if test.examples]
    assert tests, f"{NAMES[name]}.{name} has no example"
    for test in tests:
        for known, make in given.items():
            if any(re.search(rf"\b{known}\b", example.source) for example in test.examples):
                test.globs[known] = make()
        if NAMES[name] == "energyest.readers":
            write_logs()
        if name == "read_tensorboard":
            pytest.importorskip("tensorboard")
            write_tensorboard("events")
        if "lightning_logs" in test.examples[1].source:
            snippet_names.trace_folder("lightning_logs/resnet18-h200-0/energy")
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        runner.run(test)
        assert not runner.failures, capsys.readouterr().out


def test_the_reference_lists_every_public_name() -> None:
    folder = ROOT / "docs/reference/python"
    if not folder.exists():
        pytest.skip("the tests run without the documentation")
    pages = "\n".join(page.read_text(encoding="utf-8") for page in folder.glob("*.md"))
    listed = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)", pages, re.MULTILINE)}
    assert set(NAMES) <= listed
