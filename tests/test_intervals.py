"""Trainings recorded by intervals of batches: `EnergyMonitor(every_n_steps=n)`, `run.steps()`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from energyest import EnergyMonitor, load_trace, track
from energyest.display import format_Wh
from energyest.errors import ConfigurationError
from energyest.tracking import sync
from simulation.stepped import Clock
from tests.support.cost import cost_in_calls
from tests.support.loggers import read_csv, read_tensorboard
from tests.support.sensors import Constant
from tests.support.trainers import (
    BATCH,
    GPU_W,
    NETS,
    AccidentError,
    AtBatch,
    PlNet,
    Recipe,
    Stream,
    batches,
    both_namespaces,
    lightning_warns,
    make_trainer,
    monitor_of,
    outcome,
    warnings_of,
)

pytestmark = lightning_warns


# ---------------------------------------------------------------------- the rows


@both_namespaces
def test_training_of_one_epoch(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=5)
    look = AtBatch(lambda _: (len(monitor.trace), monitor.trace.meta.get("planned_epochs")))
    model = NETS[pl](step_s=0.01)
    make_trainer(pl, tmp_path, monitor, look, max_epochs=1).fit(model, batches(27))

    for trace in (monitor.trace, load_trace(tmp_path / "energy")):
        epochs = trace.epochs
        assert list(epochs.epoch) == 6 * [0]
        assert list(epochs.steps) == [5, 5, 5, 5, 5, 2]  # the last one: what was left
        assert list(epochs.samples) == [BATCH * n for n in epochs.steps]
        np.testing.assert_allclose(epochs.flops, epochs.flops[0] / 5 * epochs.steps)
        np.testing.assert_array_equal(epochs.start_s[1:], epochs.end_s[:-1])
        assert (epochs.duration_s >= 0.01 * epochs.steps).all()
        np.testing.assert_allclose(epochs.energy_J, GPU_W * epochs.duration_s)
        assert trace.meta["interval_steps"] == 5
        assert trace.meta["planned_epochs"] == pytest.approx(5.4)
        assert trace.meta["train_samples"] == 27 * BATCH
        assert "interrupted_epoch" not in trace.meta
    # Known from the first interval on; a row is there as soon as the next interval's first batch.
    assert look.seen == [(i // 5, 5.4 if i >= 5 else None) for i in range(27)]
    assert monitor.projection is not None
    assert monitor.projection.energy_J == pytest.approx(monitor.trace.epochs.energy_J.sum())


def test_rows_are_the_training(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=3, count_flops=False)
    model = PlNet(step_s=0.002, validation_s=0.002)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=4)
    trainer.fit(model, batches(5), batches(2))
    trace = monitor.trace
    epochs = trace.epochs
    assert epochs.energy_J.sum() == pytest.approx(
        GPU_W * (epochs.end_s.iloc[-1] - epochs.start_s[0])
    )
    assert trace.total_J == pytest.approx(GPU_W * trace.meta["duration_s"])
    outside_s = trace.meta["duration_s"] - epochs.duration_s.sum()
    assert trace.total_J - epochs.energy_J.sum() == pytest.approx(GPU_W * outside_s)


@both_namespaces
def test_intervals_across_epochs(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=5)
    model = NETS[pl](step_s=0.001, validation_s=0.01)
    make_trainer(pl, tmp_path, monitor, max_epochs=3).fit(model, batches(4), batches(2))
    for trace in (monitor.trace, load_trace(tmp_path / "energy")):
        epochs = trace.epochs
        assert list(epochs.steps) == [5, 5, 2]
        assert list(epochs.epoch) == [0, 1, 2]  # in which they began
        np.testing.assert_array_equal(epochs.start_s[1:], epochs.end_s[:-1])
        # One validation lies in each.
        assert (epochs.validation_s >= 0.02).all()
        np.testing.assert_allclose(epochs.validation_energy_J, GPU_W * epochs.validation_s)
        assert (epochs.validation_energy_J < epochs.energy_J).all()
        assert list(epochs.val_epoch) == [0, 1, 2]
        assert list(epochs.late) == [0, 10, 20]
        losses = np.array(model.losses).reshape(3, 4).mean(axis=1)
        np.testing.assert_allclose(epochs.train_loss, losses, rtol=1e-6)
        assert trace.meta["planned_epochs"] == pytest.approx(12 / 5)


@both_namespaces
def test_intervals_that_are_epochs(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=4)
    model = NETS[pl](validation_s=0.01)
    make_trainer(pl, tmp_path, monitor, max_epochs=3).fit(model, batches(4), batches(1))
    epochs = load_trace(tmp_path / "energy").epochs
    assert list(epochs.steps) == [4, 4, 4]  # nothing is left: no empty last row
    assert list(epochs.epoch) == [0, 1, 2]
    assert (epochs.validation_s >= 0.01).all()
    assert list(epochs.val_epoch) == [0, 1, 2]
    assert list(epochs.late) == [0, 10, 20]  # logged when none was running


def test_validation_after_an_intervals_last_batch_is_its_own(tmp_path: Path) -> None:
    monitor = monitor_of(every_n_steps=3)
    options = {"max_steps": 12, "val_check_interval": 6, "check_val_every_n_epoch": None}
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, **options)
    trainer.fit(PlNet(validation_s=0.01), batches(20), batches(1))
    epochs = monitor.trace.epochs
    np.testing.assert_array_equal(epochs.validation_s >= 0.01, [0, 1, 0, 1])
    np.testing.assert_array_equal(epochs.val_epoch, [math.nan, 0, math.nan, 0])
    assert monitor.trace.meta["validation_every_n_rows"] == 2


@both_namespaces
def test_max_steps_with_accumulation(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(every_n_steps=6)
    look = AtBatch(lambda _: monitor.trace.meta.get("planned_epochs"))
    options = {"max_steps": 5, "accumulate_grad_batches": 4}
    make_trainer(pl, tmp_path, monitor, look, **options).fit(NETS[pl](), batches(100))
    assert list(monitor.trace.epochs.steps) == [6, 6, 6, 2]  # batches, not optimizer steps
    assert look.seen[6:] == pytest.approx(14 * [20 / 6])
    assert monitor.trace.meta["planned_epochs"] == pytest.approx(20 / 6)


def test_loader_without_a_length(tmp_path: Path) -> None:
    monitor = monitor_of(every_n_steps=3)
    look = AtBatch(lambda _: monitor.trace.meta.get("planned_epochs"))
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, look, max_epochs=3)
    trainer.fit(PlNet(), DataLoader(Stream(), BATCH))
    assert list(monitor.trace.epochs.steps) == [3, 3, 3, 3]
    # How long an epoch is shows at the end of the first.
    assert look.seen == [None] * 6 + [4] * 6


def test_training_that_stops_early(tmp_path: Path) -> None:
    class Stop(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 8

    monitor = monitor_of(every_n_steps=5)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, Stop(), max_epochs=9)
    trainer.fit(PlNet(), batches(20))
    assert list(monitor.trace.epochs.steps) == [5, 3]
    assert monitor.trace.meta["status"] == "finished"
    assert monitor.trace.meta["planned_epochs"] == 1.6  # it has come to its end
    assert monitor.projection.energy_J == pytest.approx(monitor.trace.column("energy_J").sum())


def test_interval_longer_than_the_training(tmp_path: Path) -> None:
    monitor = monitor_of(every_n_steps=1000)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2)
    trainer.fit(PlNet(), batches(4))
    assert list(monitor.trace.epochs.steps) == [8]
    assert monitor.trace.meta["planned_epochs"] == pytest.approx(0.008)


# ---------------------------------------------------------------------- metrics


class Logging(PlNet):
    """Logs in all ways within an epoch."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        step = float(self.trainer.fit_loop.total_batch_idx)
        self.log("step", step)  # on_step, which is the default here
        self.log("both", step, on_step=True, on_epoch=True)
        self.log("epoch_mean", step, on_step=False, on_epoch=True)
        if batch_idx == 0:
            self.log("once", step)
        return loss

    def on_train_epoch_end(self) -> None: ...

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", float(self.trainer.fit_loop.total_batch_idx))


