"""What can go wrong beside a training, and what then becomes of the training and of its trace.

A `Case` provokes one fault, in a process of its own, and returns what came of it; what has to come
of it is said in its checks. `tests/test_faults.py` runs all cases, and `python -m tests.faults`
makes docs/explanation/reliability.md from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.forks import LIGHTNING, Forks

if TYPE_CHECKING:
    from simulation.scene import Scene

# Where the cases are, in the order of the page, and the heading of each.
PARTS = {
    "start": "The start of a run",
    "readings": "GPUs and their driver",
    "disk": "The disk",
    "ends": "The process and its clock",
    "trainer": "Lightning",
}
WITH_LIGHTNING = ("trainer",)
# A training is held up by a call of the monitor that takes longer.
LONGEST_CALL_S = 0.5


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        exit_status: of the training's process, -9 for SIGKILL; None if it had none of its own.
        expected_exit: what the training exits with if nobody watches it.
        epochs: that the training made, and `planned`.
        recorded: rows of epochs in the trace on disk.
        error_percent: energy of the run against the truth; None if the trace has none.
        epoch_errors: the same for each row.
        missing_s: device -> seconds that the trace says were not measured.
        failed: device -> readings that failed.
        device_errors: device -> error of its energy in per cent; None as above.
        lost_s: seconds at the end that the trace knows nothing of.
        surplus_s: seconds that it knows of and that there were not, or less than 0.
        slowest_s: longest time that a call of the monitor held up the training, without that in
            which others were busy; None by a simulated clock.
        busy_s: time that the threads of a process that was cut off had to wait for others that were
            busy, in its last epoch.
        status: in the trace's meta.
        warnings: of the logger `energyest`.
        facts: anything else that the checks of one case need.
    """

    exit_status: int | None = None
    expected_exit: int = 0
    epochs: int = 0
    planned: int = 0
    recorded: int = 0
    error_percent: float | None = None
    epoch_errors: list[float | None] = field(default_factory=list)
    missing_s: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    device_errors: dict[str, float | None] = field(default_factory=dict)
    lost_s: float | None = None
    surplus_s: float = 0.0
    slowest_s: float | None = None
    busy_s: float = 0.0
    status: str = ""
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)


Check = Callable[[Outcome], None]
# With simulated GPUs, in a folder that is empty.
Provoke = Callable[["Scene", Path], Outcome]


@dataclass(frozen=True)
class Case:
    """A fault.

    Attributes:
        name: as an identifier.
        part: the module that it is in.
        fault: what happens.
        training: what the training does.
        trace: what its trace says.
        provoke: lets it happen, in a folder that is empty, and returns what came of it.
        checks: each raises AssertionError unless the outcome is as it has to be.
        with_others: whether it may run in one process with others of its part, one after the other.
        simulated: whether it goes by a simulated clock, as nothing in it hangs; and with others.
    """

    name: str
    part: str
    fault: str
    training: str
    trace: str
    provoke: Provoke
    checks: tuple[Check, ...]
    with_others: bool
    simulated: bool


CASES: dict[str, Case] = {}


def case(
    fault: str,
    training: str,
    trace: str,
    *checks: Check,
    with_others: bool = False,
    simulated: bool = False,
) -> Callable[[Provoke], Provoke]:
    """Register the function that it decorates; see `Case`."""

    def register(provoke: Provoke) -> Provoke:
        name, part = provoke.__name__, provoke.__module__.rpartition(".")[2]
        CASES[name] = Case(
            name, part, fault, training, trace, provoke, checks, with_others, simulated
        )
        return provoke

    return register


def load_cases() -> dict[str, Case]:
    """All cases."""
    for part in PARTS:
        import_module(f"tests.faults.{part}")
    return CASES


# ---------------------------------------------------------------------- running them


def start_all(
    forks: Forks, names: Sequence[str], library: Path, folder: Path, *, real_time: bool = False
) -> Callable[[str], Outcome]:
    """Run cases at once, as most of them sleep most of the time, each beside a driver of its own.

    Args:
        forks: starts their processes.
        names: of the cases.
        library: the simulated NVML.
        folder: an empty one; each case gets a folder in it.
        real_time: those that go by a simulated clock go by the real one, too.

    Returns:
        What waits for the outcome of a case; it raises RuntimeError if that has none.
    """
    together: dict[str, list[str]] = {}
    for name in names:
        case = CASES[name]
        is_quick = case.simulated and not real_time
        key = case.part if case.with_others or is_quick else name
        together.setdefault(key, []).append(name)
    numbers: dict[str, int] = {}
    for key, group in sorted(together.items(), key=lambda item: item[0] in WITH_LIGHTNING):
        number = forks.start(
            "tests.faults.child:run",
            *(group, str(library), str(folder), real_time),
            folder=folder / f"output of {key}",
            needs=LIGHTNING if CASES[group[0]].part in WITH_LIGHTNING else (),
        )
        numbers |= dict.fromkeys(group, number)

    def outcome_of(name: str) -> Outcome:
        ended, file = forks.wait(numbers[name]), folder / f"{name}.json"
        if not file.exists():
            raise RuntimeError(f"{name} ended with {ended.status}:\n{ended.stderr[-4000:]}")
        return Outcome(**json.loads(file.read_text()))

    return outcome_of


