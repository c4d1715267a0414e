"""Sessions: `python -m nox -s demo`, `tests`, `lint`; more with `python -m nox --list`.

Tests that take minutes are not part of `tests`: `python -m nox -s tests_long` runs them.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import nox
from nox.command import CommandFailed
from packaging.requirements import Requirement

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True

# Installed first and by itself, so that no other requirement picks a larger or newer build.
TORCH = "torch==2.13.0"
# The libraries of the popular scripts.
POPULAR = ("peft>=0.12", "trl>=0.20", "timm>=1.0", "keras>=3.5", "ultralytics>=8.3")
# Those of the sweeps over many GPUs.
SWEEPS = ("optuna>=4", "submitit>=1.5", "ray>=2.40")
# One process for each processor, but no more than there is work for.
SPREAD = ("-n", "logical", "--maxprocesses", "4")
LOWEST = re.compile(r"([\w-]+)>=([\w.]+)")


def install(session: nox.Session, extras: str) -> None:
    session.install(TORCH)
    session.install("-e", f".[{extras}]")


@nox.session
def demo(session: nox.Session) -> None:
    """Train a small network on real data, project its energy halfway, and compare."""
    install(session, "plot")
    session.run("python", "examples/digits.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite: on a CPU, without external data, in under six minutes."""
    install(session, "dev")
    session.run("python", "-m", "pytest", *SPREAD, *session.posargs)


@nox.session
def tests_extras(session: nox.Session) -> None:
    """Tests beside optional packages and popular libraries, which are slow to load.

    Those of the dashboard ask a Prometheus server, if the program `prometheus` is installed.
    """
    install(session, "dev,fluss")
    # Torch once more, so that the torchvision that some of them need is the one for it.
    session.install(
        *(TORCH, "torchvision", *POPULAR),
        *("mlflow-skinny>=3", "trackio>=0.2", "wandb>=0.19", "duckdb>=1"),
        *SWEEPS,
    )
    session.run("python", "-m", "pytest", "tests/extras", *session.posargs)


@nox.session
def tests_without_torch(session: nox.Session) -> None:
    """The tests that apply on a machine without torch and Lightning, an analyst's or JAX user's."""
    absent = ("torch", "pytorch_lightning", "lightning", "fvcore", "transformers")
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["tradeoff"], *extras["dev"], "jax"]
    left_out = {"energyest", *(name.replace("_", "-") for name in absent)}
    session.install(*(w for w in wanted if Requirement(w).name not in left_out))
    session.install("--no-deps", "-e", ".")
    found = f"[name for name in {absent} if importlib.util.find_spec(name)]"
    session.run("python", "-c", f"import importlib.util, sys; sys.exit({found} or None)")
    session.run("python", "-m", "pytest", *SPREAD, *session.posargs)


@nox.session
def tests_browser(session: nox.Session) -> None:
    """The report in a real browser: Chromium, which has to be installed."""
    install(session, "dev")
    session.run("python", "-m", "pytest", "tests/browser", *session.posargs)


@nox.session
def tests_long(session: nox.Session) -> None:
    """Run tests that take minutes: trainings in several processes, and tests marked `long`."""
    install(session, "dev")
    session.run("python", "-m", "pytest", "-m", "", "tests/long", *SPREAD, *session.posargs)
    session.run("python", "-m", "pytest", "-m", "long", "tests", *SPREAD, *session.posargs)


@nox.session
def tests_lowest(session: nox.Session) -> None:
    """The tests with the oldest versions of the requirements that pyproject.toml allows.

    Run it with the oldest Python, too: in an environment of Python 3.10 that has nox.
    """
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = project["optional-dependencies"]
    tested = next(r for r in map(Requirement, extras["dev"]) if r.name == "energyest").extras
    wanted = [*project["dependencies"], *(w for name in sorted(tested) for w in extras[name])]
    # Of the tests' own requirements, only the other namespace of Lightning, and pyarrow, whose
    # newest needs a newer numpy.
    wanted += [w for w in extras["dev"] if w.startswith(("lightning", "pyarrow"))]
    lowest = {f"{found[1]}=={found[2]}" for w in wanted if (found := LOWEST.match(w))}
    assert len(lowest) == len({Requirement(w).name for w in wanted})
    session.install(*sorted(lowest), "-e", ".[dev]")
    session.run("python", "-m", "pytest", *SPREAD, *session.posargs)


@nox.session
def tests_sdist(session: nox.Session) -> None:
    """The tests as they come with the source distribution, beside the wheel that is made of it."""
    session.install(TORCH, "build", "twine")
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)  # of what an earlier run has left
    session.run("python", "-m", "build", "--outdir", str(folder), ".")
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    session.run("python", "-m", "twine", "check", "--strict", str(wheel), str(sdist))
    session.install(f"{wheel}[dev]")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    session.chdir(folder / sdist.name.removesuffix(".tar.gz"))
    # What is tested is the wheel, and not the package that lies beside the tests.
    shutil.rmtree("energyest")
    session.run("python", "-m", "pytest", *SPREAD, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style (ruff), types (mypy --strict on the package), spelling (codespell), prose (Harper)."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("codespell")
    session.run("python", "-m", "prose.check")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, in site/; a warning or a broken link fails it."""
    install(session, "docs")
    # A notice of the theme's authors about the future of MkDocs.
    environment = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("python", "-m", "mkdocs", "build", "--strict", env=environment)


@nox.session
def gallery(session: nox.Session) -> None:
    """Run the examples again, and store what they print for the gallery of the documentation."""
    install(session, "dev")
    session.install("jax", *SWEEPS)
    session.run("python", "docs/gallery.py", *session.posargs)
    if not session.posargs:
        session.run("python", "docs/gallery.py", "scale_out")
    # After the others: a torchvision for another torch would stop Lightning.
    session.install(TORCH, "torchvision", *POPULAR)
    if not session.posargs:
        session.run("python", "docs/gallery.py", "popular")


@nox.session
def notebook(session: nox.Session) -> None:
    """Run the notebook of the trade-off analysis again, with its plots."""
    install(session, "tradeoff")
    session.install("nbconvert>=7", "ipykernel>=6")
    session.run(
        *("python", "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"),
        "examples/tradeoff.ipynb",
    )


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure speed, and accuracy on real trainings; needs the data in benchmarks/README.md.

    Each benchmark exits with 1 if it misses a goal, and with 2 if it lacks data. The others still
    run; at the end, the session fails and names those that lacked something.
    """
    install(session, "benchmarks,tradeoff")
    lacking = []
    for name in (
        *("cost", "many_runs", "known_delays"),
        *("step_speed", "step_calibration", "step_accuracy", "step_families", "early_stopping"),
        *(
            "pre_accuracy",
            "pre_unseen",
            "pre_lookups",
            "pre_published",
            "power_limits",
            "advise_accuracy",
            "compare_runs",
        ),
        *("tradeoff_delrey", "tradeoff_errors"),
    ):
        try:
            session.run("python", "-m", f"benchmarks.evidence.{name}", success_codes=[0, 1])
        except CommandFailed:
            lacking.append(name)
    if lacking:
        session.error(f"not run, for lack of what they say above: {', '.join(lacking)}")