@both_namespaces
def test_metrics_of_intervals(pl: ModuleType, tmp_path: Path) -> None:
    class Net(Recipe, pl.LightningModule):  # type: ignore[name-defined, misc]
        training_step = Logging.training_step
        on_train_epoch_end = Logging.on_train_epoch_end
        validation_step = Logging.validation_step

    monitor = monitor_of(tmp_path / "energy", every_n_steps=3)
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=2, val_check_interval=4)
    trainer.fit(Net(), batches(8), batches(1))
    nan = math.nan
    for trace in (monitor.trace, load_trace(tmp_path / "energy")):
        epochs = trace.epochs
        assert list(epochs.steps) == [3, 3, 3, 3, 3, 1]
        # The last value in the interval of what is logged at every batch,
        assert list(epochs.step) == [2, 5, 8, 11, 14, 15]
        # an epoch's mean in the interval in which it ends, and no value twice.
        np.testing.assert_array_equal(epochs.epoch_mean, [nan, nan, 3.5, nan, nan, 11.5])
        np.testing.assert_array_equal(epochs.both_epoch, [nan, nan, 3.5, nan, nan, 11.5])
        assert list(epochs.both_step) == list(epochs.step)
        np.testing.assert_array_equal(epochs.once, [0, nan, 8, nan, nan, nan])
        np.testing.assert_array_equal(epochs.val, [nan, 3, 7, 11, nan, 15])
    assert "energy/interval_J" not in monitor.trace.metrics


