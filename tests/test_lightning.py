"""`EnergyMonitor` in real Lightning trainings, of both namespaces."""

from __future__ import annotations

import copy
import importlib
import logging
import math
import pickle
import signal
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
import torchmetrics
from pytorch_lightning.utilities.exceptions import _TunerExitException
from torch import Tensor, nn
from torch.utils.data import DataLoader

from energyest import EnergyMonitor, describe_workload, estimate_step, load_trace
from energyest.display import format_Wh
from energyest.errors import ConfigurationError
from energyest.measure.recorder import Recorder
from simulation.stepped import Clock
from tests.support.forks import LIGHTNING, Forks
from tests.support.loggers import read_csv, read_tensorboard
from tests.support.sensors import Constant, Failing
from tests.support.threads import is_within
from tests.support.trainers import (
    BATCH,
    BATCHES,
    CPU_W,
    GPU_W,
    NETS,
    RAM_W,
    SAMPLES,
    AccidentError,
    At,
    LightningNet,
    PlNet,
    Recipe,
    Spy,
    Stream,
    TwoOptimizers,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    outcome,
    warnings_of,
)

pytestmark = lightning_warns

# ---------------------------------------------------------------------- the record


def test_works_without_arguments(pl: ModuleType, tmp_path: Path) -> None:
    monitor = EnergyMonitor()
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=2, logger=True)
    trainer.fit(NETS[pl](step_s=0.02), loader(), loader())

    epochs = monitor.trace.epochs
    assert list(epochs.epoch) == [0, 1]
    # This machine's own sensors: every machine has at least a model of its processors and memory.
    assert (epochs.cpu_energy_J > 0).all()
    assert (epochs.ram_energy_J > 0).all()
    assert (epochs.energy_J > 0).all()
    assert monitor.folder == Path(trainer.log_dir) / "energy"
    written = load_trace(monitor.folder)
    assert written.meta["status"] == "finished"
    np.testing.assert_allclose(written.column("energy_J"), epochs.energy_J)


def test_epochs_table(pl: ModuleType, tmp_path: Path) -> None:
    sensors = [Constant(GPU_W), Constant(CPU_W, "cpu:0")]
    monitor = monitor_of(tmp_path / "energy", *sensors, Constant(RAM_W, "ram:0"))
    model = NETS[pl](step_s=0.005, validation_s=0.01)
    make_trainer(pl, tmp_path, monitor, max_epochs=3).fit(model, loader(), loader(2 * BATCH))

    epochs = monitor.trace.epochs
    assert list(epochs.epoch) == [0, 1, 2]
    assert (epochs.duration_s >= BATCHES * 0.005 + 2 * 0.01).all()
    np.testing.assert_allclose(epochs.start_s[1:], epochs.end_s[:-1])
    for column, power_W in [("gpu", GPU_W), ("cpu", CPU_W), ("ram", RAM_W)]:
        np.testing.assert_allclose(epochs[f"{column}_energy_J"], power_W * epochs.duration_s)
    total_W = GPU_W + CPU_W + RAM_W
    np.testing.assert_allclose(epochs.energy_J, total_W * epochs.duration_s)
    np.testing.assert_allclose(epochs.mean_power_W, total_W)
    assert (epochs.validation_s >= 2 * 0.01).all()
    np.testing.assert_allclose(epochs.validation_energy_J, total_W * epochs.validation_s)
    assert (epochs.validation_energy_J < epochs.energy_J).all()
    assert list(epochs.steps) == 3 * [BATCHES]
    assert list(epochs.samples) == 3 * [SAMPLES]
    flops = Recipe.FORWARD_FLOPS * Recipe.TRAINING_TO_FORWARD * SAMPLES
    assert list(epochs.flops) == pytest.approx(3 * [flops])
    # The user's metrics, whenever in the epoch they were logged.
    losses = np.array(model.losses).reshape(3, BATCHES).mean(axis=1)
    np.testing.assert_allclose(epochs.train_loss, losses, rtol=1e-6)
    assert list(epochs.late) == [0, 10, 20]
    assert list(epochs.val_epoch) == [0, 1, 2]
    assert sorted(monitor.trace.metrics) == ["late", "train_loss", "val_epoch"]
    np.testing.assert_allclose(load_trace(monitor.folder).column("late"), [0, 10, 20])


