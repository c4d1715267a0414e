"""Signal handlers that call the monitor back, or raise, wherever in its work they come."""

from __future__ import annotations

import itertools
import linecache
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest
import torch

from energyest import EnergyMonitor, EnergyTrace, track
from energyest.estimate import Estimate
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.signals import SharedLock, raised_by_handler, uninterrupted
from energyest.tracking import live_projection
from energyest.tracking.guard import never_raises
from tests.support.sensors import Constant
from tests.support.source import PACKAGE
from tests.support.trainers import (
    BATCHES,
    NETS,
    SAMPLES,
    both_namespaces,
    both_namespaces_if_long,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
)

pytestmark = lightning_warns


class TimeIsUpError(Exception):
    """The error that a user's handler raises."""


@contextmanager
def handled(handler: Any) -> Iterator[None]:
    """SIGUSR1 goes to a handler."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@contextmanager
def signals_at(chosen: Callable[[int], bool]) -> Iterator[list[str]]:
    """Send SIGUSR1 at lines of the package that the main thread reaches.

    Args:
        chosen: at which of these lines, counted from 0.

    Yields:
        Where it was sent, as `file:line`.
    """
    count, places, package = 0, [], str(PACKAGE) + os.sep
    within: set[tuple[FrameType, int]] = set()

    def is_exit(frame: FrameType) -> bool:
        """Whether a `with` is about to be left: Python runs no handler until it is."""
        place = frame, frame.f_lineno
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if not line.lstrip().startswith("with "):
            return False
        within.symmetric_difference_update([place])
        return place not in within

    def at_line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "line" and not is_exit(frame):
            count += 1
            if chosen(count - 1):
                places.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
                signal.raise_signal(signal.SIGUSR1)
        return at_line

    def at_call(frame: FrameType, *_: Any) -> Any:
        return at_line if frame.f_code.co_filename.startswith(package) else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield places
    finally:
        sys.settrace(before)


def check_account(state: RunCheckpoint, steps: int, epoch_steps: int, slack: int = 0) -> None:
    """A checkpoint states exactly what was done, and each row has everything that belongs to it."""
    assert list(state.columns.get("steps", [])) == [epoch_steps] * len(state)
    in_all = epoch_steps * len(state) + state.open_steps
    assert steps - slack <= in_all <= steps
    ends = list(state.columns.get("end_s", []))
    assert list(state.columns.get("start_s", []))[1:] == ends[:-1]
    spent_J = sum(state.columns.get("energy_J", [])) + state.open_row.get("energy_J", 0.0)
    total_J = state.total["energy_J"]
    # Before the first reading, nothing is known.
    assert spent_J <= total_J * (1 + 1e-9) or (math.isnan(total_J) and spent_J == 0)


# ------------------------------------------------------------------ called back


@pytest.mark.parametrize("in_memory", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_handler_may_ask_for_anything_at_any_line(in_memory: bool, tmp_path: Path) -> None:
    states: list[RunCheckpoint] = []
    projections: list[Estimate | None] = []
    totals: list[float] = []
    steps = 0
    run = track(None if in_memory else tmp_path / "e", epochs=12, sensors=[Constant(100)])

    def ask(*_: Any) -> None:
        state = RunCheckpoint.from_state_dict(run.state_dict())
        check_account(state, steps, 5, slack=5)
        assert len(run.trace) in (len(state), len(state) + 1)
        states.append(state)
        projections.append(run.projection)
        totals.append(run.total_J)

    with handled(ask), signals_at(lambda line: line % 5 == 0) as places, run:
        for _ in range(12):
            run.start_epoch(continues=True)
            for _ in range(5):
                steps += 1
            run.end_epoch(steps=5)
            _ = run.projection, run.total_J, run.trace
    assert len(states) > 300
    assert {place.partition(":")[0] for place in places} >= {"recorder.py", "run_account.py"}
    # What was known once is not forgotten in the middle of something.
    assert [len(s) for s in states] == sorted(len(s) for s in states)
    assert any(projection is not None for projection in projections)
    known_J = [*itertools.dropwhile(math.isnan, totals)]
    assert known_J == sorted(known_J) != []


def test_a_projection_is_the_last_while_another_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate_step = live_projection.estimate_step
    seen: list[Estimate | None] = []
    made: list[Estimate] = []

    def interrupted(trace: EnergyTrace, **options: Any) -> Estimate:
        seen.append(run.projection)
        made.append(estimate_step(EnergyTrace.from_epochs(energy_J=[1 + len(made)] * 5), epochs=9))
        return made[-1]

    monkeypatch.setattr(live_projection, "estimate_step", interrupted)
    with track(epochs=3, sensors=[Constant(100)]) as run:
        for _ in run.epochs(3):
            assert run.projection is made[-1]
    assert len(made) >= 3
    assert seen == [None, *made[:-1]]


def test_a_handler_that_takes_long_costs_no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the account is in use, the sampler goes on, and its readings are booked later."""
    sensor = Constant(100)
    with track(sensors=[sensor], interval_s=0.01) as run:
        recorder = run._session._recorder
        run.start_epoch()
        with recorder._lock:  # here a handler comes, and saves a large checkpoint
            before = sensor.reads
            while sensor.reads < before + 8:
                threading.Event().wait(0.01)
        row = run.end_epoch()
    assert row["energy_J"] == pytest.approx(100 * row["duration_s"])
    assert len(run.trace.power_columns["time_s"]) >= 8