# ---------------------------------------------------------------------- what it shows

LOGGED = ["energy/interval_J", "energy/total_J", "energy/mean_power_W"]
PROJECTED = ["energy/projected_J", "energy/projected_lower_J", "energy/projected_upper_J"]


@both_namespaces
def test_loggers_get_every_interval(pl: ModuleType, clock: Clock, tmp_path: Path) -> None:
    loggers = [
        pl.loggers.CSVLogger(tmp_path / "csv"),
        pl.loggers.TensorBoardLogger(tmp_path / "tensorboard"),
    ]
    monitor = monitor_of(every_n_steps=4)
    shown = AtBatch(lambda t: (t.progress_bar_metrics.get("energy"), monitor.projection))
    trainer = make_trainer(pl, tmp_path, monitor, shown, max_epochs=2, logger=loggers)
    trainer.log_every_n_steps = 1000
    trainer.fit(NETS[pl](step_s=0.005, clock=clock), batches(15))

    steps = [3, 7, 11, 15, 19, 23, 27, 29]
    epochs = monitor.trace.epochs
    for values in (read_csv(loggers[0].log_dir), read_tensorboard(loggers[1].log_dir)):
        for name in LOGGED:
            assert list(values[name]) == steps
        logged = list(values["energy/interval_J"].values())
        np.testing.assert_allclose(logged, epochs.energy_J, rtol=1e-5)
        np.testing.assert_allclose(list(values["energy/mean_power_W"].values()), GPU_W, rtol=1e-5)
        assert 0 < len(values["energy/projected_J"]) < len(steps)
        for name in PROJECTED:
            assert list(values[name]) == list(values["energy/projected_J"])
        assert "energy/epoch_J" not in values
    for in_bar, projection in shown.seen:
        if in_bar is not None and projection is not None:
            assert in_bar.endswith(f"/{format_Wh(projection.energy_J)}")
    end = f"/{format_Wh(monitor.projection.energy_J)}"
    assert trainer.progress_bar_metrics["energy"].endswith(end)
    assert trainer.callback_metrics["energy/interval_J"] == pytest.approx(logged[-1])


def test_step_of_the_loggers_with_accumulation(tmp_path: Path) -> None:
    logger = pytorch_lightning.loggers.CSVLogger(tmp_path)
    options = {"max_epochs": 1, "accumulate_grad_batches": 2, "logger": logger}
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor_of(every_n_steps=4), **options)
    trainer.fit(PlNet(), batches(9))
    assert list(read_csv(logger.log_dir)["energy/interval_J"]) == [1, 3, 4]