def test_meta(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2, precision="64-true")
    trainer.fit(PlNet(), loader(), loader(2 * BATCH))
    meta = load_trace(tmp_path / "energy").meta
    parameters = (8 * 16 + 16) + 2 * 16 + (16 * 2 + 2)
    assert meta["model"] == {
        "name": "PlNet",
        "parameters": parameters,
        "trainable_parameters": parameters,
    }
    assert meta["batch_size"] == BATCH
    assert meta["hparams"] == {}
    assert meta["train_samples"] == SAMPLES
    assert meta["validation_samples"] == 2 * BATCH
    assert meta["planned_epochs"] == 2
    assert meta["precision"] == "fp64"
    assert meta["forward_flops_per_sample"] == Recipe.FORWARD_FLOPS
    assert meta["versions"]["pytorch_lightning"] == pytorch_lightning.__version__
    assert meta["total_J"] == pytest.approx(GPU_W * meta["duration_s"], rel=1e-3)


def test_hyperparameters_of_a_run(tmp_path: Path) -> None:
    class Configured(PlNet):
        def __init__(self, arch: str, **others: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    kept = {"arch": "small", "lr": 0.1, "deep": True, "steps": 3, "max_tokens": 5}
    dropped = {"layers": [1, 2], "bad": math.nan, "text": "x" * 999, "huge": 10**400, "none": None}
    dropped |= {"api_key": "abc", "hub.Token": "abc", "aws_credentials": "abc", "y" * 999: 1}
    dropped |= {"api_token": 1, "site": "https://a.b", "data": "/home/me", "note": "see below."}
    others = {k: v for k, v in kept.items() if k != "arch"} | dropped
    others |= {"steps": np.int64(3), "optimizer": {"name": "adam", "more": Namespace(eps=1e-8)}}
    module = Configured("small", **others)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1).fit(module, loader())
    meta = load_trace(tmp_path / "energy").meta
    assert meta["hparams"] == kept | {"optimizer.name": "adam", "optimizer.more.eps": 1e-8}
    assert meta["model"]["name"] == "Configured"
    asked = monitor_of(None, count_flops=False, hparams=["site", "layers"])
    make_trainer(pytorch_lightning, tmp_path, asked, max_epochs=1).fit(module, loader())
    more = {"site": "https://a.b", "layers": [1, 2]}
    assert asked.trace.meta["hparams"] == meta["hparams"] | more


def test_what_is_not_measured_is_nan(tmp_path: Path) -> None:
    monitor = monitor_of(None, count_flops=False)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1).fit(PlNet(), loader())
    epoch = monitor.trace.epochs.iloc[0]
    assert epoch.energy_J == epoch.gpu_energy_J > 0
    assert math.isnan(epoch.cpu_energy_J)
    assert math.isnan(epoch.ram_energy_J)
    assert math.isnan(epoch.flops)
    assert epoch.validation_s == 0