@both_namespaces_if_long
@pytest.mark.parametrize("every", [None, pytest.param(3, marks=pytest.mark.long)])
def test_a_checkpoint_at_any_line_of_the_monitor(
    pl: ModuleType, every: int | None, tmp_path: Path
) -> None:
    """As Lightning's requeueing on SLURM makes one, in its handler."""
    monitor = monitor_of(tmp_path / "energy", every_n_steps=every, count_flops=False)
    trainer: Any = make_trainer(pl, tmp_path, monitor, max_epochs=4)
    net = NETS[pl]()
    seen = 0

    def requeue(*_: Any) -> None:
        nonlocal seen
        checkpoint: dict[str, Any] = {}
        monitor.on_save_checkpoint(trainer, net, checkpoint)
        _ = monitor.total_J, monitor.projection, monitor.trace
        for position in checkpoint.get("energyest", {}).values():
            state = RunCheckpoint.from_state_dict(position["run"])
            done = trainer.fit_loop.epoch_loop.batch_progress.total.processed
            # The monitor learns of a batch a moment after the Trainer.
            if every is None:
                check_account(state, done, BATCHES, slack=1)
            else:
                assert done - 1 <= state.steps + state.open_steps <= done
            seen += 1

    with handled(requeue), signals_at(lambda line: line % 5 == 0):
        trainer.fit(net, loader())
    assert seen > 100
    assert monitor.trace.column("steps").sum() == 4 * BATCHES
    assert monitor.trace.column("samples").sum() == 4 * SAMPLES
    assert not vars(monitor).get("_reported_errors")


# ------------------------------------------------------------------ that raise


def test_what_a_handler_raises_at_any_line_reaches_the_loop() -> None:
    def raise_it(*_: Any) -> None:
        raise TimeIsUpError

    raised = line_of_signal = 0
    with track(epochs=1000, sensors=[Constant(100)]) as run, handled(raise_it):
        while True:
            at = line_of_signal
            with signals_at(lambda line, at=at: line == at) as places:
                try:
                    run.start_epoch(continues=True)
                    run.end_epoch(steps=5, val_acc=0.5)
                    _ = run.total_J
                except TimeIsUpError:
                    raised += 1
                else:
                    assert not places, "swallowed"  # the cycle has no such line any more
                    break
            line_of_signal += 1
        assert raised > 50
        # The account is still correct.
        before = len(run.trace)
        run.start_epoch()
        row = run.end_epoch(steps=7)
        assert row["steps"] == 7
        assert len(run.trace) == before + 1
        assert (run.trace.column("steps")[:-1] == 5).all()
    assert run.trace.meta["status"] == "finished"
    assert run.trace.total_J == pytest.approx(100 * run.trace.meta["duration_s"])


def test_what_a_handler_raises_in_a_projection() -> None:
    def raise_it(*_: Any) -> None:
        raise TimeIsUpError

    with track(epochs=100, sensors=[Constant(100)]) as run, handled(raise_it):
        for _ in range(5):
            run.start_epoch(continues=True)
            run.end_epoch()
        for line in (3, 30, 100, 300):
            run.planned_epochs = 100 + line  # so that it is computed again
            with signals_at(lambda count, line=line: count == line), pytest.raises(TimeIsUpError):
                _ = run.projection
        # The one after it is as if there had been no signal.
        estimate = run.projection
        assert estimate is None or estimate.energy_J > 0
        assert not run._session._projector._is_busy