def test_logger_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(pytorch_lightning.loggers.CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if "energy/interval_J" in metrics:
                raise OSError("no network")

    monitor, model = monitor_of(every_n_steps=3), PlNet()
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, max_epochs=2, logger=Broken(tmp_path)
    )
    trainer.fit(model, batches(5))
    assert len(model.losses) == 10
    assert list(monitor.trace.epochs.steps) == [3, 3, 3, 1]
    assert len(warnings_of(caplog)) == 1


def test_gpu_is_waited_for_at_the_edges_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []
    monkeypatch.setattr(sync, "synchronize", lambda: frozenset(waits.append(1) or ()))
    monitor = monitor_of(every_n_steps=10, count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1)
    trainer.fit(PlNet(), batches(40))
    assert len(waits) == 1 + 4 + 1  # the first beginning, ends, and that of the run


@both_namespaces
def test_a_batch_costs_microseconds(pl: ModuleType, tmp_path: Path) -> None:
    costs = []

    class Measured(EnergyMonitor):
        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            trainer, module, _, batch, index = arguments
            if index == 20:
                start, end = super().on_train_batch_start, super().on_train_batch_end

                def watch_a_batch() -> None:
                    start(trainer, module, batch, index)
                    end(*arguments)

                costs.append(cost_in_calls(watch_a_batch, repetitions=200))

    monitor = Measured(tmp_path / "energy", sensors=[Constant(GPU_W)])
    make_trainer(pl, tmp_path, monitor, max_epochs=1).fit(NETS[pl](), batches(25))
    assert monitor.trace.column("steps").sum() == 25 + 10 * 200
    assert costs[0] < 500  # about 200, which are 30 microseconds


@both_namespaces
def test_training_is_bit_identical(pl: ModuleType, tmp_path: Path) -> None:
    net = NETS[pl]
    plain = outcome(net, pl, tmp_path)
    monitor = monitor_of(tmp_path / "energy", every_n_steps=3)
    watched = outcome(net, pl, tmp_path, monitor)
    assert len(monitor.trace) == 4
    assert watched["losses"] == plain["losses"]
    for one, other in zip(watched["values"], plain["values"], strict=True):
        assert torch.equal(one, other)


# ---------------------------------------------------------------------- broken off, resumed


@pytest.mark.parametrize("where", ["training_step", "validation_step"])
@both_namespaces
def test_exception(pl: ModuleType, where: str, tmp_path: Path) -> None:
    class Net(Recipe, pl.LightningModule):  # type: ignore[name-defined, misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if where == "training_step" and self.current_epoch == 2 and batch_idx == 3:
                raise AccidentError
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if where == "validation_step" and self.current_epoch == 2:
                raise AccidentError
            super().validation_step(batch, batch_idx)

    monitor = monitor_of(tmp_path / "energy", every_n_steps=4)
    with pytest.raises(AccidentError):
        make_trainer(pl, tmp_path, monitor, max_epochs=5).fit(Net(), batches(6), batches(1))
    # 15 batches were done, or 18.
    rows, steps = (3, 3) if where == "training_step" else (4, 2)
    for trace in (monitor.trace, load_trace(tmp_path / "energy")):
        assert list(trace.epochs.steps) == rows * [4]
        cut = trace.meta["interrupted_epoch"]
        assert cut["epoch"] == 2
        assert cut["steps"] == steps
        assert cut["start_s"] == trace.epochs.end_s.iloc[-1]
        assert cut["energy_J"] == pytest.approx(GPU_W * cut["duration_s"])
        assert trace.meta["status"] == "interrupted by AccidentError"
        assert trace.total_J == pytest.approx(GPU_W * trace.meta["duration_s"])


