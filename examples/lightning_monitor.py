"""`EnergyMonitor` in a Lightning Trainer: one more callback, and nothing else changes.

python examples/lightning_monitor.py
"""

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from energyest import EnergyMonitor


class Digits(pl.LightningModule):
    """A small network for scikit-learn's images of digits."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, _):
        """Cross entropy of a batch."""
        return cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch, _):
        """Log the accuracy."""
        self.log("val_acc", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        """Adam."""
        return torch.optim.Adam(self.parameters(), 1e-3)


images, labels = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
train = DataLoader(torch.utils.data.Subset(data, range(1500)), batch_size=50, shuffle=True)
validation = DataLoader(torch.utils.data.Subset(data, range(1500, 1797)), batch_size=297)

monitor = EnergyMonitor("runs/lightning")
trainer = pl.Trainer(
    max_epochs=6,
    callbacks=[monitor],
    logger=False,  # with a logger, the energy of each epoch goes there, too
    enable_model_summary=False,
    enable_progress_bar=False,
)
trainer.fit(Digits(), train, validation)

columns = ["epoch", "duration_s", "energy_J", "validation_energy_J", "flops", "val_acc"]
print(monitor.trace.epochs[columns].round(3).to_string(index=False))
print(monitor.projection)
monitor.trace.plot().savefig("lightning.svg")
