"""A training that is killed in its fourth epoch."""

from __future__ import annotations

import time

import pytorch_lightning as pl
import torch

from energyest import EnergyMonitor


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        time.sleep(0.02)
        if self.current_epoch == 3 and batch_idx == 2:
            print("now", flush=True)
            time.sleep(600)
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: str) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=10,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[EnergyMonitor(folder, components=["ram"])],
    )
    trainer.fit(Net(), torch.utils.data.DataLoader(torch.ones(4, 1)))