@pytest.fixture
def metrics_move_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end a Trainer moves all metrics to the CPU: those of a GPU become other tensors."""
    module = "trainer.connectors.logger_connector.logger_connector"
    for namespace in ("pytorch_lightning", "lightning.pytorch"):
        connector = importlib.import_module(f"{namespace}.{module}")
        monkeypatch.setattr(connector, "move_data_to_device", lambda tensor, _: tensor.clone())


@pytest.mark.usefixtures("metrics_move_at_the_end")
def test_metric_of_an_earlier_epoch_is_not_repeated(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=5, check_val_every_n_epoch=2)
    trainer.fit(NETS[pl](), loader(), loader())
    for trace in (monitor.trace, load_trace(monitor.folder)):
        np.testing.assert_array_equal(
            trace.column("val_epoch"), [math.nan, 1, math.nan, 3, math.nan]
        )
        np.testing.assert_array_equal(trace.column("validation_s") > 0, [0, 1, 0, 1, 0])
        np.testing.assert_array_equal(trace.column("validation_energy_J") > 0, [0, 1, 0, 1, 0])


def test_two_validations_in_an_epoch(tmp_path: Path) -> None:
    monitor = monitor_of()
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, max_epochs=2, val_check_interval=0.5
    )
    trainer.fit(PlNet(validation_s=0.02), loader(), loader(BATCH))
    epochs = monitor.trace.epochs
    assert (epochs.validation_s >= 2 * 0.02).all()
    np.testing.assert_allclose(epochs.validation_energy_J, GPU_W * epochs.validation_s)
    assert monitor.trace.meta["validation_samples"] == BATCH


def test_sanity_validation_is_in_no_epoch(tmp_path: Path) -> None:
    monitor = monitor_of()
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, max_epochs=2, check_val_every_n_epoch=5
    )
    trainer.fit(PlNet(validation_s=0.05), loader(), loader())
    epochs = monitor.trace.epochs
    assert epochs.start_s[0] > 2 * 0.05  # it did run
    assert list(epochs.validation_s) == [0, 0]
    assert "val_epoch" not in epochs
    assert monitor.total_J > epochs.energy_J.sum() + 2 * 0.05 * GPU_W


def test_metrics_named_like_columns_do_not_replace_them(tmp_path: Path) -> None:
    class Net(PlNet):
        def on_train_epoch_end(self) -> None:
            for name in ("epoch", "steps", "samples", "flops", "energy_J"):
                self.log(name, -1.0)
            self.log("own", 2.0)

    class Early(Net):
        def on_train_epoch_start(self) -> None:
            self.log("steps", -1.0)

    for kind in (Net, Early):
        monitor = monitor_of()
        make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(kind(), loader())
        epochs = monitor.trace.epochs
        assert list(epochs.epoch) == [0, 1]
        assert list(epochs.steps) == 2 * [BATCHES]
        assert list(epochs.samples) == 2 * [SAMPLES]
        assert (epochs.energy_J > 0).all()
        assert list(epochs.own) == [2, 2]


# ---------------------------------------------------------------------- how long a training lasts


@pytest.mark.parametrize(
    ("options", "model", "data", "steps", "epochs"),
    [
        ({"max_epochs": 3}, PlNet, loader(), [4, 4, 4], 3),
        ({"max_epochs": -1, "max_steps": 10}, PlNet, loader(), [4, 4, 2], 2.5),
        ({"max_steps": 10}, PlNet, loader(), [4, 4, 2], 2.5),
        ({"max_epochs": 3, "max_steps": 100}, PlNet, loader(), [4, 4, 4], 3),
        # Steps count batches; the Trainer's own limit counts optimizer steps.
        ({"max_steps": 5, "accumulate_grad_batches": 2}, PlNet, loader(), [4, 4, 2], 2.5),
        ({"max_steps": 24}, TwoOptimizers, loader(), [4, 4, 4], 3),
        ({"max_steps": 10}, PlNet, DataLoader(Stream(), BATCH), [4, 4, 2], 2.5),
        ({"max_epochs": 3, "limit_train_batches": 1}, PlNet, loader(), [1, 1, 1], 3),
    ],
    ids=[
        "max_epochs",
        "max_epochs=-1",
        "max_steps",
        "both",
        "accumulation",
        "manual optimisation",
        "no length",
        "one batch",
    ],
)
def test_length_of_the_training_is_known_from_the_first_epoch(
    options: dict[str, Any],
    model: type[PlNet],
    data: Any,
    steps: list[int],
    epochs: float,
    tmp_path: Path,
) -> None:
    monitor = monitor_of()
    planned = Spy(lambda _: monitor.trace.meta["planned_epochs"])
    make_trainer(pytorch_lightning, tmp_path, monitor, planned, **options).fit(model(), data)
    assert list(monitor.trace.epochs.steps) == steps
    assert list(monitor.trace.epochs.samples) == [BATCH * n for n in steps]
    assert planned.seen == 3 * [epochs]
    assert monitor.trace.meta["status"] == "finished"


def test_unlimited_training_is_projected_at_its_end_only(tmp_path: Path) -> None:
    monitor = monitor_of()
    projections = []

    def stop(trainer: Any) -> None:
        projections.append(monitor.projection)
        trainer.should_stop = trainer.current_epoch == 5

    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, Spy(stop), max_epochs=-1)
    trainer.fit(PlNet(step_s=0.01), loader())
    assert len(monitor.trace) == 6
    assert projections == [None] * 6
    assert monitor.projection.energy_J == pytest.approx(monitor.trace.column("energy_J").sum())


def test_early_stopping(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    stopping = pl.callbacks.EarlyStopping("late", mode="min", patience=2)  # it only grows
    make_trainer(pl, tmp_path, monitor, stopping, max_epochs=100).fit(NETS[pl](), loader())
    trace = load_trace(tmp_path / "energy")
    assert list(trace.epochs.epoch) == [0, 1, 2]
    assert trace.meta["status"] == "finished"
    assert "interrupted_epoch" not in trace.meta


@pytest.mark.parametrize(
    "options",
    [{"limit_train_batches": 0, "max_epochs": 2}, {"max_epochs": 0}, {"max_steps": 0}],
    ids=str,
)
def test_training_without_a_batch(options: dict[str, Any], tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    make_trainer(pytorch_lightning, tmp_path, monitor, **options).fit(PlNet(), loader())
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 0
    assert trace.meta["status"] == "finished"
    assert "interrupted_epoch" not in trace.meta


def test_a_log_dir_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=1)
    monkeypatch.setattr(type(trainer), "log_dir", "gs://bucket/runs")
    trainer.fit(PlNet(), loader())
    assert monitor.folder == tmp_path / "energy"
    assert "gs://bucket/runs is not on this machine" in caplog.text


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, fast_dev_run=True)
    trainer.fit(PlNet(), loader(), loader())
    assert list(monitor.trace.epochs.steps) == [1]
    assert monitor.folder is None
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- broken off


def break_off(
    pl: ModuleType, tmp_path: Path, where: str, error: BaseException
) -> tuple[EnergyMonitor, BaseException]:
    """Train, raise `error` in the third epoch, and return what came out of `fit`."""

    def accident() -> None:
        raise error

    model = NETS[pl](step_s=0.002, validation_s=0.002)
    callbacks = []
    if where in ("training_step", "validation_step"):
        step = getattr(model, where)

        def broken(batch: Any, batch_idx: int) -> Any:
            if model.current_epoch == 2 and batch_idx == 1 and not model.trainer.sanity_checking:
                accident()
            return step(batch, batch_idx)

        setattr(model, where, broken)
    else:
        callbacks = [At(where, 2, accident)]
    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pl, tmp_path, *callbacks, monitor, max_epochs=5)
    with pytest.raises(BaseException) as raised:  # noqa: PT011  (it is compared below)
        trainer.fit(model, loader(), loader())
    return monitor, raised.value


@pytest.mark.parametrize(
    "where",
    ["training_step", "validation_step", "on_train_batch_end", "on_train_epoch_end"],
)
def test_exception(pl: ModuleType, where: str, tmp_path: Path) -> None:
    error = AccidentError("boom")
    monitor, raised = break_off(pl, tmp_path, where, error)
    assert raised is error
    written = load_trace(tmp_path / "energy")
    for trace in (monitor.trace, written):
        assert list(trace.epochs.epoch) == [0, 1]
        assert list(trace.epochs.late) == [0, 10]  # of the epoch before, logged in its last moment
        assert trace.meta["status"] == "interrupted by AccidentError"
        cut = trace.meta["interrupted_epoch"]
        assert cut["epoch"] == 2
        assert cut["start_s"] == pytest.approx(trace.epochs.end_s[1])
        assert cut["energy_J"] == pytest.approx(GPU_W * cut["duration_s"])
        assert (cut["validation_energy_J"] > 0) == where.startswith(
            ("validation", "on_train_epoch")
        )
    np.testing.assert_allclose(written.column("energy_J"), monitor.trace.column("energy_J"))
    # Nothing of the run is outside of its total.
    assert written.total_J == pytest.approx(GPU_W * written.meta["duration_s"])


def test_exception_after_the_monitor_has_closed_the_epoch(tmp_path: Path) -> None:
    class FullDisk(pytorch_lightning.callbacks.Checkpoint):
        """Checkpoints are called last of all."""

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise AccidentError

    trainer = make_trainer(
        pytorch_lightning,
        tmp_path,
        monitor_of(tmp_path / "energy"),
        FullDisk(),
        max_epochs=5,
        enable_checkpointing=True,
    )
    with pytest.raises(AccidentError):
        trainer.fit(PlNet(), loader())
    trace = load_trace(tmp_path / "energy")
    assert list(trace.epochs.epoch) == [0, 1]
    assert list(trace.epochs.late) == [0, 10]
    assert "interrupted_epoch" not in trace.meta


def test_exception_in_the_sanity_check(tmp_path: Path) -> None:
    class Net(PlNet):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise AccidentError

    monitor = monitor_of(tmp_path / "energy")
    with pytest.raises(AccidentError):
        make_trainer(pytorch_lightning, tmp_path, monitor).fit(Net(), loader(), loader())
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 0
    assert trace.meta["status"] == "interrupted by AccidentError"


def test_exception_in_a_metric(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(torchmetrics.Metric):
        def update(self) -> None: ...

        def compute(self) -> Tensor:
            raise AccidentError

    class Net(PlNet):
        def __init__(self) -> None:
            super().__init__()
            self.metric = Broken()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.metric.update()
            self.log("metric", self.metric, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    monitor = monitor_of(tmp_path / "energy")
    with pytest.raises(AccidentError):  # Lightning asks the metric too, after the monitor did
        make_trainer(pytorch_lightning, tmp_path, monitor).fit(Net(), loader())
    trace = load_trace(tmp_path / "energy")
    assert list(trace.epochs.steps) == [BATCHES]
    assert trace.meta["status"] == "interrupted by AccidentError"
    assert len(warnings_of(caplog)) == 1


@pytest.fixture
def sigint_restored() -> Iterator[None]:
    """Lightning ignores further Ctrl-C once it has seen one; later tests should not."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("sigint_restored")
