"""Small Lightning trainings with a monitor of devices with known power."""

from __future__ import annotations

import importlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from energyest import EnergyMonitor
from simulation.stepped import Clock
from simulation.trainers import quiet_trainer
from tests.support.sensors import Constant

# Lightning's advice on loaders and paths is not for these.
lightning_warns = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
]
SAMPLES, BATCH, BATCHES = 32, 8, 4
GPU_W, CPU_W, RAM_W = 300.0, 100.0, 5.0


def monitor_of(folder: Path | None = None, *sensors: Constant, **options: Any) -> Any:
    """A monitor of devices whose power is known; short trainings need short intervals."""
    sensors = sensors or (Constant(GPU_W),)
    return EnergyMonitor(folder, sensors=sensors, interval_s=0.01, **options)


class Data(Dataset[Any]):
    """Two classes; each look at a sample draws from the generators, as augmentations do."""

    def __init__(self, samples: int = SAMPLES) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(samples, 8, generator=generator)
        self.y = (self.x[:, 0] > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)  # noqa: NPY002
        return self.x[i] + noise, self.y[i]


class Recipe:
    """A small net with everything that a careless monitor could disturb."""

    FORWARD_FLOPS = 2 * 8 * 16 + 2 * 16 + 2 * 16 * 2  # linear, batch norm, linear
    # Gradients of the weights of both linear layers, and of the input of the second.
    TRAINING_TO_FORWARD = 1 + 2 * (8 * 16 + 2 * 16 * 2) / FORWARD_FLOPS

    def __init__(
        self, step_s: float = 0.0, validation_s: float = 0.0, clock: Clock | None = None
    ) -> None:
        super().__init__()
        self.step_s, self.validation_s = step_s, validation_s
        self.sleep = time.sleep if clock is None else clock.sleep
        self.losses: list[float] = []
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.sleep(self.step_s)
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("late", 10.0 * self.current_epoch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.sleep(self.validation_s)
        self.log("val_epoch", float(self.current_epoch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class PlNet(Recipe, pytorch_lightning.LightningModule):
    pass


class LightningNet(Recipe, lightning.pytorch.LightningModule):
    pass


NETS = {pytorch_lightning: PlNet, lightning.pytorch: LightningNet}


def loader(samples: int = SAMPLES, **options: Any) -> DataLoader[Any]:
    return DataLoader(Data(samples), batch_size=BATCH, **options)


def make_trainer(pl: ModuleType, folder: Path, *callbacks: Any, **options: Any) -> Any:
    return quiet_trainer(pl, folder, *callbacks, log_every_n_steps=1, **options)


class Spy(pytorch_lightning.Callback):
    """Notes something at the end of each epoch, after the monitor, which is placed before it."""

    def __init__(self, look: Callable[[Any], Any]) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(self.look(trainer))


class At(pytorch_lightning.Callback):
    """Does something once, in a hook of an epoch."""

    def __init__(self, hook: str, epoch: int, act: Callable[[], None]) -> None:
        def once(trainer: Any, *args: Any) -> None:
            in_the_middle = "batch" not in hook or args[-1] == 1
            if trainer.current_epoch == epoch and in_the_middle:
                act()

        setattr(self, hook, once)


def time_limits_go_by(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Trainer(max_time=...)` go by a simulated clock, in either namespace."""
    for namespace in NETS:
        monkeypatch.setattr(
            importlib.import_module(f"{namespace.__name__}.callbacks.timer"),
            "time",
            SimpleNamespace(monotonic=clock),
        )


def warnings_of(caplog: pytest.LogCaptureFixture, holding: str = "") -> list[str]:
    """The package's log messages so far that contain a text."""
    messages = [r.getMessage() for r in caplog.records if r.name == "energyest"]
    return [message for message in messages if holding in message]


class Stream(IterableDataset[Any]):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Any]:
        data = Data()
        return (data[i] for i in range(SAMPLES))


class TwoOptimizers(PlNet):
    """Manual optimisation: each batch makes two optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [super(TwoOptimizers, self).configure_optimizers() for _ in range(2)]


class AccidentError(Exception):
    """Something in the user's code."""


def outcome(net: type[Recipe], pl: ModuleType, folder: Path, *callbacks: Any) -> dict[str, Any]:
    """Everything that a training leaves behind."""
    pl.seed_everything(3, verbose=False)
    model = net()
    modes: list[Any] = []

    class Watch(pytorch_lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            modes.append([module.training for module in model.modules()])

    make_trainer(pl, folder, *callbacks, Watch(), max_epochs=3).fit(
        model, loader(shuffle=True), loader()
    )
    return {
        "losses": model.losses,
        "values": [tensor.clone() for tensor in model.state_dict().values()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False)["state"]["key"],  # noqa: NPY002
        "numpy position": np.random.get_state(legacy=False)["state"]["pos"],  # noqa: NPY002
        "python": random.getstate(),
        "modes": [*modes, [module.training for module in model.modules()]],
        "gradients": [p.requires_grad for p in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "hooks": [
            (name, len(hooks))
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks")
        ],
        "model": model,
    }


both_namespaces = pytest.mark.parametrize("pl", NETS, ids=lambda module: module.__name__)
# For what takes seconds: the short suite tries one of them.
both_namespaces_if_long = pytest.mark.parametrize(
    "pl",
    [pytest.param(module, marks=[pytest.mark.long] * bool(i)) for i, module in enumerate(NETS)],
    ids=lambda module: module.__name__,
)


def batches(number: int) -> DataLoader[Any]:
    return loader(number * BATCH)


class AtBatch(pytorch_lightning.Callback):
    """Looks at something at each batch's start, after the monitor, which is placed before it."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, idx: int) -> None:
        self.seen.append(self.look(trainer))
