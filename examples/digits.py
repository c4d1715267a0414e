"""Train a small network on scikit-learn's digits under `EnergyMonitor`.

Halfway through, it prints the projection and the other estimators' results; at the end, the error
of each.

    python examples/digits.py [--epochs 40] [--folder energyest-demo]
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from energyest import EnergyMonitor, compare_estimators, detect
from energyest.display import format_energy
from energyest.plots import plot_trace


class DigitClassifier(pl.LightningModule):
    """A convolutional network for images of 8 × 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 48, 3, padding=1),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 96, 3, padding=1),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(96 * 16, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of shape (batch, 10)."""
        return self.layers(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross entropy of a batch."""
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        images, labels = batch
        accuracy = (self(images).argmax(1) == labels).float().mean()
        self.log("val_acc", accuracy, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class PrintHalfWay(pl.Callback):
    """Prints the estimates of all estimators after half of the epochs."""

    def __init__(self, monitor: EnergyMonitor) -> None:
        self.monitor = monitor

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the projection and the table of estimates."""
        epochs = trainer.max_epochs or 0
        if trainer.current_epoch + 1 == epochs // 2:
            print(f"\nAfter {epochs // 2} of {epochs} epochs: {self.monitor.projection}")
            print(_table(compare_estimators(self.monitor.trace, epochs)), "\n")


def load_data() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training and validation loaders of the 1,797 handwritten digits in scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels)
    )
    train, validation = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(validation, batch_size=297)


def main() -> None:
    """Train the network, print a report, and save a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("energyest-demo"))
    arguments = parser.parse_args()
    # Hide Lightning's advice on loaders, and its notes on newer versions of torch.
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)

    pl.seed_everything(0, verbose=False)
    print(f"Training {arguments.epochs} epochs; this machine can measure:\n{detect()}")
    monitor = EnergyMonitor(arguments.folder / "energy")
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        callbacks=[monitor, PrintHalfWay(monitor)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(DigitClassifier(), *load_data())

    trace = monitor.trace
    half = arguments.epochs // 2
    print(
        f"\nMeasured: {format_energy(trace.total_J)} for the whole run, of which the epochs "
        f"{format_energy(float(trace.column('energy_J').sum()))}; "
        f"validation accuracy {trace.column('val_acc')[-1]:.1%}"
    )
    for device in trace.devices:
        energy_J = device.get("energy_J")
        share = format_energy(energy_J) if energy_J is not None else "not measured throughout"
        print(f"  {device['device']}: {share} ({device['source']}: {device['method']})")
    print(f"\nHow far off each estimate after {half} epochs was:")
    print(_table(compare_estimators(trace, arguments.epochs, observed=half)))

    picture = arguments.folder / "energy.png"
    plot_trace(trace, observed=half).savefig(picture, dpi=150)
    print(f"\nThe trace is in {monitor.folder}, its picture in {picture}")


def _table(comparison: Any) -> str:
    columns = [
        c
        for c in ("energy_J", "energy_lower_J", "energy_upper_J", "error", "note")
        if c in comparison
    ]
    table = comparison[columns].copy()
    if "error" in table:
        table = table.assign(error=100 * table["error"]).rename(columns={"error": "error (%)"})
    table["note"] = table["note"].str.slice(0, 76)
    return str(table.to_string(float_format=lambda value: f"{value:,.1f}", na_rep="-"))


if __name__ == "__main__":
    main()
