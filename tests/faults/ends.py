"""The process and its clock: kills, exits, forks, memory, and a clock that is set back."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from energyest import load_trace, track
from energyest.tracking.run import Run
from energyest.tracking.session import Session
from simulation.busy import all_waited_s
from simulation.scene import Scene
from tests.faults import (
    Outcome,
    all_epochs_recorded,
    case,
    ends_as_it_would,
    fact,
    goes_on,
    loses_at_most,
    nothing_missing,
    quiet,
    relative,
    status,
    within,
)
from tests.faults.training import (
    WATTS,
    draw_exactly,
    exit_status_of,
    in_a_fork,
    of_trace,
    train,
)

OWN_EXIT = "ends with its own exit status"
CUT = "interrupted by the end of the process"
RATE = "energyest.measure.reading_table.ROWS_PER_RATE"


def cut_off(
    scene: Scene,
    folder: Path,
    expected_exit: int,
    end: Callable[[Run], object],
    from_outside: Callable[[int], object] | None = None,
    *,
    after_s: float = 4.3,
) -> Outcome:
    """Train in a process of its own until that is cut off, and see what the trace holds.

    Args:
        scene: the simulated GPUs.
        folder: for the trace.
        expected_exit: how the process has to end, whoever watches it.
        end: called in the training's process in the middle of its third epoch, to end it.
        from_outside: called in this process with the pid of that one, to end it.
        after_s: when: in the third epoch.
    """
    reader, pipe = os.pipe()

    def train_on() -> None:
        # Readings are thinned as they are in a run of weeks: none comes to the disk in this one.
        with mock.patch(RATE, 1):
            draw_exactly(scene)
            run = track(folder / "energy", gpus=[0], components=["gpu"])
            before_s = time.monotonic()
            run.start()
            os.write(pipe, f"{before_s} {time.monotonic()}\n".encode())
            for epoch in range(3):
                busy_s = all_waited_s()
                run.start_epoch(epoch, continues=epoch > 0)
                time.sleep(1 if epoch < 2 else after_s - 2)
                if epoch < 2:
                    run.end_epoch()
            os.write(pipe, f"{time.monotonic()} {all_waited_s() - busy_s}\n".encode())
            end(run)

    pid = in_a_fork(train_on)
    os.close(pipe)
    with os.fdopen(reader) as lines:
        before_s, began_s = map(float, lines.readline().split())
        ended_s, busy_s = map(float, lines.readline().split())
        if from_outside is not None:
            from_outside(pid)
    outcome_status = exit_status_of(pid)
    over_s = time.monotonic()
    trace = load_trace(folder / "energy")
    outcome = of_trace(trace)
    outcome.exit_status, outcome.expected_exit = outcome_status, expected_exit
    outcome.epochs, outcome.busy_s = 2, round(busy_s, 3)
    outcome.lost_s = round(ended_s - began_s - trace.total_J / WATTS, 3)
    outcome.surplus_s = round(trace.total_J / WATTS - (over_s - before_s), 3)
    cut = trace.meta.get("interrupted_epoch", {})
    outcome.facts["interrupted epoch"] = cut.get("epoch")
    outcome.facts["readings on disk"] = len(trace.power)
    outcome.error_percent = relative(
        trace.total_J, WATTS * float(trace.meta.get("duration_s", float("nan")))
    )
    return outcome


def sleep_for_ever(run: Run) -> None:
    time.sleep(60)


def killed(name: str, fault: str, signal_number: int) -> None:
    def provoke(scene: Scene, folder: Path) -> Outcome:
        return cut_off(
            scene, folder, -signal_number, sleep_for_ever, lambda pid: os.kill(pid, signal_number)
        )

    provoke.__name__ = name
    case(
        fault,
        OWN_EXIT,
        "contains all but the last second, the current epoch included",
        ends_as_it_would,
        all_epochs_recorded,
        within(1),
        loses_at_most(1.05),
        status("running"),
        fact("interrupted epoch", 2),
        nothing_missing,
        quiet,
    )(provoke)


killed(
    "sigkill",
    "SIGKILL, as by the kernel when memory is exhausted, in a run so long that its readings are "
    "merged",
    signal.SIGKILL,
)
killed("sigterm", "SIGTERM without a handler", signal.SIGTERM)


@case(
    "`os._exit(4)`",
    OWN_EXIT,
    "contains all but the last second",
    ends_as_it_would,
    all_epochs_recorded,
    within(1),
    loses_at_most(1.05),
    status("running"),
    fact("interrupted epoch", 2),
)
def abrupt_exit(scene: Scene, folder: Path) -> Outcome:
    return cut_off(scene, folder, 4, lambda run: os._exit(4))


def closed_at_exit(name: str, fault: str, exit_status: int, end: Callable[[Run], object]) -> None:
    def provoke(scene: Scene, folder: Path) -> Outcome:
        with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            return cut_off(scene, folder, exit_status, end)

    provoke.__name__ = name
    case(
        fault,
        OWN_EXIT,
        f'is complete; status "{CUT}"',
        ends_as_it_would,
        all_epochs_recorded,
        within(1),
        loses_at_most(0.05),
        status(CUT),
        fact("interrupted epoch", 2),
        nothing_missing,
        quiet,
    )(provoke)


def raise_error(run: Run) -> None:
    raise ValueError("of the training")


closed_at_exit(
    "exit_with_the_thread_alive",
    "`sys.exit(3)` without ending the run",
    3,
    lambda run: sys.exit(3),
)
closed_at_exit("error_with_the_thread_alive", "an uncaught error", 1, raise_error)


def run_out_of_memory(run: Run) -> None:
    """Take what the limit leaves, and more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
    taken = []
    try:
        while True:
            taken.append(bytearray(2**20))
    except MemoryError as error:
        # As in a training that fails: what it took is still held while the run is ended.
        run.stop(f"interrupted by {type(error).__name__}")
        raise


