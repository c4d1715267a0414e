"""Trains on two CPU processes; run by test_ranks.py: `python -m tests.ranks FOLDER [fail]`."""

from __future__ import annotations

import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from energyest import EnergyMonitor


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss, sync_dist=True, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


class Fail(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if "fail" in sys.argv and trainer.global_rank == 1 and trainer.current_epoch == 2:
            raise ValueError("rank 1 fails")


if __name__ == "__main__":
    trainer = pl.Trainer(
        max_epochs=4,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        logger=False,
        default_root_dir=sys.argv[1],
        callbacks=[EnergyMonitor(), Fail()],
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(64, 4)), batch_size=4))
