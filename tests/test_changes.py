"""What becomes trainable on the way: planned by callbacks, or seen when it comes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import nn

from energyest import EnergyMonitor, EnergyTrace, estimate_step, load_trace
from energyest.profiling.describe import count_flops
from tests.support.trainers import (
    BATCH,
    both_namespaces,
    lightning_warns,
    loader,
    make_trainer,
    monitor_of,
    warnings_of,
)

pytestmark = lightning_warns


def net(pl: ModuleType) -> Any:
    class Net(pl.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32))
            self.head = nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            x = batch[0] if isinstance(batch, list | tuple) else batch
            return self(x).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            trainable = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.SGD(trainable, lr=0.01)

    return Net()


class Freeze(pytorch_lightning.Callback):
    """Freezes a layer of the backbone at an epoch, without having announced it."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            pl_module.backbone[0].requires_grad_(False)


def fit(
    pl: ModuleType, tmp_path: Path, monitor: EnergyMonitor, *callbacks: Any, epochs: int
) -> Any:
    model = net(pl)
    make_trainer(pl, tmp_path, *callbacks, monitor, max_epochs=epochs).fit(model, loader(6 * BATCH))
    return model


def finetuning(pl: ModuleType, epoch: int) -> Any:
    callbacks = __import__(f"{pl.__name__}.callbacks", fromlist=["BackboneFinetuning"])
    return callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=epoch, verbose=False)