@case(
    "memory is exhausted: a MemoryError in the training",
    OWN_EXIT,
    'is complete; status "interrupted by MemoryError"',
    ends_as_it_would,
    all_epochs_recorded,
    within(1),
    status("interrupted by MemoryError"),
    fact("interrupted epoch", 2),
    nothing_missing,
)
def out_of_memory(scene: Scene, folder: Path) -> Outcome:
    return cut_off(scene, folder, 1, run_out_of_memory)


@case(
    "the training forks, and the child continues as if the run were its own",
    "continues, and so does the child: a lock that the monitor holds at the fork delays neither",
    "belongs to the parent alone",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    quiet,
    fact("exit status of the children", [0, 0, 0, 7]),
)
def forks(scene: Scene, folder: Path) -> Outcome:
    statuses: list[int] = []
    sessions: list[Session] = []
    enter = Session.start

    def start(session: Session) -> None:
        sessions.append(session)
        enter(session)

    def in_the_child() -> None:
        (session,) = sessions
        session.log(loss=1.0)
        session.end_row()
        session.start_row()
        _ = session.total_J, session.trace, session.projection
        session.stop()

    def fork() -> None:
        lock = sessions[0]._recorder._lock
        # A fork while the sampler's thread holds the lock, and others when it comes.
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                held.set()
                release.wait(10)

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        pids = [in_a_fork(in_the_child)]
        release.set()
        holder.join()
        pids += [in_a_fork(in_the_child) for _ in range(2)]
        pids.append(in_a_fork(lambda: sys.exit(7)))
        signal.alarm(600)  # a child that hangs fails this case
        statuses.extend(exit_status_of(pid) for pid in pids)
        signal.alarm(0)

    with mock.patch.object(Session, "start", start):
        outcome = train(scene, folder / "energy", at={1: fork})
    outcome.facts["exit status of the children"] = statuses
    return outcome


@case(
    "two runs at once in one process",
    "continues, is not delayed",
    "each is complete, in a folder of its own",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    quiet,
    fact("error of the other run is below 1 %", True),
)
def two_runs(scene: Scene, folder: Path) -> Outcome:
    draw_exactly(scene)
    with track(folder / "energy", gpus=[0], components=["gpu"]) as other:
        outcome = train(scene, folder / "energy")
    assert other.folder == folder / "energy"
    trace = load_trace(folder / "energy")
    error = relative(trace.total_J, WATTS * trace.meta["duration_s"])
    outcome.facts["error of the other run is below 1 %"] = error is not None and abs(error) < 1
    return outcome


@case(
    "the clock is set back by an hour, and then ahead by a day",
    "continues, is not delayed",
    "nothing is missing, no time is negative",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    quiet,
    fact("times of the readings rise", True),
)
def clock_is_set(scene: Scene, folder: Path) -> Outcome:
    shift_s = [0.0]
    clock, clock_ns = time.time, time.time_ns

    def now() -> float:
        return clock() + shift_s[0]

    def now_ns() -> int:
        return clock_ns() + int(shift_s[0] * 1e9)

    def set_to(seconds: float) -> None:
        shift_s[0] = seconds

    with (
        mock.patch("time.time", now),
        mock.patch("time.time_ns", now_ns),
    ):
        at = {1: lambda: set_to(-3600), 2: lambda: set_to(86400)}
        outcome = train(scene, folder / "energy", at=at)
    times = load_trace(folder / "energy").power_columns["time_s"]
    outcome.facts["times of the readings rise"] = bool((times[1:] > times[:-1]).all())
    return outcome
