"""What the monitor knows about a training in advance: length, time limit, validations."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning
from torch.utils.data import DataLoader

from energyest.lightning.trainer_plan import TrainerPlan
from simulation.stepped import Clock
from tests.support.trainers import (
    BATCH,
    NETS,
    PlNet,
    Spy,
    Stream,
    TwoOptimizers,
    batches,
    both_namespaces,
    lightning_warns,
    make_trainer,
    monitor_of,
    time_limits_go_by,
)

pytestmark = lightning_warns


def plans(tmp_path: Path, data: Any, model: Any = None, **options: Any) -> list[dict[str, Any]]:
    """The meta at the end of each epoch."""
    every, validation = options.pop("every", None), options.pop("validation", None)
    monitor = monitor_of(every_n_steps=every, count_flops=False)
    spy = Spy(lambda _: monitor.trace.meta)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, spy, **options)
    trainer.fit(model or PlNet(), data, validation)
    return [*spy.seen, monitor.trace.meta]


# ---------------------------------------------------------------------- its length


@pytest.mark.parametrize(
    ("options", "data", "model", "epochs"),
    [
        ({"max_epochs": 3}, batches(3), None, 3),
        ({"max_steps": 10}, batches(3), None, 10 / 3),
        ({"max_epochs": 2, "max_steps": 10}, batches(3), None, 2),
        ({"max_steps": 10}, DataLoader(Stream(), BATCH), None, 2.5),
        ({"max_steps": 10}, batches(30), None, 1 / 3),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, batches(4), None, 1.5),
        # Three batches make two steps, the last of them with what is left.
        ({"max_steps": 4, "accumulate_grad_batches": 2}, batches(3), None, 2),
        ({"max_steps": 20}, batches(4), TwoOptimizers, 2.5),
        ({"max_epochs": 2, "limit_train_batches": 0.5}, batches(4), None, 2),
    ],
)
def test_planned_epochs(options: Any, data: Any, model: Any, epochs: float, tmp_path: Path) -> None:
    seen = plans(tmp_path, data, model and model(), **options)
    assert [meta["planned_epochs"] for meta in seen] == pytest.approx(len(seen) * [epochs])
    assert seen[0]["planned_duration_s"] is None
    assert seen[0]["first_epoch"] == 0
    assert "interval_steps" not in seen[0]


def test_training_without_an_end(tmp_path: Path) -> None:
    class Stop(pytorch_lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 2

    for every in (None, 3):
        monitor = monitor_of(every_n_steps=every)
        trainer = make_trainer(pytorch_lightning, tmp_path, monitor, Stop(), max_epochs=-1)
        trainer.fit(PlNet(), batches(3))
        assert len(monitor.trace) == 3
        assert monitor.trace.meta["planned_epochs"] == 3  # known at its end
        assert monitor.projection.epochs == 3


@both_namespaces
@pytest.mark.parametrize(
    ("file", "first"), [("epoch=1-step=8.ckpt", 2), ("epoch=1-step=6.ckpt", 1)]
)
def test_resumed_by_steps(pl: ModuleType, file: str, first: int, tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=2)
    trainer = make_trainer(pl, tmp_path, save, max_epochs=2, enable_checkpointing=True)
    trainer.fit(NETS[pl](), batches(4))

    monitor = monitor_of()
    planned = Spy(lambda _: monitor.trace.meta["planned_epochs"])
    trainer = make_trainer(pl, tmp_path, monitor, planned, max_steps=14)
    trainer.fit(NETS[pl](), batches(4), ckpt_path=tmp_path / file)
    # 1.5 epochs after the second, which the later checkpoint discards.
    assert monitor.trace.meta["first_epoch"] == monitor.trace.column("epoch")[0] == first
    assert list(monitor.trace.epochs.steps)[-2:] == [4, 2]
    assert planned.seen == pytest.approx(len(planned.seen) * [len(monitor.trace) - 0.5])


def progress(completed: int, ready: int | None = None) -> Any:
    return SimpleNamespace(completed=completed, ready=completed if ready is None else ready)


def fake_trainer(**facts: Any) -> Any:
    """A Trainer in its second epoch, with 20 of 100 batches done."""
    defaults = {
        "max_epochs": 10,
        "max_steps": -1,
        "global_step": 120,
        "current_epoch": 1,
        "num_training_batches": 100,
        "accumulate_grad_batches": 1,
        "enable_validation": True,
        "check_val_every_n_epoch": 1,
        "val_check_batch": 100,
        "num_val_batches": [20],
        "callbacks": [],
        "fit_loop": SimpleNamespace(
            epoch_progress=SimpleNamespace(current=progress(1, 2)),
            epoch_loop=SimpleNamespace(
                batch_progress=SimpleNamespace(current=progress(20), total=progress(120))
            ),
        ),
    }
    return SimpleNamespace(**{**defaults, **facts})


@pytest.mark.parametrize(
    ("facts", "rows"),
    [
        ({}, 6 + 880 / 20),
        ({"max_steps": 300}, 6 + 180 / 20),
        ({"max_steps": 110}, 6),  # beyond its end
        ({"max_epochs": -1}, None),
        ({"max_epochs": -1, "max_steps": 50, "global_step": 0}, 6 + 50 / 20),
        ({"max_epochs": -1, "max_steps": 50, "global_step": 30}, 6 + 80 / 20),
        # 20 of the batches of this epoch have been accumulated since the last step.
        (
            {"max_steps": 4, "global_step": 2, "accumulate_grad_batches": 50, "max_epochs": -1},
            6 + 80 / 20,
        ),
        ({"num_training_batches": math.inf}, 6 + 880 / 20),
    ],
)
def test_planned_intervals(facts: dict[str, Any], rows: float | None) -> None:
    assert TrainerPlan(fake_trainer(**facts), 20).rows(6, 20) == (rows and pytest.approx(rows))


# ---------------------------------------------------------------------- its time limit


@both_namespaces
@pytest.mark.parametrize("every", [None, 3])
def test_time_limit(
    pl: ModuleType,
    every: int | None,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    time_limits_go_by(clock, monkeypatch)
    monitor = monitor_of(every_n_steps=every, count_flops=False)
    limit = {"milliseconds": 600}
    seen: list[float | None] = []

    class Look(pytorch_lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if monitor._session.length.duration_s is not None:
                seen.append(monitor._session.length.duration_s)

    trainer = make_trainer(pl, tmp_path, monitor, Look(), max_epochs=1000, max_time=limit)
    trainer.fit(NETS[pl](step_s=0.01, clock=clock), batches(4))
    trace = monitor.trace
    assert seen[0] == pytest.approx(0.6, abs=0.01)
    assert 0.6 <= trace.column("duration_s").sum() + 1e-9 < 0.62  # to the end of a batch
    # The training has ended.
    assert trace.meta["planned_duration_s"] is None
    assert trace.meta["planned_epochs"] == len(trace)
    assert trace.meta["status"] == "finished"


def test_time_limit_at_the_end_of_an_epoch(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    time_limits_go_by(clock, monkeypatch)
    timer = pytorch_lightning.callbacks.Timer(timedelta(milliseconds=300), interval="epoch")
    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, timer, monitor, max_epochs=-1)
    trainer.fit(PlNet(step_s=0.05, clock=clock), batches(4))
    # Not before an epoch's end, and not before the limit, which counts from after the run's start.
    assert list(monitor.trace.column("steps")) == [4, 4]
    assert 0.4 <= monitor.trace.column("end_s")[-1] + 1e-9 < 0.45


def timer(remaining_s: float | None, interval: str = "step") -> Any:
    return SimpleNamespace(time_remaining=lambda: remaining_s, _interval=interval)


@pytest.mark.parametrize(
    ("timers", "every", "end_s"),
    [
        ([], None, None),
        ([timer(None)], None, None),
        ([timer(70)], None, 100),
        ([timer(70), timer(20, "epoch")], 20, 62),
        ([timer(-5)], None, 30),
        # Epochs of 10 s, the last of which has just ended.
        ([timer(31, "epoch")], None, 70),
        ([timer(-5, "epoch")], None, 30),
        # Epochs of 40 s, of which 8 s are over.
        ([timer(20, "epoch")], 20, 62),
        ([timer(33, "epoch")], 20, 102),
        ([SimpleNamespace(), timer(1)], None, 31),
    ],
)
def test_planned_duration(timers: list[Any], every: int | None, end_s: float | None) -> None:
    row_s = 10 if every is None else 8
    trainer = fake_trainer(callbacks=timers)
    assert TrainerPlan(trainer, every).duration_s(30, row_s) == (end_s and pytest.approx(end_s))
    assert TrainerPlan(trainer, every).duration_s(math.nan, row_s) is None


# ---------------------------------------------------------------------- its validations


@pytest.mark.parametrize(
    ("facts", "of_epochs", "of_intervals"),
    [
        ({}, 1, 5),
        ({"enable_validation": False}, None, None),
        ({"check_val_every_n_epoch": 3}, 3, 15),
        ({"val_check_batch": 25}, 1, 1.25),  # several in each epoch
        ({"val_check_batch": 30}, 1, 100 / 3 / 20),  # after 30, 60 and 90 batches
        ({"val_check_batch": 25, "check_val_every_n_epoch": 2}, 2, 2.5),
        ({"val_check_batch": 250, "check_val_every_n_epoch": None}, 2.5, 12.5),
        ({"val_check_batch": 10, "check_val_every_n_epoch": None}, 0.1, 0.5),
        ({"val_check_batch": None}, None, None),  # by the clock
        ({"val_check_batch": None, "check_val_every_n_epoch": None}, None, None),
        ({"val_check_batch": math.inf, "num_training_batches": math.inf}, 1, 5),
        ({"val_check_batch": math.inf, "check_val_every_n_epoch": None}, 1, 5),
    ],
)
def test_validation_schedule(
    facts: dict[str, Any], of_epochs: float | None, of_intervals: float | None
) -> None:
    trainer = fake_trainer(**facts)
    assert TrainerPlan(trainer, None).validation_every_n_rows == (
        of_epochs and pytest.approx(of_epochs)
    )
    assert TrainerPlan(trainer, 20).validation_every_n_rows == (
        of_intervals and pytest.approx(of_intervals)
    )


@pytest.mark.parametrize(
    ("facts", "of_epochs", "of_intervals"),
    [
        ({}, 0.2, 1),
        ({"num_val_batches": [20, 10]}, 0.3, 1.5),
        ({"num_val_batches": []}, None, None),
        ({"num_val_batches": [math.inf]}, None, None),
        ({"enable_validation": False}, None, None),
    ],
)
def test_size_of_validation(
    facts: dict[str, Any], of_epochs: float | None, of_intervals: float | None
) -> None:
    trainer = fake_trainer(**facts)
    assert TrainerPlan(trainer, None).validation_to_training_batches == of_epochs
    assert TrainerPlan(trainer, 20).validation_to_training_batches == of_intervals


@pytest.mark.parametrize(
    ("options", "every", "share"),
    [
        ({"validation": batches(2)}, 1, 0.5),
        ({"validation": batches(2), "check_val_every_n_epoch": 2}, 2, 0.5),
        ({"validation": batches(2), "val_check_interval": 0.5}, 1, 0.5),
        ({"validation": batches(2), "limit_val_batches": 0}, None, None),
        ({}, None, None),
        (
            {"validation": batches(3), "val_check_interval": 6, "check_val_every_n_epoch": None},
            1.5,
            0.75,
        ),
        ({"validation": batches(2), "every": 2, "val_check_interval": 3}, 2, 1),
        ({"validation": batches(2), "every": 2, "check_val_every_n_epoch": 2}, 4, 1),
        # Before the first validation, its loader is known only if there is a sanity check.
        (
            {
                "validation": batches(2),
                "check_val_every_n_epoch": 3,
                "num_sanity_val_steps": 0,
            },
            3,
            None,
        ),
    ],
)
def test_validation_of_a_trainer(
    options: dict[str, Any], every: float | None, share: float | None, tmp_path: Path
) -> None:
    meta = plans(tmp_path, batches(4), max_epochs=2, **options)[-1]
    assert meta["validation_every_n_rows"] == every
    assert meta["validation_to_training_batches"] == share
