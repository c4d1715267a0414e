"""Trainings that stop and go on from a checkpoint, with their trace."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch

from energyest import EnergyMonitor, NotStableError, estimate_step, load_trace, track
from energyest.errors import ConfigurationError, TraceError
from energyest.records.trace import EnergyTrace
from simulation.stepped import Clock
from tests.support.sensors import Constant, Failing
from tests.support.threads import is_within
from tests.support.trainers import (
    GPU_W,
    NETS,
    SAMPLES,
    At,
    PlNet,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    warnings_of,
)

pytestmark = lightning_warns


def checkpoints(pl: ModuleType, folder: Path, **options: Any) -> Any:
    return pl.callbacks.ModelCheckpoint(dirpath=folder, save_top_k=-1, **options)


def assert_whole(trace: EnergyTrace, power_W: float = GPU_W) -> None:
    """Every epoch has the energy of its duration, and lies behind the one before it."""
    energy_J, duration_s = trace.column("energy_J"), trace.column("duration_s")
    assert energy_J == pytest.approx(power_W * duration_s, rel=1e-6)
    starts_s, ends_s = trace.column("start_s"), trace.column("end_s")
    assert (starts_s[1:] >= ends_s[:-1] - 1e-6).all()
    assert trace.total_J >= energy_J.sum() - 1e-6


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({"every_n_epochs": 1}, "epoch=1-step=8.ckpt"),
        ({"every_n_train_steps": 6}, "epoch=1-step=6.ckpt"),
        # The end of validation: Lightning then ends that epoch without a batch of it.
        ({"save_on_train_epoch_end": False}, "epoch=1-step=8.ckpt"),
    ],
    ids=["between epochs", "within an epoch", "before the end of an epoch"],
)
def test_epochs_go_on(
    options: dict[str, Any],
    file: str,
    pl: ModuleType,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Two more epochs than the checkpoint has: they are lost, and made again.
    first = monitor_of(tmp_path / "first")
    saving = checkpoints(pl, tmp_path, **options)
    trainer = make_trainer(pl, tmp_path, first, saving, max_epochs=4, enable_checkpointing=True)
    trainer.fit(NETS[pl](step_s=0.01), loader(), loader())
    time.sleep(0.1)  # the pause

    monitor = monitor_of(tmp_path / "second")
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=6)
    began_s = time.monotonic()
    trainer.fit(NETS[pl](step_s=0.01), loader(), loader(), ckpt_path=tmp_path / file)
    took_s = time.monotonic() - began_s

    trace = monitor.trace
    assert list(trace.column("epoch")) == list(range(6))
    assert (trace.column("steps") == 4).all()
    assert (trace.column("samples") == SAMPLES).all()
    assert trace.meta["planned_epochs"] == 6
    assert trace.meta["first_epoch"] == 0
    assert_whole(trace)
    # Epochs that the checkpoint holds as a whole, and not but for their end.
    whole = 2 if options == {"every_n_epochs": 1} else 1
    before = first.trace
    for name in ("energy_J", "train_loss", "validation_s"):
        assert list(trace.column(name)[:whole]) == list(before.column(name)[:whole])
    assert (trace.column("end_s")[:whole] <= 0).all()
    assert (trace.column("end_s")[2:] > 0).all()
    # The lost epochs and the pause are not in the total; all that was trained is.
    earlier_J = trace.meta["earlier_parts"][0]["total_J"]
    assert before.column("energy_J")[:whole].sum() < earlier_J < before.total_J
    assert earlier_J < trace.total_J < earlier_J + GPU_W * took_s
    assert trace.meta["duration_s"] == pytest.approx(trace.total_J / GPU_W, rel=1e-6)
    assert estimate_step(trace, 6).energy_J == pytest.approx(trace.column("energy_J").sum())

    kept = load_trace(tmp_path / "second")
    for name, values in trace.epoch_columns.items():
        np.testing.assert_array_equal(kept.epoch_columns[name], values)
    assert kept.total_J == trace.total_J
    # Epochs of some hundredths of a second do change where others are busy.
    assert [text for text in warnings_of(caplog) if "changed at" not in text] == []


@pytest.mark.parametrize("validation", [False, True])
def test_an_epoch_whose_last_batch_made_the_checkpoint(
    validation: bool, pl: ModuleType, tmp_path: Path
) -> None:
    """Lightning then continues with the next epoch, without reporting the end of this one."""
    saving = checkpoints(pl, tmp_path, every_n_train_steps=4)
    loaders = (loader(), loader()) if validation else (loader(),)
    trainer = make_trainer(
        pl, tmp_path, monitor_of(), saving, max_epochs=3, enable_checkpointing=True
    )
    trainer.fit(NETS[pl](step_s=0.01), *loaders)
    for max_epochs, file in ((4, "epoch=1-step=8.ckpt"), (3, "epoch=2-step=12.ckpt")):
        monitor = monitor_of()
        trainer = make_trainer(pl, tmp_path, monitor, max_epochs=max_epochs)
        trainer.fit(NETS[pl](step_s=0.01), *loaders, ckpt_path=tmp_path / file)
        trace = monitor.trace
        assert list(trace.column("epoch")) == list(range(max_epochs))
        assert (trace.column("steps") == 4).all()
        assert trace.meta["planned_epochs"] == max_epochs
        assert_whole(trace)


@pytest.mark.parametrize("file", ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"])
def test_an_interval_that_was_full(file: str, tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_train_steps=3)
    first = monitor_of(every_n_steps=3)
    make_trainer(
        pytorch_lightning, tmp_path, first, saving, max_epochs=2, enable_checkpointing=True
    ).fit(PlNet(step_s=0.01), loader())
    monitor = monitor_of(every_n_steps=3)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3).fit(
        PlNet(step_s=0.01), loader(), ckpt_path=tmp_path / file
    )
    assert list(monitor.trace.column("steps")) == [3, 3, 3, 3]
    assert_whole(monitor.trace)


def test_rows_of_another_kind_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor_of(every_n_steps=2), max_epochs=2)
    trainer.fit(PlNet(step_s=0.01), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=4).fit(
        PlNet(step_s=0.01), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    trace = monitor.trace
    assert list(trace.column("epoch")) == [2, 3]
    assert "interval_steps" not in trace.meta
    assert (
        trace.total_J > trace.meta["earlier_parts"][0]["total_J"] + trace.column("energy_J").sum()
    )
    assert "intervals of 2 steps: it cannot use epochs" in caplog.text


def test_a_fit_that_made_no_row_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2)
    trainer.fit(PlNet(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(
        PlNet(), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert len(monitor.trace) == 2  # nothing was left to train
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1).fit(PlNet(), loader())
    assert list(monitor.trace.column("epoch")) == [0]
    assert "earlier_rows" not in monitor.trace.meta


def test_a_tuner_takes_no_fit_before_along(tmp_path: Path) -> None:
    class Net(PlNet):
        learning_rate = 0.1

    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(Net(), loader())
    finder = pytorch_lightning.callbacks.LearningRateFinder(num_training_steps=5)
    make_trainer(pytorch_lightning, tmp_path, monitor, finder, max_epochs=1).fit(Net(), loader())
    assert list(monitor.trace.column("epoch")) == [0]


def test_a_monitor_and_one_of_a_subclass(tmp_path: Path) -> None:
    class Other(EnergyMonitor):
        pass

    def monitors() -> tuple[EnergyMonitor, ...]:
        sensors = [Constant(power_W) for power_W in (100.0, 7.0)]
        return EnergyMonitor(sensors=sensors[:1]), Other(sensors=sensors[1:])

    trainer = make_trainer(pytorch_lightning, tmp_path, *monitors(), max_epochs=2)
    trainer.fit(PlNet(step_s=0.01), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = monitors()
    make_trainer(pytorch_lightning, tmp_path, *again, max_epochs=3).fit(
        PlNet(step_s=0.01), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    for monitor, power_W in zip(again, (100.0, 7.0), strict=True):
        assert len(monitor.trace) == 3
        assert_whole(monitor.trace, power_W)


def test_changes_up_to_the_checkpoint_stay_in_the_record(tmp_path: Path) -> None:
    """Also for the row in which it was saved, and if it is saved again in that row."""
    boards = Constant(300.0, name="A"), Constant(100.0, name="B"), Constant(100.0, name="B")
    path: Path | None = None
    for part, board in enumerate(boards):
        monitor = monitor_of(None, board)
        saving = checkpoints(pytorch_lightning, tmp_path / str(part), every_n_train_steps=2)
        trainer = make_trainer(
            pytorch_lightning, tmp_path, monitor, saving, max_epochs=4, enable_checkpointing=True
        )
        trainer.fit(PlNet(step_s=0.01), loader(), ckpt_path=path)
        path = (
            tmp_path / str(part) / ("epoch=1-step=6.ckpt" if part == 0 else "epoch=1-step=8.ckpt")
        )
    (change,) = monitor.trace.meta["planned_changes"]
    assert (change["epoch"], change["reason"]) == (1.5, "resumed on 1 x B")
    assert list(monitor.trace.column("epoch")) == [0, 1, 2, 3]


def test_intervals_go_on(tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_train_steps=7)
    first = monitor_of(every_n_steps=3)
    make_trainer(
        pytorch_lightning, tmp_path, first, saving, max_epochs=2, enable_checkpointing=True
    ).fit(PlNet(step_s=0.01), loader())
    monitor = monitor_of(every_n_steps=3)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=4)
    trainer.fit(PlNet(step_s=0.01), loader(), ckpt_path=tmp_path / "epoch=1-step=7.ckpt")
    trace = monitor.trace
    assert list(trace.column("steps")) == [3, 3, 3, 3, 3, 1]
    assert trace.meta["planned_epochs"] == pytest.approx(16 / 3)
    assert_whole(trace)


def test_a_training_that_is_resumed_twice_and_was_interrupted(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("out of memory")

    path: Path | None = None
    for part, epoch in enumerate((2, 5, 99)):
        monitor = monitor_of(tmp_path / f"part{part}")
        saving = checkpoints(pytorch_lightning, tmp_path / str(part), every_n_epochs=1)
        trainer = make_trainer(
            pytorch_lightning,
            tmp_path,
            monitor,
            At("on_train_batch_start", epoch, fail),
            saving,
            max_epochs=8,
            enable_checkpointing=True,
        )
        try:
            trainer.fit(PlNet(step_s=0.01), loader(), ckpt_path=path)
        except RuntimeError:
            assert monitor.trace.meta["interrupted_epoch"]["epoch"] == epoch
            assert len(load_trace(tmp_path / f"part{part}")) == epoch
        path = tmp_path / str(part) / f"epoch={epoch - 1}-step={4 * epoch}.ckpt"
    trace = monitor.trace
    assert list(trace.column("epoch")) == list(range(8))
    assert [p["rows"] for p in trace.meta["earlier_parts"]] == [2, 5]
    assert_whole(trace)


def test_on_another_gpu(clock: Clock, tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_epochs=1)
    first = monitor_of(None, Constant(300.0, name="NVIDIA H100"))
    make_trainer(
        pytorch_lightning, tmp_path, first, saving, max_epochs=6, enable_checkpointing=True
    ).fit(PlNet(step_s=0.02, clock=clock), loader())

    monitor = monitor_of(None, Constant(100.0, name="NVIDIA A40"))
    projections: list[Any] = []

    class Look(pytorch_lightning.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            projections.append(monitor.projection)

    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, Look(), max_epochs=12)
    trainer.fit(PlNet(0.02, clock=clock), loader(), ckpt_path=tmp_path / "epoch=5-step=24.ckpt")
    trace = monitor.trace
    (change,) = trace.meta["planned_changes"]
    assert change["epoch"] == 6
    assert "NVIDIA A40" in change["reason"]
    assert trace.meta["earlier_parts"][0]["gpus"] == {"NVIDIA H100": 1}
    # Not from the level of the other GPU: three times as much.
    truth_J = trace.column("energy_J").sum()
    settled = [p for p in projections[2:] if p is not None]
    assert len(settled) >= 3
    for projection in settled:
        assert projection.energy_J == pytest.approx(truth_J, rel=0.1)
    with pytest.raises(NotStableError):
        estimate_step(trace.head(7), 12)


def test_the_projection_is_there_at_once(clock: Clock, tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_epochs=1)
    make_trainer(
        pytorch_lightning, tmp_path, monitor_of(), saving, max_epochs=6, enable_checkpointing=True
    ).fit(PlNet(step_s=0.02, clock=clock), loader())
    monitor = monitor_of()
    look = At("on_train_batch_start", 6, lambda: seen.append(monitor.projection))
    seen: list[Any] = []
    make_trainer(pytorch_lightning, tmp_path, monitor, look, max_epochs=9).fit(
        PlNet(0.02, clock=clock), loader(), ckpt_path=tmp_path / "epoch=5-step=24.ckpt"
    )
    (first,) = seen
    assert first.method.startswith("STEP")
    assert first.epochs == 9
    assert monitor.trace.meta["planned_changes"] == []
    # From the epochs before the checkpoint alone.
    expected = estimate_step(monitor.trace.head(6), 9)
    assert first.energy_J == pytest.approx(expected.energy_J, rel=1e-6)


def test_without_the_monitor_on_either_side(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_epochs=1)
    make_trainer(pytorch_lightning, tmp_path, saving, max_epochs=2, enable_checkpointing=True).fit(
        PlNet(), loader()
    )
    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=4).fit(
        PlNet(), loader(), ckpt_path=tmp_path / "epoch=1-step=8.ckpt"
    )
    assert list(monitor.trace.column("epoch")) == [2, 3]
    assert monitor.trace.meta["planned_epochs"] == 2

    make_trainer(
        pytorch_lightning, tmp_path, monitor, saving, max_epochs=2, enable_checkpointing=True
    ).fit(PlNet(), loader())
    plain = make_trainer(pytorch_lightning, tmp_path, max_epochs=3)
    plain.fit(PlNet(), loader(), ckpt_path=tmp_path / "epoch=1-step=8.ckpt")
    assert plain.current_epoch == 3
    assert warnings_of(caplog) == []


def test_two_monitors(tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_epochs=1)
    monitors = monitor_of(), monitor_of(every_n_steps=2)
    make_trainer(
        pytorch_lightning, tmp_path, *monitors, saving, max_epochs=2, enable_checkpointing=True
    ).fit(PlNet(), loader())
    monitors = monitor_of(), monitor_of(every_n_steps=2)
    make_trainer(pytorch_lightning, tmp_path, *monitors, max_epochs=3).fit(
        PlNet(), loader(), ckpt_path=tmp_path / "epoch=1-step=8.ckpt"
    )
    assert [len(monitor.trace) for monitor in monitors] == [3, 6]


def test_a_fit_without_checkpoint_starts_over(tmp_path: Path) -> None:
    saving = checkpoints(pytorch_lightning, tmp_path, every_n_epochs=1)
    monitor = monitor_of()
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, saving, max_epochs=2, enable_checkpointing=True
    )
    trainer.fit(PlNet(), loader(), loader())
    path = tmp_path / "epoch=1-step=8.ckpt"
    trainer.validate(PlNet(), loader(), ckpt_path=path, verbose=False)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3).fit(PlNet(), loader())
    assert list(monitor.trace.column("epoch")) == [0, 1, 2]


def test_the_checkpoint_holds_plain_values_alone(tmp_path: Path) -> None:
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2)
    trainer.fit(PlNet(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")  # after the end
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["energyest"]["0"]
    assert len(state["run"]["columns"]["energy_J"]) == 2
    again = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, again, max_epochs=3).fit(
        PlNet(), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert len(again.trace) == 3


@pytest.mark.parametrize(
    "state",
    [
        5,
        {},
        {"run": 3, "epoch": 1, "batches": 4},
        {"run": {"columns": {"epoch": ["x"]}}, "epoch": 1, "batches": 4},
        {"run": {}, "epoch": "x", "more": 3},
    ],
)
def test_a_checkpoint_that_holds_nonsense(
    state: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor_of(), max_epochs=1)
    trainer.fit(PlNet(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["energyest"] = {"0": state}
    torch.save(content, tmp_path / "last.ckpt")
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2)
    trainer.fit(PlNet(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert list(monitor.trace.column("epoch")) == [1]
    assert len(warnings_of(caplog)) == 1


def test_a_checkpoint_whose_facts_are_nonsense(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor_of(), max_epochs=1)
    trainer.fit(PlNet(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    content["energyest"]["0"]["run"]["meta"] = {
        "planned_changes": [3, {"epoch": "x"}, {}],
        "earlier_parts": [5, {"gpus": 3}],
        "first_epoch": "none",
        "devices": "all",
        "anything": 1,
    }
    torch.save(content, tmp_path / "last.ckpt")
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3)
    trainer.fit(PlNet(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert list(monitor.trace.column("epoch")) == [0, 1, 2]
    assert monitor.trace.devices[0]["name"] == "constant"
    assert "anything" not in monitor.trace.meta
    assert warnings_of(caplog) == []


# ---------------------------------------------------------------------- any loop


def saved(run: Any) -> dict[str, Any]:
    """As it comes back from a file of JSON, which knows NaN in Python."""
    return json.loads(json.dumps(run.state_dict()))


def test_a_loop_of_epochs(tmp_path: Path) -> None:
    with track(sensors=[Constant(200)]) as run:
        for epoch in run.epochs(10):
            time.sleep(0.05)
            run.log(loss=epoch, samples=7)
            if epoch == 3:
                state = saved(run)
    with track(tmp_path / "energy", sensors=[Constant(100)]) as later:
        later.load_state_dict(state)
        seen = []
        for epoch in later.epochs(6):
            seen.append(epoch)
            time.sleep(0.05)
            later.log(loss=epoch, samples=7)
    assert seen == [4, 5]
    trace = later.trace
    assert list(trace.column("epoch")) == list(range(6)) == list(trace.column("loss"))
    assert (trace.column("samples") == 7).all()
    power_W = trace.column("energy_J") / trace.column("duration_s")
    assert power_W == pytest.approx([200] * 4 + [100] * 2)
    assert len(load_trace(tmp_path / "energy")) == 6
    earlier = state["total"]
    assert earlier["energy_J"] == pytest.approx(200 * earlier["duration_s"])
    later_s = trace.meta["duration_s"] - earlier["duration_s"]
    assert trace.total_J == pytest.approx(earlier["energy_J"] + 100 * later_s)
    assert earlier["duration_s"] >= 4 * 0.05
    assert later_s >= 2 * 0.05


def test_a_loop_of_steps() -> None:
    with track(sensors=[Constant(200)]) as run:
        for step in run.steps(10, every_n_steps=4):
            time.sleep(0.01)
            if step == 5:
                state = saved(run)
                break
    with track(sensors=[Constant(200)]) as later:
        later.load_state_dict(state)
        seen = []
        for step in later.steps(10, every_n_steps=4):
            seen.append(step)
            time.sleep(0.01)
    assert seen == [6, 7, 8, 9]
    assert list(later.trace.column("steps")) == [4, 4, 2]
    energy_J = later.trace.column("energy_J")
    assert energy_J == pytest.approx(200 * later.trace.column("duration_s"))


@pytest.mark.parametrize("at", [3, 5, 9])
def test_every_step_is_made_once(at: int) -> None:
    with track(sensors=[Constant(200)]) as run:
        made = []
        for step in run.steps(10, every_n_steps=4):
            made.append(step)
            time.sleep(0.01)
            if step == at:
                state = saved(run)
                break
    with track(sensors=[Constant(200)]) as later:
        later.load_state_dict(state)
        for step in later.steps(14, every_n_steps=4):
            made.append(step)
            time.sleep(0.01)
    assert made == list(range(14))
    assert later.trace.column("steps").sum() == 14
    energy_J = later.trace.column("energy_J")
    assert energy_J == pytest.approx(200 * later.trace.column("duration_s"))
    assert list(later.trace.column("epoch")) == list(range(len(later.trace)))
    with track(sensors=[Constant(200)]) as other:
        other.load_state_dict(state)
        with pytest.raises(ConfigurationError, match="intervals of 4 steps"):
            next(other.steps(14, every_n_steps=5))
        with pytest.raises(ConfigurationError, match="cannot use epochs"):
            next(other.epochs(5))


def test_epochs_by_hand_are_numbered_on() -> None:
    with track(sensors=[Constant(1)]) as run:
        for _ in range(2):
            run.start_epoch()
            run.end_epoch()
        state = saved(run)
    with track(sensors=[Constant(1)]) as later:
        later.load_state_dict(state)
        later.start_epoch()
        later.end_epoch()
        for loading in (1, 2):
            with pytest.raises(TraceError, match="before its first epoch"):
                later.load_state_dict(state)
            assert loading
    assert list(later.trace.column("epoch")) == [0, 1, 2]
    with track(sensors=[Constant(1)]) as twice:
        twice.load_state_dict(state)
        with pytest.raises(TraceError, match="one checkpoint"):
            twice.load_state_dict(state)


def test_an_epoch_that_an_exception_cut_off_is_made_again() -> None:
    def train() -> None:
        with run:
            for epoch in run.epochs(5):
                time.sleep(0.05)
                if epoch == 2:
                    raise ValueError("cut")

    run = track(sensors=[Constant(100)])
    with pytest.raises(ValueError, match="cut"):
        train()
    with track(sensors=[Constant(100)]) as later:
        later.load_state_dict(saved(run))
        for _ in later.epochs(4):
            time.sleep(0.05)
    assert list(later.trace.column("epoch")) == [0, 1, 2, 3]
    # From its beginning, and in the later run alone; but what it had cost was spent.
    assert list(later.trace.column("start_s") >= 0) == [False, False, True, True]
    assert later.trace.total_J >= later.trace.column("energy_J").sum() + 100 * 0.05


def test_metrics_of_both_parts_of_a_row() -> None:
    with track(sensors=[Constant(1)]) as run:
        for step in run.steps(8, every_n_steps=4):
            run.log(**({"early": 1.0} if step == 1 else {}))
            if step == 2:
                state = saved(run)
                break
    with track(sensors=[Constant(1)]) as later:
        later.load_state_dict(state)
        for _ in later.steps(4, every_n_steps=4):
            later.log(late=2.0)
    assert later.trace.epochs[["early", "late", "steps"]].to_numpy().tolist() == [[1, 2, 4]]


def test_a_kill_just_after_the_resumption(tmp_path: Path) -> None:
    """The total on disk holds the earlier part, before the first second is over."""
    with track(sensors=[Constant(100)]) as run:
        time.sleep(0.3)  # outside of any epoch
        run.start_epoch()
        time.sleep(0.1)
        run.end_epoch()
        run.start_epoch()
        time.sleep(0.1)
        state = saved(run)
    later = track(tmp_path / "energy", sensors=[Constant(100)])
    later.load_state_dict(state)
    later.start()
    later.start_epoch()
    later.end_epoch()
    later.describe(seen=True)
    assert is_within(lambda: len(load_trace(tmp_path / "energy")) == 2)
    (tmp_path / "energy" / "latest.json").unlink(missing_ok=True)
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 2
    assert trace.meta["earlier_total_J"] == state["total"]["energy_J"] > 100 * 0.5
    later.stop()
    assert state["total"]["energy_J"] < trace.total_J <= later.trace.total_J


def test_a_state_that_is_none() -> None:
    with track(sensors=[Constant(1)]) as run:
        good = run.state_dict()
        for bad in (
            None,
            {},
            {**good, "columns": {"epoch": [1.0], "start_s": [0.0]}},
            {**good, "columns": {n: [1.0, 2.0][: len(n) % 2 + 1] for n in good["columns"]}},
            {**good, "total": {"energy_J": math.inf}},
            {**good, "open_row": {"energy_J": 1.0}},
            {**good, "open_row": {"energy_J": 1.0, "duration_s": -1.0}},
            {**good, "columns": {n: [math.nan] for n in ("epoch", "start_s", "end_s")}},
            {**good, "columns": {n: [-1.0] for n in ("epoch", "start_s", "end_s", "energy_J")}},
            {**good, "columns": {"epoch": 3}},
        ):
            with pytest.raises(TraceError, match="the state of a run"):
                run.load_state_dict(bad)  # type: ignore[arg-type]


def test_what_was_not_measured_stays_unknown(clock: Clock) -> None:
    sensor = Failing(100, fails=0)
    with track(sensors=[sensor]) as run:
        for epoch in run.epochs(3):
            clock.sleep(1)
            sensor.fails = math.inf if epoch == 1 else 0
            clock.sleep(7)
            sensor.fails = 0
            clock.sleep(1)
        state = saved(run)
    with track(sensors=[Constant(100)]) as later:
        later.load_state_dict(state)
        for _ in later.epochs(4):
            clock.sleep(1)
    assert list(np.isnan(later.trace.column("energy_J"))) == [False, True, False, False]
    assert math.isnan(later.trace.total_J)


def test_a_monitor_survives_without_a_run(tmp_path: Path) -> None:
    trainer = make_trainer(pytorch_lightning, tmp_path, EnergyMonitor(), max_epochs=1)
    trainer.strategy.connect(PlNet())
    trainer.save_checkpoint(tmp_path / "before.ckpt")  # before any fit
    assert "energyest" not in torch.load(tmp_path / "before.ckpt", weights_only=True)
