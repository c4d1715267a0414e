"""Fixtures for all tests."""

from __future__ import annotations

import contextlib
import importlib
import os
import traceback
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import energyest
from energyest.errors import MissingDependencyError
from energyest.gpus import driver
from energyest.measure import writer
from simulation.fake_nvml import FakeNvml, build, compiler_available, environment
from simulation.stepped import Clock, NvmlClock, without_threads
from tests.support.forks import Forks
from tests.support.threads import end_those_since, own_threads

# Whatever else the machine does: an example may take as long as it takes.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


# What an analyst's machine may lack.
WITH_TORCH = ("torch", "pytorch_lightning", "lightning", "fvcore", "transformers")

# Tests that share what is costly to make: one process runs them all, and first of all. (Marks of
# `xdist_group` would say so, too; xdist 3.8 does not see them under pytest 9.)
_TOGETHER = {
    "forks": ("test_faults.py", "test_ranks.py", "test_lightning.py::test_killed_run"),
    "models of PRE": ("test_pre.py",),
    "regressions": ("test_pre_table.py", "test_pre_published.py"),
    # What loads transformers, which takes seconds.
    "Hugging Face": (
        *("test_adapters.py", "test_huggingface", "huggingface.md]"),
        "test_examples.py::test_an_example_prints_what_the_gallery_shows[huggingface]",
        "test_documentation.py::test_the_code_of_a_page_runs[README.md]",
        "test_docstring_examples.py::test_the_example_runs[EnergyCallback]",
    ),
    "hostile files": ("test_untrusted.py",),
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: by these groups, and all other tests one by one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            for group, names in _TOGETHER.items():
                if any(f"/{name}" in nodeid for name in names):
                    return group
            return nodeid

    return ByGroups(config, log)


class _Module(pytest.Module):
    """A module of tests; one that needs torch, or what comes with it, is skipped without them."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        try:
            return super().collect()
        except self.CollectError as error:
            cause = error.__cause__
            if _is_lack_of_torch(cause):
                pytest.skip(str(cause), allow_module_level=True)
            raise


def _is_lack_of_torch(error: BaseException | None) -> bool:
    """Whether torch is not installed, and a test asked for it: the package may do so nowhere."""
    if not isinstance(error, ImportError) or find_spec("torch") is not None:
        return False
    if isinstance(error, MissingDependencyError):  # the package says itself what to install
        return True
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    importer = next(Path(name) for name in reversed(frames) if not name.startswith("<frozen"))
    is_ours = importer.is_relative_to(Path(energyest.__file__).parent)
    return (error.name or "").split(".")[0] in WITH_TORCH and not is_ours


@contextlib.contextmanager
def skipped_without_torch() -> Iterator[None]:
    """Skip the test that runs within, if it needs torch, or what comes with it, which is absent."""
    try:
        yield
    except ImportError as error:
        if _is_lack_of_torch(error):
            pytest.skip(str(error))
        raise


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
    return _Module.from_parent(parent, path=module_path)


@pytest.fixture(autouse=True)
def _takes_its_threads_with_it() -> Iterator[None]:
    """Report a test that leaves a run behind, as a failing one may, and not the next test."""
    before = own_threads()
    yield
    left = end_those_since(before)
    if left:
        pytest.fail(f"left behind: {', '.join(left)}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def _patient() -> None:
    """Do not mistake a busy machine for a hanging driver or disk; tests of these wait for less."""
    driver.PATIENCE_S = writer.PATIENCE_S = 60.0


@pytest.fixture
def clock() -> Iterator[Clock]:
    """A simulated clock: runs that are recorded go by it, and have no threads."""
    clock = Clock()
    with without_threads(clock):
        yield clock


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated NVML, compiled once."""
    if not compiler_available():
        pytest.skip("the simulated NVML needs Linux and a C compiler (cc, gcc or clang)")
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def forks(request: pytest.FixtureRequest) -> Iterator[Forks]:
    """Starts processes that have already imported torch, with the simulated NVML."""
    found = dict(os.environ)
    if compiler_available():
        found = environment(request.getfixturevalue("nvml_library"))
    with contextlib.closing(Forks(found)) as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _no_real_gpu(request: pytest.FixtureRequest) -> None:
    """The simulated NVML takes the place of a real one, which could not be replaced later."""
    if compiler_available():
        FakeNvml(request.getfixturevalue("nvml_library")).remove()


@pytest.fixture
def nvml(nvml_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    """A simulated driver with two idle GPUs, both visible; gone again after the test."""
    # What the machine that runs the tests leaves visible is not for these GPUs.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake = FakeNvml(nvml_library)
    yield fake
    fake.remove()


@pytest.fixture
def nvml_clock(nvml: FakeNvml) -> Iterator[NvmlClock]:
    """The simulated driver, and runs recorded with it, on one simulated clock."""
    clock = NvmlClock(nvml)
    with without_threads(clock):
        yield clock


@pytest.fixture(params=["pytorch_lightning", "lightning.pytorch"])
def pl(request: pytest.FixtureRequest) -> ModuleType:
    """Either of the two namespaces, whose classes do not mix."""
    return importlib.import_module(request.param)
