"""Sessions: `python -m nox -s demo`, `tests`, `lint`; more with `python -m nox --list`.

Tests that take minutes are not part of `tests`: `python -m nox -s tests_long` runs them.
"""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True

# Installed first and by itself, so that no other requirement picks a larger or newer build.
TORCH = "torch==2.13.0"


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
    # One process per CPU, but no more than there is work for.
    spread = ("-n", "logical", "--maxprocesses", "4")
    session.run("python", "-m", "pytest", *spread, *session.posargs)


@nox.session
def tests_extras(session: nox.Session) -> None:
    """Run tests that need optional packages: stumpy, peft and TRL; they are slow to load."""
    install(session, "dev,fluss")
    session.install("peft>=0.12", "trl>=0.20")
    session.run("python", "-m", "pytest", "tests/extras", *session.posargs)


@nox.session
def tests_long(session: nox.Session) -> None:
    """Run tests that take minutes: trainings in several processes, and tests marked `long`."""
    install(session, "dev")
    spread = ("-n", "logical", "--maxprocesses", "4")
    session.run("python", "-m", "pytest", "-m", "", "tests/long", *spread, *session.posargs)
    session.run("python", "-m", "pytest", "-m", "long", "tests", *spread, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style (ruff) and types (mypy --strict on the package)."""
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Generate pages of the public functions, from their docstrings, in docs/api."""
    install(session, "docs")
    session.run("pdoc", "-d", "google", "-o", "docs/api", "energyest", "energyest.estimators")


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
    """Measure speed, and accuracy on real trainings; needs the data in benchmarks/README.md."""
    install(session, "benchmarks,tradeoff")
    # Each exits with 1 if it misses a goal; the others still run.
    for name in (
        "cost",
        "step_speed",
        "step_calibration",
        "step_accuracy",
        "pre_accuracy",
        "advise_accuracy",
        "tradeoff_delrey",
        "tradeoff_errors",
        "compare_runs",
    ):
        session.run("python", "-m", f"benchmarks.evidence.{name}", success_codes=[0, 1])
