"""Makes `docs/explanation/reliability.md`: `python -m tests.faults`, its output into the file.

Exits with 1 if a case does not do what it has to. Names of cases as arguments run these alone.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from simulation.fake_nvml import build, environment
from tests.faults import CASES, LONGEST_CALL_S, PARTS, Case, Outcome, load_cases, start_all
from tests.support.forks import Forks

HEAD = f"""# Faults

{{made}}

What can go wrong beside a training, what the training does then, and what its trace says. `python
-m tests.faults > docs/explanation/reliability.md` makes this page: it provokes every fault, with
a simulated NVML library in place of the driver, and measures the result. The test suite does the
same (`tests/test_faults.py`), and fails if an outcome differs. In the last column, *error* is the
error of the run's energy against what the simulated GPUs have really drawn, and *missing* what
the trace says was not measured. *Longest call* is how long the monitor delayed the training at
most, and *lost* the time at the end of a run that its trace knows nothing of. Readings that fail
or are wrong use a simulated clock here, on which no call takes long; `tests/long` repeats them in
real time.

In all cases, the training continues, or ends with its own exit status. *Is not delayed* means
that no call of the monitor at the start or end of an epoch takes longer than {LONGEST_CALL_S:g}
s.
"""


def made() -> str:
    """When, and with what."""
    names = ("energyest", "pytorch-lightning", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {versions}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores."
    )


def measured(outcome: Outcome) -> str:
    """The last column."""
    parts = []
    if outcome.exit_status is not None:
        parts.append(f"exit status {outcome.exit_status}")
    if outcome.planned:
        parts.append(f"{outcome.epochs} of {outcome.planned} epochs")
    unknown = sum(error is None for error in outcome.epoch_errors)
    if outcome.error_percent is not None:
        parts.append(f"error {outcome.error_percent:+.2f} %")
    elif unknown:
        parts.append(f"{unknown} of {outcome.recorded} epochs NaN")
    if any(outcome.missing_s.values()):
        parts.append(f"missing {max(outcome.missing_s.values()):.1f} s")
    if any(outcome.failed.values()):
        parts.append(f"failed readings {max(outcome.failed.values())}")
    if outcome.lost_s is not None:
        parts.append(f"lost {max(outcome.lost_s, 0):.2f} s")
    if outcome.slowest_s is not None:
        parts.append(f"longest call {1000 * outcome.slowest_s:.0f} ms")
    parts += [f"{name}: {value}" for name, value in outcome.facts.items()]
    if outcome.warnings:
        parts.append(f"warnings {len(outcome.warnings)}")
    return ", ".join(parts)


def complaint(case: Case, outcome: Outcome) -> str:
    """Why an outcome is not what it has to be; empty if it is."""
    for check in case.checks:
        try:
            check(outcome)
        except AssertionError as error:
            return f"{case.name}: {check.__name__}: {error} {outcome}"
    return ""


def main(*names: str) -> int:
    load_cases()
    complaints = []
    with tempfile.TemporaryDirectory() as folder:
        wanted, library = names or tuple(CASES), build(Path(folder))
        with contextlib.closing(Forks(environment(library))) as forks:
            outcome_of = start_all(forks, wanted, library, Path(folder))
            outcomes = {name: outcome_of(name) for name in wanted}
    print(HEAD.format(made=made()))
    for part, heading in PARTS.items():
        print(f"## {heading}\n\n| fault | the training | the trace | measured |\n|---|---|---|---|")
        for case in CASES.values():
            if case.part == part and case.name in outcomes:
                outcome = outcomes[case.name]
                print(f"| {case.fault} | {case.training} | {case.trace} | {measured(outcome)} |")
                complaints.append(complaint(case, outcome))
        print()
    for text in filter(None, complaints):
        print(text, file=sys.stderr)
    return int(any(complaints))


sys.exit(main(*sys.argv[1:]))