# ---------------------------------------------------------------------- checks


def goes_on(outcome: Outcome) -> None:
    """The training makes all its epochs, ends as it would have, and is not held up."""
    assert outcome.epochs == outcome.planned > 0
    assert outcome.exit_status in (None, outcome.expected_exit)
    assert outcome.slowest_s is None or outcome.slowest_s <= LONGEST_CALL_S


def ends_as_it_would(outcome: Outcome) -> None:
    """The process ends with its own exit status."""
    assert outcome.exit_status == outcome.expected_exit != 0


def all_epochs_recorded(outcome: Outcome) -> None:
    """Every epoch that was made has its row on the disk."""
    assert outcome.recorded == outcome.epochs > 0


def within(percent: float, of_an_epoch: float = 3.0) -> Check:
    """The energy is right: of the run, of each epoch, and of each device.

    Of an epoch of a second, an edge is known to half of 0.1 s × a step of 100 W: 5 J of 350 J on
    either side at the worst.
    """

    def check(outcome: Outcome) -> None:
        assert outcome.error_percent is not None
        assert abs(outcome.error_percent) <= percent
        for error in [*outcome.epoch_errors, *outcome.device_errors.values()]:
            assert error is not None
            assert abs(error) <= of_an_epoch

    return check


def unknown(*epochs: int, percent: float = 3.0) -> Check:
    """These epochs were not measured and have no energy at all; the others are right."""

    def check(outcome: Outcome) -> None:
        for number, error in enumerate(outcome.epoch_errors):
            assert (error is None) == (number in epochs), f"epoch {number}: {error}"
            assert error is None or abs(error) <= percent, f"epoch {number}: {error}"

    return check


def total_unknown(outcome: Outcome) -> None:
    """A run of which a part was not measured has no total."""
    assert outcome.error_percent is None


def total_within(percent: float) -> Check:
    """The energy of the run is right, whatever is known of its epochs."""

    def check(outcome: Outcome) -> None:
        assert outcome.error_percent is not None
        assert abs(outcome.error_percent) <= percent

    return check


def missing(device: str, least_s: float, most_s: float) -> Check:
    """The trace says for how long a device was not measured."""

    def check(outcome: Outcome) -> None:
        assert least_s <= outcome.missing_s[device] <= most_s

    return check


def nothing_missing(outcome: Outcome) -> None:
    """All of the time was measured."""
    assert outcome.missing_s
    assert set(outcome.missing_s.values()) == {0}


def failed_readings(device: str, least: int) -> Check:
    """The trace says that so many readings failed, or more."""

    def check(outcome: Outcome) -> None:
        assert outcome.failed[device] >= least

    return check


def warns(*parts: str) -> Check:
    """As many warnings as there are parts, each of which holds its part."""

    def check(outcome: Outcome) -> None:
        assert len(outcome.warnings) == len(parts), outcome.warnings
        for part, warning in zip(parts, outcome.warnings, strict=True):
            assert part in warning

    return check


quiet = warns()


def status(expected: str) -> Check:
    """How the trace says that the run ended."""

    def check(outcome: Outcome) -> None:
        assert outcome.status == expected

    return check


def loses_at_most(seconds: float) -> Check:
    """The trace lacks no more than the last second, but for the time in which others were busy.

    Nor does it hold more than there was.
    """

    def check(outcome: Outcome) -> None:
        assert outcome.lost_s is not None
        assert outcome.lost_s <= seconds + outcome.busy_s
        assert outcome.surplus_s < 1e-3

    return check


def fact(name: str, expected: object) -> Check:
    """Something that only one case is about."""

    def check(outcome: Outcome) -> None:
        assert outcome.facts[name] == expected, f"{name} is {outcome.facts[name]!r}"

    return check


def relative(measured_J: float, true_J: float) -> float | None:
    """The error in per cent; None where nothing was measured."""
    return None if math.isnan(measured_J) else round(100 * (measured_J / true_J - 1), 3)