@both_namespaces
@pytest.mark.parametrize("kind", [TimeIsUpError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("line", [3, 40, 160, 400])
def test_what_a_handler_raises_ends_the_training(
    pl: ModuleType, line: int, kind: type[BaseException], tmp_path: Path
) -> None:
    def raise_it(*_: Any) -> None:
        raise kind

    monitor = monitor_of(tmp_path / "energy")
    trainer: Any = make_trainer(pl, tmp_path, monitor, max_epochs=3)
    # Lightning itself ends the process at Ctrl-C, as a shell would.
    expected = SystemExit if kind is KeyboardInterrupt else kind
    with handled(raise_it), signals_at(lambda count: count == line) as places:
        with pytest.raises(expected):
            trainer.fit(NETS[pl](), loader())
        assert len(places) == 1
    if monitor._session is not None:
        assert monitor.trace.meta["status"].startswith("interrupted")


def raise_time_is_up() -> None:
    raise TimeIsUpError


class OfAClass:
    def __call__(self, number: int, frame: FrameType | None) -> None:
        raise_time_is_up()

    def method(self, number: int, frame: FrameType | None) -> None:
        raise_time_is_up()


def once(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)  # it is not registered any more
    raise_time_is_up()


def forgets(*arguments: Any) -> None:
    del arguments
    raise_time_is_up()


@pytest.mark.parametrize(
    "handler",
    [
        OfAClass(),
        OfAClass().method,
        once,
        forgets,
        partial(lambda text, number, frame: raise_time_is_up(), "text"),
        lambda *_: raise_time_is_up(),
    ],
    ids=["object", "method", "once", "forgets", "partial", "lambda"],
)
def test_handlers_of_any_kind_are_known(handler: Any) -> None:
    class Owner:
        @never_raises
        def work(self) -> None:
            signal.raise_signal(signal.SIGUSR1)

    with handled(handler), pytest.raises(TimeIsUpError):
        Owner().work()


def test_errors_of_ones_own_are_held_back(caplog: pytest.LogCaptureFixture) -> None:
    class Owner:
        @never_raises
        def work(self) -> None:
            raise_time_is_up()

    with handled(lambda *_: None):
        Owner().work()
    assert "Owner.work failed" in caplog.text


def test_an_error_without_a_handler_is_none_of_one() -> None:
    assert not raised_by_handler(ValueError("made, never raised"))
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / 0
    assert not raised_by_handler(caught.value)


# ------------------------------------------------------------------ what is not to be interrupted


def test_an_action_is_done_though_a_handler_raises() -> None:
    goes_on, done = threading.Event(), threading.Event()

    def act() -> None:
        goes_on.wait(60)
        done.set()

    def handler(*_: Any) -> None:
        goes_on.set()
        raise TimeIsUpError

    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    with handled(handler), pytest.raises(TimeIsUpError):
        uninterrupted(act, to_the_end=True)
    assert done.is_set()


def test_an_action_within_its_own_lock() -> None:
    lock = SharedLock()

    def act() -> threading.Thread:
        with lock:
            return threading.current_thread()

    assert uninterrupted(act, lock=lock) is not threading.main_thread()
    assert not lock.locked()
    with lock:  # as if a handler had come in between
        assert uninterrupted(act, lock=lock) is threading.main_thread()
        assert lock.locked()
        assert uninterrupted(lock.locked)  # as another thread sees it
        assert not uninterrupted(lambda: lock.is_held)
    assert not lock.locked()


def test_what_an_action_raises_is_raised() -> None:
    with pytest.raises(TimeIsUpError):
        uninterrupted(raise_time_is_up)
    assert math.isnan(uninterrupted(lambda: math.nan))


def test_a_plain_monitor_asks_no_signal(tmp_path: Path) -> None:
    """It registers no handler: they are the user's."""
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    monitor = EnergyMonitor(tmp_path / "energy", sensors=[Constant(1)])
    with torch.random.fork_rng():
        import pytorch_lightning as pl

        make_trainer(pl, tmp_path, monitor, max_epochs=1).fit(NETS[pl](), loader())
    assert before == {number: signal.getsignal(number) for number in signal.valid_signals()}
