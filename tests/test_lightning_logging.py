"""The monitor's logged values, next to those of the training itself."""

from __future__ import annotations

import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor

from energyest import EnergyTrace, load_trace
from tests.support.loggers import read_csv, read_tensorboard
from tests.support.trainers import (
    BATCHES,
    NETS,
    AccidentError,
    PlNet,
    both_namespaces,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    warnings_of,
)

pytestmark = lightning_warns


def logging_net(pl: ModuleType, hook: str, name: str, **options: Any) -> Any:
    """A net that logs 12 under a name of the monitor's, in a hook of its own."""

    class Net(NETS[pl]):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if hook == "training_step":
                self.log(name, 12.0, **options)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if hook == "validation_step":
                self.log(name, 12.0, **options)

        def on_train_epoch_end(self) -> None:
            if hook == "on_train_epoch_end":
                self.log(name, 12.0, **options)

    return Net()


@both_namespaces
@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize(
    ("hook", "options"),
    [
        ("training_step", {}),
        ("training_step", {"on_step": False, "on_epoch": True, "prog_bar": True}),
        ("validation_step", {}),
        ("on_train_epoch_end", {}),
        ("on_train_epoch_end", {"prog_bar": True, "logger": False}),
    ],
)
def test_a_name_that_the_training_uses_is_left_to_it(
    pl: ModuleType,
    hook: str,
    options: dict[str, Any],
    every: int | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=every, count_flops=False)
    logger = pl.loggers.CSVLogger(tmp_path)
    trainer: Any = make_trainer(pl, tmp_path, monitor, max_epochs=3, logger=logger)
    trainer.fit(logging_net(pl, hook, "energy/total_J", **options), loader(), loader())
    assert trainer.current_epoch == 3
    values = read_csv(logger.log_dir)
    # An interval may end before the training uses a name for the first time.
    early = int(every is not None and hook == "on_train_epoch_end")
    mixed = [value for value in values.get("energy/total_J", {}).values() if value != 12]
    assert len(mixed) <= early
    assert trainer.callback_metrics["energy/total_J"] == 12
    # The monitor's own has another name, and the others have theirs.
    assert trainer.callback_metrics["energyest/total_J"] <= monitor.total_J * (1 + 1e-5)
    rows = len(monitor.trace)
    assert len(values["energyest/total_J"]) == rows - early
    assert len(values["energy/epoch_J" if every is None else "energy/interval_J"]) == rows
    assert monitor.trace.column("energy/total_J")[-1] == 12
    assert len(warnings_of(caplog, "energy/total_J")) == 1
    assert not vars(monitor).get("_reported_errors")


def test_a_name_and_its_other_that_are_both_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Net(PlNet):
        def on_train_epoch_end(self) -> None:
            self.log("energy/epoch_J", 1.0)
            self.log("energyest/epoch_J", 2.0)

    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3)
    trainer.fit(Net(), loader())
    metrics = trainer.callback_metrics
    assert (metrics["energy/epoch_J"], metrics["energyest/epoch_J"]) == (1, 2)
    assert len(warnings_of(caplog, "energy/epoch_J")) == 1


def test_two_monitors_do_not_mix(tmp_path: Path) -> None:
    monitors = [monitor_of(tmp_path / str(i), count_flops=False) for i in range(2)]
    trainer = make_trainer(pytorch_lightning, tmp_path, *monitors, max_epochs=3)
    trainer.fit(PlNet(), loader())
    first, second = (m.trace.column("energy_J")[-1] for m in monitors)
    assert trainer.callback_metrics["energy/epoch_J"] == pytest.approx(first)
    assert trainer.callback_metrics["energyest/epoch_J"] == pytest.approx(second)
    for monitor in monitors:
        assert sorted(monitor.trace.metrics) == ["late", "train_loss"]