def test_ctrl_c(pl: ModuleType, tmp_path: Path) -> None:
    monitor, raised = break_off(pl, tmp_path, "training_step", KeyboardInterrupt())
    assert isinstance(raised, SystemExit)
    trace = load_trace(tmp_path / "energy")
    assert list(trace.epochs.epoch) == [0, 1]
    assert trace.meta["status"] == "interrupted by KeyboardInterrupt"
    assert trace.meta["interrupted_epoch"]["epoch"] == 2
    assert len(monitor.trace) == 2


def test_killed_run(forks: Forks, tmp_path: Path) -> None:
    folder, said = tmp_path / "energy", tmp_path / "output" / "stdout"
    number = forks.start(
        "tests.support.killed:train", str(folder), folder=said.parent, needs=LIGHTNING
    )
    assert is_within(lambda: said.exists() and "now\n" in said.read_text())

    def has_metrics() -> bool:  # they are written within a second
        loss = load_trace(folder).epoch_columns.get("loss", np.empty(0))
        return np.isfinite(loss).sum() == 3

    assert is_within(has_metrics)
    forks.kill(number)
    assert forks.wait(number).status == -signal.SIGKILL
    trace = load_trace(folder)
    assert list(trace.epochs.epoch) == [0, 1, 2]
    assert (trace.epochs.energy_J > 0).all()
    assert list(trace.epochs.steps) == [4, 4, 4]
    assert trace.epochs.loss.notna().all()
    assert len(trace.power) > 0
    assert trace.meta["status"] == "running"