@both_namespaces
def test_resume(pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, save_top_k=-1, every_n_train_steps=7)
    trainer = make_trainer(pl, tmp_path, save, max_epochs=2, enable_checkpointing=True)
    trainer.fit(NETS[pl](), batches(5))

    monitor = monitor_of(every_n_steps=4)
    planned = AtBatch(lambda _: monitor.trace.meta.get("planned_epochs"))
    trainer = make_trainer(pl, tmp_path, monitor, planned, max_epochs=4)
    trainer.fit(NETS[pl](), batches(5), ckpt_path=tmp_path / "epoch=1-step=7.ckpt")
    epochs = monitor.trace.epochs
    assert list(epochs.steps) == [4, 4, 4, 1]  # 13 of 20 batches were left
    assert list(epochs.epoch) == [1, 2, 3, 3]
    assert planned.seen == [None] * 4 + [13 / 4] * 9
    assert monitor.trace.meta["first_epoch"] == 1
    assert warnings_of(caplog) == []


def test_fit_twice(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=3)
    for _ in range(2):
        make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1).fit(PlNet(), batches(4))
        assert list(monitor.trace.epochs.steps) == [3, 1]
    assert len(load_trace(tmp_path / "energy")) == len(load_trace(tmp_path / "energy-2")) == 2


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "200", math.nan])
def test_wrong_intervals(every: Any) -> None:
    with pytest.raises(ConfigurationError, match="every_n_steps"):
        EnergyMonitor(every_n_steps=every)


# ---------------------------------------------------------------------- any loop


def test_own_steps(tmp_path: Path) -> None:
    with track(tmp_path / "energy", sensors=[Constant(200)]) as run:
        for step in run.steps(10, every_n_steps=4):
            time.sleep(0.01)
            if step % 4 == 3:
                with run.validation():
                    time.sleep(0.02)
                run.log(val_loss=step)
    for trace in (run.trace, load_trace(tmp_path / "energy")):
        epochs = trace.epochs
        assert list(epochs.epoch) == [0, 1, 2]
        assert list(epochs.steps) == [4, 4, 2]
        np.testing.assert_array_equal(epochs.start_s[1:], epochs.end_s[:-1])
        np.testing.assert_allclose(epochs.energy_J, 200 * epochs.duration_s)
        np.testing.assert_array_equal(epochs.validation_s >= 0.02, [1, 1, 0])
        np.testing.assert_array_equal(epochs.val_loss, [3, 7, math.nan])
        assert trace.meta["interval_steps"] == 4
        assert trace.meta["planned_epochs"] == 2.5
        assert trace.meta["status"] == "finished"
    assert run.planned_epochs == 2.5


def test_break_keeps_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    with track(sensors=[Constant(100)]) as run:
        for step in run.steps(100, every_n_steps=3):
            run.log(loss=step)
            if step == 7:
                break
        run.log(test=1)
    assert list(run.trace.column("steps")) == [3, 3, 2]
    assert list(run.trace.column("loss")) == [2, 5, 7]
    assert run.trace.column("test")[2] == 1
    assert "interrupted_epoch" not in run.trace.meta
    assert warnings_of(caplog) == []


def test_exception_interrupts_the_interval(caplog: pytest.LogCaptureFixture) -> None:
    run = track(sensors=[Constant(100)])

    def training() -> None:
        with run:
            for step in run.steps(100, every_n_steps=3):
                if step == 7:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        training()
    assert list(run.trace.column("steps")) == [3, 3]
    assert run.trace.meta["status"] == "interrupted by ZeroDivisionError"
    assert run.trace.meta["interrupted_epoch"]["epoch"] == 2
    assert run.trace.meta["interrupted_epoch"]["steps"] == 2  # the one that failed is in it
    assert warnings_of(caplog) == []


def steps_of(run: Any, *arguments: Any, **options: Any) -> Iterator[int]:
    return iter(run.steps(*arguments, **options))


@pytest.mark.parametrize(("steps", "every"), [(0, 5), (2.5, 5), (10, 0), (10, "2")])
def test_wrong_steps(steps: Any, every: Any) -> None:
    with track(sensors=[Constant(1)]) as run, pytest.raises(ConfigurationError, match="steps="):
        next(steps_of(run, steps, every_n_steps=every))
