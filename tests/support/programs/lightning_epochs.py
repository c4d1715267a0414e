"""Three epochs of Lightning with validation: python -m ... rich|tqdm, its progress bar."""

import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch, _):
        self.log("val_loss", self.layer(batch[0]).pow(2).mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


bars = {"rich": pl.callbacks.RichProgressBar, "tqdm": pl.callbacks.TQDMProgressBar}
data = DataLoader(TensorDataset(torch.randn(64, 4)), 8)
trainer = pl.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    callbacks=[bars[sys.argv[1]]()],
)
trainer.fit(Net(), data, data)
