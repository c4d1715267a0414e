"""`track()`: any training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from energyest import estimate_step, load_trace, track
from energyest.errors import ConfigurationError
from energyest.tracking.run import Run
from simulation.stepped import Clock, without_threads
from tests.support.sensors import Constant, Failing
from tests.support.threads import is_within, own_threads

EPOCH_S = 0.06


def test_loop(tmp_path: Path) -> None:
    with track(tmp_path / "energy", sensors=[Constant(200)]) as run:
        for epoch in run.epochs(6):
            time.sleep(EPOCH_S)
            with run.validation():
                time.sleep(EPOCH_S / 2)
            run.log(val_acc=epoch / 10, samples=100)
    trace = run.trace
    assert list(trace.column("epoch")) == list(range(6))
    assert np.allclose(trace.column("val_acc"), np.arange(6) / 10)
    assert (trace.column("samples") == 100).all()
    assert (trace.column("validation_s") >= EPOCH_S / 2).all()
    assert (trace.column("validation_s") < trace.column("duration_s")).all()
    assert np.allclose(trace.column("energy_J"), 200 * trace.column("duration_s"))
    assert trace.total_J == pytest.approx(200 * trace.meta["duration_s"])
    assert trace.column("energy_J").sum() <= trace.total_J * (1 + 1e-9)
    assert len(load_trace(tmp_path / "energy")) == 6
    assert run.projection is not None
    assert run.projection.energy_J == pytest.approx(trace.column("energy_J").sum())


def test_projection_while_running() -> None:
    with track(sensors=[Constant(200)]) as run:
        for epoch in run.epochs(50):
            time.sleep(EPOCH_S)
            if epoch == 0:
                assert run.projection is None
            if epoch == 8:
                break
                assert run.projection is not None
                assert run.projection.epochs == 50
                energy_J = run.trace.column("energy_J")
                assert 50 * energy_J.min() <= run.projection.energy_J <= 50 * energy_J.max()
                break


@pytest.mark.parametrize("ends", ["with", "by hand", "own loop"])
def test_what_ends_early_is_projected_no_further(ends: str, tmp_path: Path) -> None:
    run = track(tmp_path / "energy", epochs=100, sensors=[Constant(200)])
    run.start()
    if ends == "own loop":
        for _ in range(5):
            run.start_epoch()
            time.sleep(EPOCH_S / 3)
            run.end_epoch()
    else:
        for epoch in run.epochs(100):
            time.sleep(EPOCH_S / 3)
            if epoch == 4:
                break
        assert run.planned_epochs == 5
        assert run.projection is not None
        assert run.projection.epochs == 5
    run.__exit__(None, None, None) if ends == "with" else run.stop()
    for trace in (run.trace, load_trace(tmp_path / "energy")):
        assert trace.meta["planned_epochs"] == 5
        estimate = estimate_step(trace)
        assert estimate.epochs == 5
        assert estimate.energy_J == pytest.approx(trace.column("energy_J").sum())


def test_steps_left_early_end_within_an_interval() -> None:
    with track(sensors=[Constant(200)]) as run:
        for step in run.steps(1000, every_n_steps=4):
            time.sleep(0.01)
            if step == 9:
                break
    assert list(run.trace.column("steps")) == [4, 4, 2]
    assert run.trace.meta["planned_epochs"] == 2.5
    assert run.projection is not None
    assert run.projection.energy_J == pytest.approx(run.trace.column("energy_J").sum())


def test_what_was_broken_off_keeps_its_plan() -> None:
    clock = Clock()
    with without_threads(clock):
        run = track(sensors=[Constant(200)])

        def loop() -> None:
            with run:
                for epoch in run.epochs(50):
                    clock.sleep(1.0)
                    if epoch == 6:
                        raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            loop()
    assert len(run.trace) == 6
    assert run.trace.meta["planned_epochs"] == 50
    assert run.projection is not None
    assert run.projection.epochs == 50


def test_a_second_loop_adds_to_the_plan() -> None:
    with track(sensors=[Constant(200)]) as run:
        for _ in run.epochs(2):
            time.sleep(0.01)
        for _ in run.epochs(3):
            time.sleep(0.01)
            assert run.planned_epochs == 5


def test_a_decorated_function_is_a_run_each_time(tmp_path: Path) -> None:
    @track(tmp_path / "energy", epochs=9, sensors=[Constant(100)])
    def train(epochs: int, run: Run) -> str:
        """Trains."""
        for _ in run.epochs(epochs):
            time.sleep(0.02)
        return "model"

    assert train.run is None
    assert not list(tmp_path.iterdir())  # nothing is measured before the call
    assert train(2) == "model"
    assert train.__doc__ == "Trains."
    first = train.run
    assert first.trace.meta["status"] == "finished"
    train(3)
    assert len(first.trace) == 2
    assert len(train.run.trace) == 3
    assert train.run.folder == tmp_path / "energy-2"
    other = track(sensors=[Constant(1)])
    with other:
        assert train(1, other) == "model"  # a caller's own run goes first
    assert len(other.trace) == 1


def test_a_decorated_function_may_know_nothing_of_it() -> None:
    @track(sensors=[Constant(100)])
    def train() -> None:
        time.sleep(0.02)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert train.run.total_J > 0
    assert train.run.trace.meta["status"] == "interrupted by ZeroDivisionError"


def test_only_what_works_within_its_call_is_decorated() -> None:
    def batches() -> Iterator[int]:
        yield 1

    async def train() -> None: ...

    for function in (batches, train):
        with pytest.raises(ConfigurationError, match="so it returns before its work is done"):
            track(sensors=[])(function)
    with pytest.raises(ConfigurationError, match="can only decorate a function, not"):
        track(sensors=[])(5)


def test_a_run_that_is_never_started_has_unknown_energy(caplog: pytest.LogCaptureFixture) -> None:
    run = track(sensors=[Constant(100)])
    for _ in run.epochs(3):
        time.sleep(0.01)
    assert math.isnan(run.total_J)
    assert np.isnan(run.trace.column("energy_J")).all()
    assert caplog.text.count("the run was not started: use `with` or start()") == 1


def test_a_run_used_twice_says_so(caplog: pytest.LogCaptureFixture) -> None:
    run = track(sensors=[Constant(100)])
    with run:
        time.sleep(0.02)
    total_J = run.total_J
    assert "already used" not in caplog.text
    with run:
        for _ in run.epochs(2):
            time.sleep(0.02)
    assert "this run was already used" in caplog.text
    assert run.total_J == total_J


def test_a_pause_before_the_start_and_after_the_end_is_none(tmp_path: Path) -> None:
    run = track(tmp_path / "energy", sensors=[Constant(100)])
    with run.pause():  # as `count_flops` does
        time.sleep(EPOCH_S)
    with run:
        for _ in run.epochs(2):
            time.sleep(EPOCH_S / 2)
    with run.pause():
        pass
    trace = load_trace(tmp_path / "energy")
    assert trace.meta["duration_s"] >= EPOCH_S
    assert trace.total_J == pytest.approx(100 * trace.meta["duration_s"])


def test_own_loop() -> None:
    with track(epochs=10, sensors=[Constant(100)]) as run:
        run.start_epoch()
        time.sleep(EPOCH_S)
        row = run.end_epoch(val_acc=np.float32(0.5), steps=3)
        time.sleep(0.3)
        run.start_epoch()
        time.sleep(EPOCH_S)
        run.end_epoch()
    assert row["val_acc"] == 0.5
    assert row["steps"] == 3
    assert row["energy_J"] == pytest.approx(100 * row["duration_s"])
    # What lies between is in no epoch, but in the total.
    outside_s = run.trace.meta["duration_s"] - run.trace.column("duration_s").sum()
    assert outside_s >= 0.3
    outside_J = run.total_J - run.trace.column("energy_J").sum()
    assert outside_J == pytest.approx(100 * outside_s)


def test_break_keeps_the_epoch() -> None:
    with track(sensors=[Constant(100)]) as run:
        for epoch in run.epochs(10):
            time.sleep(EPOCH_S)
            run.log(val_acc=epoch)
            if epoch == 2:
                break
        run.log(test_acc=0.9)
    assert list(run.trace.column("val_acc")) == [0, 1, 2]
    assert run.trace.column("test_acc")[2] == 0.9
    assert run.trace.meta["status"] == "finished"


def test_exception_interrupts_the_epoch(tmp_path: Path) -> None:
    run = track(tmp_path / "energy", sensors=[Constant(100)])

    def loop() -> None:
        with run:
            for epoch in run.epochs(10):
                time.sleep(EPOCH_S)
                if epoch == 2:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    for trace in (run.trace, load_trace(tmp_path / "energy")):
        assert len(trace) == 2
        assert trace.meta["status"] == "interrupted by ZeroDivisionError"
        assert trace.meta["interrupted_epoch"]["epoch"] == 2
        assert trace.total_J == pytest.approx(100 * trace.meta["duration_s"])


def test_two_loops_in_one_run() -> None:
    with track(sensors=[Constant(100)]) as run:
        for _ in run.epochs(2):
            time.sleep(EPOCH_S)
        for _ in run.epochs(2):
            time.sleep(EPOCH_S)
    assert list(run.trace.column("epoch")) == [0, 1, 0, 1]


def test_two_runs_at_once() -> None:
    with track(sensors=[Constant(100)]) as outer, track(sensors=[Constant(7)]) as inner:
        for run in (outer, inner):
            run.start_epoch()
        time.sleep(EPOCH_S)
        for run in (outer, inner):
            run.end_epoch()
    assert outer.trace.column("mean_power_W")[0] == pytest.approx(100)
    assert inner.trace.column("mean_power_W")[0] == pytest.approx(7)


def test_mistakes_do_not_end_a_training(caplog: pytest.LogCaptureFixture) -> None:
    with track(sensors=[Failing(1, error=RuntimeError("no such sensor any more"))]) as run:
        assert run.end_epoch(val_acc=1) == {}
        run.start_epoch()
        run.log(energy_J=5, text="not a number", val_acc=0.5)
        row = run.end_epoch(val_acc=object())
        run.end_validation()
    assert row["val_acc"] == 0.5
    assert math.isnan(row["energy_J"])
    assert "no epoch is under way" in caplog.text
    assert "'energy_J' is measured" in caplog.text
    assert "'text' is not a number" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"confidence": 2}, "confidence=2"),
        ({"interval_s": -1}, "interval_s=-1"),
        ({"components": ["tpu"]}, "tpu"),
    ],
)
def test_bad_set_up_fails_at_once(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        track(**arguments)


def test_metrics_may_be_tensors() -> None:
    torch = pytest.importorskip("torch")
    with track(sensors=[Constant(1)]) as run:
        run.start_epoch()
        row = run.end_epoch(val_acc=torch.tensor(0.5))
    assert row["val_acc"] == 0.5


def test_flops_of_a_torch_model() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(10, 5)
    with track(sensors=[Constant(1)]) as run:
        run.start_epoch()
        run.count_flops(model, torch.zeros(4, 10))
        row = run.end_epoch(samples=40)
    assert row["flops"] == 2 * (2 * 10 * 5) * 40  # one layer: its input needs no gradient


def test_flops_that_cannot_be_counted(caplog: pytest.LogCaptureFixture) -> None:
    torch = pytest.importorskip("torch")
    with track(sensors=[Constant(1)]) as run, caplog.at_level(logging.WARNING):
        run.start_epoch()
        run.count_flops(torch.nn.Linear(10, 5), "no tensor")
        row = run.end_epoch(samples=40)
    assert math.isnan(run.trace.column("flops")[0])
    assert "flops" not in row
    assert "FLOPs are not recorded" in caplog.text
    assert run.trace.meta["flops_note"]


def test_on_this_machine() -> None:
    """Whatever sensors there are: every epoch costs something, and nothing is left behind."""
    before = own_threads()
    with track() as run:
        for _ in run.epochs(3):
            time.sleep(0.15)
    assert (run.trace.column("energy_J") > 0).all()
    assert {d["source"] for d in run.trace.devices} <= {"measured", "modelled"}
    assert is_within(lambda: own_threads() <= before)
