"""`EnergyMonitor` in Lightning: the duration of its hooks, and epochs of three steps.

For parts B (one process) and F (a process on each of two GPUs).
"""

from __future__ import annotations

import logging
import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.overhead.work import device, wait_for_gpu
from energyest import EnergyMonitor

STEP_S = 0.007
# Epochs left out: in the first, steps are watched; then kernels and allocator warm up.
FIRST_EPOCHS = 6
_HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_train_epoch_end",
)


class Network(pl.LightningModule):
    """A network whose step is repeated until it keeps the GPU busy for 7 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 2048 if device().type == "cuda" else 64
        layers = [(nn.Linear(self.width, self.width), nn.ReLU()) for _ in range(4)]
        self.network = nn.Sequential(*(part for layer in layers for part in layer))
        self.repeats = 1

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def _loss(self, batch: Tensor) -> Tensor:
        hidden = batch
        for _ in range(self.repeats):
            hidden = self.network(hidden)
        return hidden.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def batch(self) -> Tensor:
        return torch.randn(self.width, self.width)

    def calibrate(self) -> None:
        """Find how often the network has to be repeated."""
        place = device()
        batch = self.batch().to(place)
        self.to(place)
        took_s = []
        for _ in range(10):
            began_s = time.perf_counter()
            self._loss(batch).backward()
            wait_for_gpu()
            took_s.append(time.perf_counter() - began_s)
        self.zero_grad()
        self.repeats = max(1, round(STEP_S / sorted(took_s)[5]))


class Settle(pl.Callback):
    """Placed before the monitor: synchronises the GPU, so that the monitor need not wait."""

    def on_train_epoch_end(self, *_: Any) -> None:
        wait_for_gpu()


class Ends(pl.Callback):
    """Placed after the monitor: notes when each epoch has ended."""

    def __init__(self) -> None:
        self.ends_s: list[float] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        self.ends_s.append(time.perf_counter())


class HookTimes:
    """Milliseconds that a monitor's hooks take in each epoch.

    Attributes:
        ends_ms: of `on_train_epoch_end`.
        all_ms: of all hooks, from the end of the previous epoch to the end of this one.
    """

    def __init__(self, monitor: pl.Callback) -> None:
        self.ends_ms: list[float] = []
        self.all_ms: list[float] = []
        self._sum_ms = 0.0
        for name in _HOOKS:
            setattr(monitor, name, self._timed(name, getattr(monitor, name)))

    def _timed(self, name: str, hook: Any) -> Any:
        def timed(*arguments: Any) -> None:
            began_s = time.perf_counter()
            hook(*arguments)
            took_ms = 1e3 * (time.perf_counter() - began_s)
            self._sum_ms += took_ms
            if name == "on_train_epoch_end":
                self.ends_ms.append(took_ms)
                self.all_ms.append(self._sum_ms)
                self._sum_ms = 0.0

        return timed


def hook_times(logger: str, epochs: int, epoch_s: float) -> dict[str, Any]:
    """Duration of the hooks in epochs of `epoch_s`, with a logger.

    Args:
        logger: `csv` or `tensorboard`.
        epochs: number of epochs timed.
        epoch_s: seconds of an epoch.
    """
    _be_quiet()
    model = Network()
    model.calibrate()
    monitor, ends = EnergyMonitor(), Ends()
    times = HookTimes(monitor)
    steps = max(1, round(epoch_s / STEP_S))
    trainer = _trainer(epochs + FIRST_EPOCHS, _logger(logger), [Settle(), monitor, ends])
    trainer.fit(model, _loader(model, steps))
    kept = slice(FIRST_EPOCHS, None)
    durations_s = [b - a for a, b in zip(ends.ends_s, ends.ends_s[1:], strict=False)][kept]
    return {
        "end_ms": times.ends_ms[kept],
        "all_ms": times.all_ms[kept],
        "epoch_s": sum(durations_s) / max(1, len(durations_s)),
        "rank": trainer.global_rank,
    }


def rank_times(epochs: int, epoch_s: float, folder: str) -> dict[str, Any]:
    """The same in one of two processes that share a folder; the environment says which one."""
    os.makedirs(folder, exist_ok=True)
    os.chdir(folder)
    _be_quiet()
    on_gpu = torch.cuda.is_available()
    model = Network()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    model.calibrate()
    monitor = EnergyMonitor()
    times = HookTimes(monitor)
    steps = max(1, round(epoch_s / STEP_S))
    strategy = pl.strategies.DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo")
    trainer = _trainer(
        epochs + FIRST_EPOCHS, _logger("csv"), [Settle(), monitor], devices=2, strategy=strategy
    )
    trainer.fit(model, _loader(model, steps))
    kept = slice(FIRST_EPOCHS, None)
    return {
        "end_ms": times.ends_ms[kept],
        "all_ms": times.all_ms[kept],
        "rank": trainer.global_rank,
    }


def short_epochs(pairs: int, epochs: int) -> dict[str, list[float]]:
    """Mean seconds of an epoch of three steps, with and without the monitor.

    Args:
        pairs: number of trainings of each kind.
        epochs: number of epochs in a training, after the first ones.
    """
    _be_quiet()
    model = Network()
    model.calibrate()
    chance = random.Random(0)
    epoch_s: dict[str, list[float]] = {"with": [], "without": []}
    _short(model, epochs, is_watched=True)
    for number in range(pairs):
        for kind in chance.sample(["with", "without"], 2):
            took_s = _short(model, epochs, is_watched=kind == "with", name=f"{number}-{kind}")
            epoch_s[kind].append(took_s)
    return epoch_s


def _short(model: Network, epochs: int, *, is_watched: bool, name: str = "warm") -> float:
    ends = Ends()
    callbacks = [EnergyMonitor(), ends] if is_watched else [ends]
    trainer = _trainer(epochs + FIRST_EPOCHS, _logger("csv", name), callbacks)
    trainer.fit(model, _loader(model, 3))
    return (ends.ends_s[-1] - ends.ends_s[FIRST_EPOCHS - 1]) / epochs


def _loader(model: Network, steps: int) -> Any:
    batch = model.batch()
    if torch.cuda.is_available() and "LOCAL_RANK" not in os.environ:
        batch = batch.to(device())
    return DataLoader([batch] * steps, batch_size=None)


def _logger(kind: str, name: str = "logs") -> Any:
    make = {"csv": pl.loggers.CSVLogger, "tensorboard": pl.loggers.TensorBoardLogger}[kind]
    return make(str(Path.cwd()), name=name)


def _trainer(
    epochs: int, logger: Any, callbacks: list[pl.Callback], *, devices: int = 1, **options: Any
) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=devices,
        logger=logger,
        log_every_n_steps=1000,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def _be_quiet() -> None:
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