@both_namespaces
def test_a_thawing_is_known_from_the_first_batch_on(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    planned: list[Any] = []

    class Look(pytorch_lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            planned.append(monitor.trace.meta.get("planned_changes"))

    callbacks = finetuning(pl, 4), Look()
    fit(pl, tmp_path, monitor, *callbacks, epochs=7)
    assert all(entries == planned[0] for entries in planned)
    (entry,) = planned[0]
    assert entry["epoch"] == 4
    assert entry["reason"] == "BackboneFinetuning"
    assert entry["known_since"] == 0
    # By hand: forward 2 (8 32 + 32 32 + 32 2) FLOPs; the head's weights alone against all
    # gradients but that of the input.
    forward, head = 2 * (256 + 1024 + 64), 2 * 64
    after = 2 * forward + 2 * 1024 + head  # weights of all, inputs of the last two
    assert entry["flops_ratio"] == pytest.approx(after / (forward + head), rel=1e-6)
    trace = load_trace(tmp_path / "energy")
    flops = trace.column("flops")
    assert flops[4] / flops[3] == pytest.approx(entry["flops_ratio"])
    np.testing.assert_allclose(flops[4:], flops[4])
    # The projection before the change knows it.
    meta = {"planned_changes": trace.meta["planned_changes"]}
    calm = EnergyTrace.from_epochs([100.0] * 3, meta=meta)
    estimate = estimate_step(calm, 7)
    assert estimate.energy_J == pytest.approx(400 + 3 * 100 * entry["flops_ratio"])
    assert "BackboneFinetuning" in str(estimate.assumptions)


def test_a_flip_is_seen_when_it_comes(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    model = fit(pytorch_lightning, tmp_path, monitor, Freeze(3), epochs=6)
    (entry,) = monitor.trace.meta["planned_changes"]
    assert entry["epoch"] == entry["known_since"] == 3
    assert entry["reason"] == "requires_grad changed"
    frozen = count_flops(model, torch.zeros(4, 8)).training_to_forward
    all_trained = count_flops(model.requires_grad_(True), torch.zeros(4, 8)).training_to_forward
    assert entry["flops_ratio"] == pytest.approx(frozen / all_trained)
    flops = monitor.trace.column("flops")
    assert flops[3] / flops[2] == pytest.approx(frozen / all_trained)


def test_intervals_name_the_row_in_which_an_epoch_begins(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", every_n_steps=4)
    # 6 batches an epoch.
    fit(pytorch_lightning, tmp_path, monitor, finetuning(pytorch_lightning, 3), epochs=5)
    (entry,) = monitor.trace.meta["planned_changes"]
    assert entry["epoch"] == 3 * 6 / 4


def test_without_counting_the_ratio_is_unknown(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", count_flops=False)
    callbacks = finetuning(pytorch_lightning, 2), Freeze(4)
    fit(pytorch_lightning, tmp_path, monitor, *callbacks, epochs=6)
    entries = monitor.trace.meta["planned_changes"]
    assert [entry["epoch"] for entry in entries] == [2, 4]
    assert [entry["flops_ratio"] for entry in entries] == [None, None]


def test_what_does_not_come_is_taken_back(tmp_path: Path) -> None:
    class Reluctant(pytorch_lightning.callbacks.BaseFinetuning):
        """Thaws in the rehearsal, but not if the training has made steps."""

        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 2 and pl_module.trainer.current_epoch != pl_module.fallen:
                self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)

    monitor = monitor_of(tmp_path / "energy", rehearse_finetuning=True)
    model = net(pytorch_lightning)
    model.fallen = -1

    class Fall(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.fallen = 2

    trainer = make_trainer(pytorch_lightning, tmp_path, Reluctant(), Fall(), monitor, max_epochs=4)
    trainer.fit(model, loader(6 * BATCH))
    assert monitor.trace.meta["planned_changes"] == []


def test_a_planned_change_raises_no_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = monitor_of(tmp_path / "energy")
    fit(pytorch_lightning, tmp_path, monitor, finetuning(pytorch_lightning, 4), epochs=8)
    assert not warnings_of(caplog, "changed at")


def test_no_entry_where_nothing_changes(tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy")
    fit(pytorch_lightning, tmp_path, monitor, epochs=3)
    assert "planned_changes" not in monitor.trace.meta


def test_networks_trained_in_turn_are_not_changes(tmp_path: Path) -> None:
    class InTurn(pytorch_lightning.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.backbone.requires_grad_(trainer.current_epoch % 2 == 0)

    monitor = monitor_of(tmp_path / "energy")
    fit(pytorch_lightning, tmp_path, monitor, InTurn(), epochs=8)
    assert monitor.trace.meta["planned_changes"] == []


def test_callbacks_of_users_are_asked_only_if_allowed(tmp_path: Path) -> None:
    called: list[int] = []

    class Own(pytorch_lightning.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            called.append(epoch)
            if epoch == 2:
                self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)

    monitor = monitor_of(tmp_path / "energy")
    fit(pytorch_lightning, tmp_path, monitor, Own(), epochs=4)
    assert called == [0, 1, 2, 3]
    (entry,) = monitor.trace.meta["planned_changes"]
    assert (entry["epoch"], entry["known_since"]) == (2, 2)
    called.clear()
    asked = monitor_of(tmp_path / "asked", rehearse_finetuning=True)
    fit(pytorch_lightning, tmp_path, asked, Own(), epochs=4)
    assert len(called) > 4
    assert asked.trace.meta["planned_changes"][0]["known_since"] == 0


def test_a_run_of_one_epoch_sees_a_flip(tmp_path: Path) -> None:
    class Late(pytorch_lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, i: int) -> None:
            if i == 10:
                pl_module.backbone[0].requires_grad_(False)

    monitor = monitor_of(tmp_path / "energy", every_n_steps=4)
    model = net(pytorch_lightning)
    trainer = make_trainer(pytorch_lightning, tmp_path, Late(), monitor, max_epochs=1)
    trainer.fit(model, loader(20 * BATCH))
    (entry,) = monitor.trace.meta["planned_changes"]
    assert entry["epoch"] == 3  # the first interval that begins with it
    assert entry["flops_ratio"] < 1


def test_a_batch_that_may_be_shared_is_left_alone() -> None:
    class Pair(NamedTuple):
        x: torch.Tensor

    class Item:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, batch: Any) -> torch.Tensor:
            x = batch.x if hasattr(batch, "x") else batch
            return self.layer(x.mul_(2))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self(batch).sum()

    for batch in (Pair(torch.ones(4, 8)), Item(torch.ones(4, 8)), [Item(torch.ones(4, 8))]):
        count_flops(InPlace(), batch)
        x = batch[0].x if isinstance(batch, list) else batch.x
        assert torch.equal(x, torch.ones(4, 8))


def test_a_compiled_function_stays_compiled() -> None:
    runs: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        def run(*values: Any) -> Any:
            runs.append(1)
            return graph.forward(*values)

        return run

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return double(self.layer(x))

    double = torch.compile(lambda x: x * 2, backend=backend)
    model = Net()
    count_flops(model, torch.ones(4, 8))
    runs.clear()
    model(torch.ones(4, 8))
    assert len(runs) == 1