@both_namespaces
def test_early_stopping_by_energy(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(count_flops=False)
    stop = pl.callbacks.EarlyStopping(
        "energy/total_J", stopping_threshold=-1.0, divergence_threshold=1e-9, strict=True
    )
    stop._check_on_train_epoch_end = True
    trainer = make_trainer(pl, tmp_path, monitor, stop, max_epochs=5)
    trainer.fit(NETS[pl](), loader())
    assert trainer.current_epoch == 1


def test_a_logger_that_fails_costs_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(pytorch_lightning.loggers.CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if any(name.startswith("energy/") for name in metrics):
                raise OSError("no space")

    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, max_epochs=3, logger=Fails(tmp_path)
    )
    trainer.fit(PlNet(), loader())
    assert list(monitor.trace.column("steps")) == [BATCHES] * 3
    assert len(warnings_of(caplog, "failed")) == 1


def test_values_go_to_the_loggers_though_the_training_fails(tmp_path: Path) -> None:
    class Net(PlNet):
        def on_train_epoch_end(self) -> None:
            raise AccidentError

    logger = pytorch_lightning.loggers.CSVLogger(tmp_path)
    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3, logger=logger)
    with pytest.raises(AccidentError):
        trainer.fit(Net(), loader())
    assert list(read_csv(logger.log_dir)["energy/epoch_J"]) == [BATCHES - 1]


OUTCOME = ("J", "kWh", "duration_s", "mean_power_W", "J_per_sample", "co2e_kg")


def check_outcome(found: dict[str, float], trace: EnergyTrace) -> None:
    """Of all values under `energy/run_`, that they are those of the trace."""
    total_J, duration_s = trace.total_J, trace.meta["duration_s"]
    samples = trace.column("samples").sum()
    rows_J = trace.column("energy_J").sum()
    of_mode = (total_J, total_J / 3.6e6, duration_s, total_J / duration_s, rows_J / samples)
    expected = dict(zip(OUTCOME, (*of_mode, 1.2 * 100 * total_J / 3.6e9), strict=True))
    assert {f"energy/run_{n}": v for n, v in expected.items()} == pytest.approx(found, rel=1e-5)


@both_namespaces
def test_what_the_run_has_cost_goes_to_the_loggers_at_its_end(
    pl: ModuleType, tmp_path: Path
) -> None:
    loggers = [pl.loggers.CSVLogger(tmp_path), pl.loggers.TensorBoardLogger(str(tmp_path / "tb"))]
    monitor = monitor_of(count_flops=False, carbon_intensity=100, pue=1.2)
    trainer: Any = make_trainer(pl, tmp_path, monitor, max_epochs=3, logger=loggers)
    trainer.fit(NETS[pl](), loader())
    for found in (read_csv(loggers[0].log_dir), read_tensorboard(loggers[1].log_dir)):
        outcome = {name: values for name, values in found.items() if "/run_" in name}
        assert {tuple(values) for values in outcome.values()} == {(3 * BATCHES - 1,)}  # once
        last = {name: values[3 * BATCHES - 1] for name, values in outcome.items()}
        check_outcome(last, monitor.trace)
    assert trainer.callback_metrics["energy/run_J"] == pytest.approx(monitor.total_J)


def test_a_logger_that_fails_at_the_end_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fails(pytorch_lightning.loggers.CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if "energy/run_J" in metrics:
                raise OSError("no space")

    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    trainer = make_trainer(
        pytorch_lightning, tmp_path, monitor, max_epochs=3, logger=Fails(tmp_path)
    )
    trainer.fit(PlNet(), loader())
    assert load_trace(tmp_path / "energy").meta["status"] == "finished"
    assert len(warnings_of(caplog, "failed")) == 1


@pytest.mark.parametrize("error", [AccidentError, KeyboardInterrupt])
def test_so_does_what_an_interrupted_run_has_cost(error: type, tmp_path: Path) -> None:
    class Net(PlNet):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                raise error

    logger = pytorch_lightning.loggers.CSVLogger(tmp_path)
    monitor = monitor_of(count_flops=False, carbon_intensity=100, pue=1.2)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=3, logger=logger)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((AccidentError, SystemExit)):
            trainer.fit(Net(), loader())
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores further ones
    assert monitor.trace.meta["status"] == f"interrupted by {error.__name__}"
    found = {n: v for n, v in read_csv(logger.log_dir).items() if "/run_" in n}
    assert {len(values) for values in found.values()} == {1}
    check_outcome({n: value for n, v in found.items() for value in v.values()}, monitor.trace)


def test_users_metrics_with_a_slash_are_columns(tmp_path: Path) -> None:
    monitor = monitor_of(count_flops=False)
    trainer = make_trainer(pytorch_lightning, tmp_path, monitor, max_epochs=2)
    net = logging_net(pytorch_lightning, "training_step", "energy/of_my_own")
    trainer.fit(net, loader())
    assert list(monitor.trace.column("energy/of_my_own")) == [12, 12]
    assert torch.is_tensor(trainer.logged_metrics["energy/epoch_J"])
