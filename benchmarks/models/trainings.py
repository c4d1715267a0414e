"""How a setting is trained, in a plain loop or by Lightning, for a cold and some warm epochs.

Inputs are synthetic: one batch, in pinned memory, again and again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models.settings import Setting
from benchmarks.models.zoo import loss_of, optimizer_of
from energyest import EnergyMonitor, EnergyTrace, track

MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Lightning's names.
_PRECISIONS: dict[str, Any] = {
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
    "tf32": "32-true",
    "fp32": "32-true",
    "half weights": "bf16-true",
}
WARM_S, EPOCH_S, EPOCHS = 0.6, 0.9, 2


class Steps:
    """Batches for one epoch: the same batch again and again until the epoch's time is over.

    At most eight batches are queued, and the GPU is synchronised at the end of the epoch, so that
    the epoch lasts as long as the GPU works. Its number of batches is a multiple of `accumulate`.
    """

    def __init__(
        self, batch: tuple[Tensor, ...], device: torch.device, accumulate: int = 1
    ) -> None:
        self.batch, self.device, self.accumulate = batch, device, accumulate
        self.epoch = 0
        self.counts: list[int] = []

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        end_s = time.monotonic() + (EPOCH_S if self.epoch else WARM_S)
        self.epoch += 1
        self.counts.append(0)
        events: list[Any] = []
        while time.monotonic() < end_s or self.counts[-1] < 3 or self.counts[-1] % self.accumulate:
            self.counts[-1] += 1
            yield self.batch
            if self.device.type == "cuda":
                events.append(torch.cuda.Event())
                events[-1].record()
                if len(events) > 8:
                    events.pop(0).synchronize()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class _Endless(IterableDataset[Any]):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[Any]:
        return iter(self.steps)


def loss_of_batch(
    model: nn.Module, batch: tuple[Tensor, ...], device: torch.device, setting: Setting
) -> Tensor:
    """The loss of a batch in the setting's precision, on that device."""
    mixed = None if setting.half_weights else MIXED.get(setting.precision)
    inputs, target = (t.to(device, non_blocking=True) for t in batch)
    with torch.autocast(device.type, mixed, enabled=mixed is not None):
        return loss_of(model(inputs), target)


def train_plain(
    model: nn.Module, steps: Steps, setting: Setting, epochs: int = EPOCHS
) -> EnergyTrace:
    """Train in a plain loop for a cold epoch and `epochs` warm ones."""
    optimizer = optimizer_of(setting.optimizer, model)
    scaler = torch.amp.GradScaler(steps.device.type, enabled=setting.precision == "fp16")
    with track() as run:
        for _ in run.epochs(1 + epochs):
            for index, batch in enumerate(steps, 1):
                loss = loss_of_batch(model, batch, steps.device, setting)
                scaler.scale(loss).backward()
                if index % setting.accumulate == 0:
                    scaler.step(optimizer)
                    scaler.update()
                    optimizer.zero_grad()
    return run.trace


def lightning_module(model: nn.Module, setting: Setting) -> Any:
    """The model as a LightningModule with the setting's optimizer."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, inputs: Tensor) -> Any:
            return self.net(inputs)

        def training_step(self, batch: Any, _: int) -> Tensor:
            return loss_of(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer_of(setting.optimizer, self.net)

    return Module()


def train_lightning(
    model: nn.Module, steps: Steps, setting: Setting, folder: Path, epochs: int = EPOCHS
) -> EnergyTrace:
    """The same by a Lightning Trainer that writes the run to `folder`."""
    import pytorch_lightning as pl

    monitor = EnergyMonitor(folder, count_flops=False)
    trainer = pl.Trainer(
        max_epochs=1 + epochs,
        accelerator="gpu" if steps.device.type == "cuda" else "cpu",
        devices=1,
        precision=_PRECISIONS["half weights" if setting.half_weights else setting.precision],
        accumulate_grad_batches=setting.accumulate,
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = DataLoader(_Endless(steps), batch_size=None)
    trainer.fit(lightning_module(model, setting), loader)
    return monitor.trace