def test_the_last_metrics_of_a_fit_that_ends_between_two_epochs(tmp_path: Path) -> None:
    class Leave(pytorch_lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                raise _TunerExitException  # as a tuner does: no hook but the teardown follows

    class Net(PlNet):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log("number", float(self.current_epoch), on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pytorch_lightning, tmp_path, Leave(), max_epochs=4)
    trainer.callbacks.append(monitor)
    trainer.fit(Net(), loader())
    monitor.teardown(trainer, PlNet(), "fit")
    assert list(monitor.trace.column("number")) == [0, 1]
    assert list(load_trace(tmp_path / "energy").column("number")) == [0, 1]


# ---------------------------------------------------------------------- one monitor, many runs


def test_fit_twice(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(PlNet(), loader())
    first, first_total_J = monitor.trace, monitor.total_J
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3).fit(PlNet(), loader())

    assert monitor.folder == tmp_path / "energy-2"
    assert list(monitor.trace.epochs.epoch) == [0, 1, 2]
    assert monitor.trace.epochs.flops.notna().all()
    kept = load_trace(tmp_path / "energy")
    assert kept.meta["run_id"] == first.meta["run_id"] != monitor.trace.meta["run_id"]
    assert len(kept) == len(first) == 2
    assert kept.total_J == pytest.approx(first_total_J)
    assert monitor.total_J == pytest.approx(load_trace(tmp_path / "energy-2").total_J)


def test_fit_validate_fit(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    trainer = make_trainer(pl, tmp_path, monitor, max_epochs=2)
    model = NETS[pl]()
    trainer.fit(model, loader(), loader())
    before = monitor.trace
    trainer.validate(model, loader(), verbose=False)
    trainer.test(model, loader(), verbose=False)
    np.testing.assert_array_equal(monitor.trace.column("end_s"), before.column("end_s"))
    assert monitor.trace.meta == before.meta

    trainer.fit_loop.max_epochs = 5
    trainer.fit(model, loader(), loader())
    assert list(monitor.trace.epochs.epoch) == [2, 3, 4]
    assert monitor.trace.meta["planned_epochs"] == 3
    assert monitor.trace.meta["validation_samples"] == SAMPLES


def test_copies_of_the_monitor_after_a_run(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(PlNet(), loader())
    for duplicate in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert len(duplicate.trace) == 0  # the run, with its thread and files, stays behind
        assert duplicate.projection is None
        make_trainer(pytorch_lightning, tmp_path, duplicate, max_epochs=1).fit(PlNet(), loader())
        assert len(duplicate.trace) == 1
    assert len(monitor.trace) == 2


def test_before_the_first_run() -> None:
    monitor = EnergyMonitor()
    assert len(monitor.trace) == 0
    assert monitor.projection is None
    assert monitor.folder is None
    assert math.isnan(monitor.total_J)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"components": ["gpu", "tpu"]}, "tpu"),
        ({"interval_s": 0.0}, "interval_s"),
        ({"interval_s": math.nan}, "interval_s"),
        ({"confidence": 1.0}, "confidence"),
        ({"folder": "s3://bucket/energy"}, "folder"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        EnergyMonitor(**options)


# ---------------------------------------------------------------------- what it shows


LOGGED = ["energy/epoch_J", "energy/total_J", "energy/mean_power_W"]
PROJECTED = ["energy/projected_J", "energy/projected_lower_J", "energy/projected_upper_J"]


def test_no_logger(tmp_path: Path) -> None:
    monitor = monitor_of()
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2, logger=False)
    trainer.fit(PlNet(), loader())
    assert monitor.folder == tmp_path / "energy"
    last = monitor.trace.epochs.iloc[-1]
    assert trainer.callback_metrics["energy/epoch_J"] == pytest.approx(last.energy_J)


def test_every_logger_gets_the_energy(pl: ModuleType, clock: Clock, tmp_path: Path) -> None:
    loggers = [
        pl.loggers.CSVLogger(tmp_path / "csv"),
        pl.loggers.TensorBoardLogger(tmp_path / "tensorboard"),
    ]
    monitor = monitor_of()
    spy = Spy(lambda trainer: (monitor.projection, dict(trainer.progress_bar_metrics)))
    trainer = make_trainer(pl, tmp_path, monitor, spy, max_epochs=8, logger=loggers)
    trainer.fit(NETS[pl](step_s=0.02, clock=clock), loader())

    assert monitor.folder == Path(loggers[0].log_dir) / "energy"
    epochs = monitor.trace.epochs
    last_steps = [BATCHES * (i + 1) - 1 for i in range(8)]
    for values in (read_csv(loggers[0].log_dir), read_tensorboard(loggers[1].log_dir)):
        for name in LOGGED:
            assert list(values[name]) == last_steps
        np.testing.assert_allclose(list(values["energy/epoch_J"].values()), epochs.energy_J, 1e-5)
        np.testing.assert_allclose(list(values["energy/mean_power_W"].values()), GPU_W, 1e-5)
        # The total includes what lies before the first epoch.
        totals = np.array(list(values["energy/total_J"].values()))
        assert (totals >= epochs.energy_J.cumsum() * (1 - 1e-5)).all()
        assert totals[-1] < monitor.total_J * (1 + 1e-5)

        # The projection comes later, and not with every one of such short epochs.
        assert 0 < len(values["energy/projected_J"]) < 8
        assert last_steps[0] not in values["energy/projected_J"]
        for name, attribute in zip(PROJECTED, ("energy_J", "lower_J", "upper_J"), strict=True):
            assert list(values[name]) == list(values["energy/projected_J"])
            for step, value in values[name].items():
                projection, progress_bar = spy.seen[last_steps.index(step)]
                assert value == pytest.approx(getattr(projection, attribute), rel=1e-5)
                assert "/" in progress_bar["energy"]
    shown = [bar["energy"] for _, bar in spy.seen]
    ends = (values[name] for name in ("energy/total_J", "energy/projected_J"))
    assert shown[-1] == "/".join(format_Wh(list(end.values())[-1]) for end in ends)
    assert max(map(len, shown)) <= len("1.23kWh/4.56kWh")
    assert not any(name in bar for _, bar in spy.seen for name in (*LOGGED, *PROJECTED))


def test_logging_leaves_the_loggers_folder_alone(pl: ModuleType, tmp_path: Path) -> None:
    # The trace lies in the CSVLogger's folder, which that would clear of an earlier run's files.
    monitor = monitor_of()
    logger = pl.loggers.CSVLogger(tmp_path)
    make_trainer(pl, tmp_path, monitor, max_epochs=1, logger=logger).fit(NETS[pl](), loader())
    found = {path.name for path in Path(logger.log_dir).iterdir()}
    assert {"metrics.csv", "energy"} <= found
    assert len(load_trace(Path(logger.log_dir) / "energy")) == 1


def test_model_checkpoint_by_energy(pl: ModuleType, tmp_path: Path) -> None:
    best = pl.callbacks.ModelCheckpoint(dirpath=tmp_path, monitor="energy/epoch_J", mode="min")
    monitor = monitor_of()
    # In front of the monitor: Lightning itself calls checkpoints last.
    trainer = make_trainer(pl, tmp_path, best, monitor, max_epochs=4, enable_checkpointing=True)
    trainer.fit(NETS[pl](step_s=0.002), loader(), loader())
    energy_J = monitor.trace.column("energy_J")
    assert best.best_model_score == pytest.approx(energy_J.min())
    assert f"epoch={energy_J.argmin()}-" in best.best_model_path


def test_results_while_training_runs(pl: ModuleType, clock: Clock, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    planned = 8
    within: list[Any] = []

    class Watch(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            within.append((trainer.current_epoch, len(monitor.trace), monitor.total_J))

    def look(_: Any) -> Any:
        trace, projection = monitor.trace, monitor.projection
        best = None
        if projection is not None:
            best = estimate_step(trace, epochs=planned)
        return len(trace), len(trace.power), trace.meta["status"], projection, best

    spy = Spy(look)
    trainer = make_trainer(pl, tmp_path, monitor, Watch(), spy, max_epochs=planned)
    trainer.fit(NETS[pl](step_s=0.02, clock=clock), loader())

    assert all(epoch == epochs for epoch, epochs, _ in within)
    assert all(np.diff([total for *_, total in within]) > 0)
    for epoch, (epochs, readings, status, projection, best) in enumerate(spy.seen):
        assert epochs == epoch + 1
        assert readings > 0
        assert status == "running"
        if projection is not None:
            # Power is constant: what is final later is what was known then.
            assert projection.energy_J == pytest.approx(best.energy_J)
            assert projection.lower_J == pytest.approx(best.lower_J)
            assert projection.upper_J == pytest.approx(best.upper_J)
            assert projection.method == best.method
    assert spy.seen[0][3] is None  # one epoch is not enough
    assert any(projection is not None for *_, projection, _ in spy.seen)
    # At the end nothing is left to project.
    end = estimate_step(monitor.trace, epochs=planned)
    assert monitor.projection.energy_J == pytest.approx(end.energy_J)
    assert end.energy_J == pytest.approx(monitor.trace.epochs.energy_J.sum())


# ---------------------------------------------------------------------- trouble of its own


def test_folder_that_cannot_be_written(
    pl: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monitor = monitor_of(tmp_path / "file" / "energy")
    model = NETS[pl]()
    make_trainer(pl, tmp_path, monitor, max_epochs=3).fit(model, loader())
    assert len(model.losses) == 3 * BATCHES
    assert len(warnings_of(caplog)) == 1
    assert "cannot be written" in warnings_of(caplog)[0]
    assert monitor.folder is None
    assert len(monitor.trace) == 3
    assert len(load_trace(monitor.trace.save(tmp_path / "saved"))) == 3


def test_sensor_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_of(
        None, Failing(GPU_W, error=OSError("no such device")), Constant(RAM_W, "ram:0")
    )
    model = PlNet(step_s=0.01)
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3).fit(model, loader())
    assert len(model.losses) == 3 * BATCHES
    epochs = monitor.trace.epochs
    assert epochs.gpu_energy_J.isna().all()
    np.testing.assert_allclose(epochs.ram_energy_J, RAM_W * epochs.duration_s)
    # The device is named once, not once a reading.
    assert ["gpu:0" in text for text in warnings_of(caplog)] == [True]
    assert monitor.projection is None


@pytest.mark.parametrize(
    "method", ["__init__", "start", "start_epoch", "end_epoch", "start_validation", "stop"]
)
def test_broken_monitor_does_not_break_the_training(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = getattr(Recorder, method)

    def broken(self: Recorder, *args: Any, **kwargs: Any) -> None:
        if method == "stop":
            original(self, *args, **kwargs)  # or its thread would stay
        raise RuntimeError("out of order")

    monkeypatch.setattr(Recorder, method, broken)
    model = PlNet(step_s=0.002)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor_of(), max_epochs=3)
    trainer.fit(model, loader(), loader())
    assert len(model.losses) == 3 * BATCHES
    assert trainer.state.finished
    # It is said, once, and with the cause; not once an epoch.
    said = [r for r in caplog.records if r.name == "energyest" and r.levelno >= logging.WARNING]
    assert len([r for r in said if r.exc_info and "out of order" in str(r.exc_info[1])]) == 1
    assert len(said) <= 3


# ---------------------------------------------------------------------- it changes nothing


class Frozen(PlNet):
    """Part of it in eval mode, as in fine-tuning, and closures that hold the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.BatchNorm1d(8, affine=False)
        self.head = nn.Linear(2, 2).requires_grad_(False).eval()
        self.normalise = lambda x: self.stem(x) + 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(self.normalise(x)))


class Compiled(PlNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="eager")


class ForTrainingOnly(PlNet):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("forward is for training only")
        return self.net(x)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


@pytest.mark.parametrize("net", [PlNet, LightningNet, Frozen, Compiled, ForTrainingOnly])
def test_training_is_bit_identical(net: type[Recipe], tmp_path: Path) -> None:
    pl = lightning.pytorch if net is LightningNet else pytorch_lightning
    plain = outcome(net, pl, tmp_path)
    monitor = monitor_of(tmp_path / "energy")
    watched = outcome(net, pl, tmp_path, monitor)

    # The monitor did its work, and the training did something that could differ.
    assert len(monitor.trace) == 3
    assert (monitor.trace.meta["forward_flops_per_sample"] is None) == (net is Compiled)
    assert len(set(plain["losses"])) == 3 * BATCHES

    assert watched.pop("losses") == plain.pop("losses")
    for name in ("values", "torch", "numpy"):
        for one, other in zip(watched.pop(name), plain.pop(name), strict=True):
            assert np.array_equal(one, other), name
    model = watched.pop("model")
    plain.pop("model")
    assert watched == plain
    if net in (PlNet, LightningNet):
        unpickled = pickle.loads(pickle.dumps(model))
        assert torch.equal(unpickled.net[0].weight, model.net[0].weight)


def double(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    "what", ["in place", "whole", "a function of its file", "a closure", "its own"]
)
def test_compiled_is_not_watched(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = torch.compile(lambda x: x * 2, backend="eager") if what == "a closure" else double
    if what == "a function of its file":
        monkeypatch.setitem(globals(), "double", torch.compile(double, backend="eager"))

    class Net(PlNet):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            use = kept if what == "a closure" else double
            return nn.functional.cross_entropy(use(self(batch[0])), batch[1])

        def on_train_epoch_end(self) -> None: ...

    model = Net()
    workload = describe_workload(model, next(iter(loader())))
    if what == "its own":
        model.double = torch.compile(lambda x: x * 2, backend="eager")  # type: ignore[assignment]
    if what == "in place":
        model.compile(backend="eager")
    trained = torch.compile(model, backend="eager") if what == "whole" else model
    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(trained, loader())
    meta = monitor.trace.meta
    assert meta["forward_flops_per_sample"] is None
    assert "is compiled: pass workload=describe_workload" in meta["flops_note"]
    assert monitor.trace.epochs.flops.isna().all()
    assert len(warnings_of(caplog)) == 1
    # Only the training went through the model.
    assert model.net[1].num_batches_tracked == 2 * BATCHES

    told = EnergyMonitor(workload=workload, sensors=[Constant(GPU_W)])
    make_trainer(pytorch_lightning, tmp_path, told, max_epochs=2).fit(trained, loader())
    assert told.trace.meta["forward_flops_per_sample"] == Recipe.FORWARD_FLOPS
    flops = Recipe.FORWARD_FLOPS * Recipe.TRAINING_TO_FORWARD * SAMPLES
    assert told.trace.column("flops") == pytest.approx(flops)


def test_a_workload_is_what_describe_workload_returns() -> None:
    with pytest.raises(ConfigurationError, match="workload is a dict"):
        EnergyMonitor(workload={})  # type: ignore[arg-type]


def test_a_forward_that_needs_its_trainer_is_counted(tmp_path: Path) -> None:
    class Net(PlNet):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("only steps")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert self.trainer.training  # which a copy without a Trainer cannot say
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(Net(), loader())
    assert monitor.trace.meta["forward_flops_per_sample"] == Recipe.FORWARD_FLOPS


def test_parameters_that_are_not_there_yet(tmp_path: Path) -> None:
    class Net(PlNet):
        def __init__(self) -> None:
            super().__init__()
            self.net[0] = nn.LazyLinear(16)

    monitor = monitor_of()
    make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2).fit(Net(), loader())
    assert (monitor.trace.epochs.energy_J > 0).all()
    assert len(monitor.trace) == 2
    assert monitor.trace.meta["forward_flops_per_sample"] == Recipe.FORWARD_FLOPS
