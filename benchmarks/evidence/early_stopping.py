"""How well is the end of a training with `EarlyStopping` predicted?

Trains small networks on scikit-learn's data sets, some with wrong labels, for longer than they
need; estimates after some epochs when a callback with some patience would stop; and compares this
with the actual stop. Prints how often the interval holds, the error of the estimate, and the error
of the planned end.

    python -m benchmarks.evidence.early_stopping
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import EarlyStopping
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from torch import Tensor, nn

from benchmarks.common.head import print_head
from energyest import EnergyTrace
from energyest.estimators import estimate_early_stop

TRAININGS, EPOCHS, BATCH = 90, 120, 32
PATIENCE, SEEN = (3, 10), (6, 12, 24, 48)
DATA = (load_digits, load_breast_cancer, load_wine)
MODES = {"loss": "min", "accuracy": "max"}


def curves(seed: int) -> dict[str, NDArray[np.float64]]:
    """Validation loss and accuracy of a training with random settings, each of shape (EPOCHS,)."""
    chance = np.random.default_rng(seed)
    torch.manual_seed(seed)
    x, y = DATA[seed % len(DATA)](return_X_y=True)
    order = chance.permutation(len(x))
    x = ((x - x.mean(0)) / (x.std(0) + 1e-6))[order]
    y = y[order]
    classes = int(y.max()) + 1
    train = int(len(x) * chance.uniform(0.15, 0.6))
    is_wrong = chance.random(train) < chance.choice([0, 0.1, 0.25])
    y[:train][is_wrong] = chance.integers(0, classes, np.count_nonzero(is_wrong))
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    width, dropout = int(chance.choice([16, 64, 128])), float(chance.choice([0, 0.3, 0.5]))
    model = nn.Sequential(
        *(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, classes))
    )
    optimizer: torch.optim.Optimizer = torch.optim.Adam(
        model.parameters(), lr=10 ** chance.uniform(-3.7, -2)
    )
    if chance.random() < 0.5:
        rate = 10 ** chance.uniform(-2.5, -0.7)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    losses, accuracies = [], []
    for _ in range(EPOCHS):
        model.train()
        for rows in torch.randperm(train).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        loss, accuracy = _validated(model, inputs[train:], targets[train:])
        losses.append(loss)
        accuracies.append(accuracy)
    return {"loss": np.array(losses), "accuracy": np.array(accuracies)}


def _validated(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        found = model(inputs)
        loss = nn.functional.cross_entropy(found, targets)
        return loss.item(), (found.argmax(1) == targets).float().mean().item()


def stop_of(metric: NDArray[np.float64], patience: int, mode: str) -> int:
    """Epochs after which Lightning's callback ends the training."""
    callback = EarlyStopping("metric", patience=patience, mode=mode)
    for epoch, value in enumerate(metric):
        if callback._evaluate_stopping_criteria(torch.tensor(value, dtype=torch.float32))[0]:
            return epoch + 1
    return EPOCHS


def main() -> None:
    """Print the figures."""
    print_head(__file__, "torch", "pytorch-lightning", "scikit-learn")
    torch.set_num_threads(1)
    chance = np.random.default_rng(0)
    rows: list[tuple[str, int, int, float, float, float, float, float]] = []
    for seed in range(TRAININGS):
        for name, metric in curves(seed).items():
            for patience in PATIENCE:
                stop = stop_of(metric, patience, MODES[name])
                for seen in SEEN:
                    if seen >= stop:
                        continue
                    trace = EnergyTrace.from_epochs(
                        100 + chance.normal(size=seen), metric=metric[:seen]
                    )
                    began_s = time.perf_counter()
                    found = estimate_early_stop(
                        *(trace, EPOCHS), monitor="metric", patience=patience, mode=MODES[name]
                    )
                    took_s = time.perf_counter() - began_s
                    lower, upper = found.epochs_lower or 0, found.epochs_upper or 0
                    held = lower <= stop <= upper
                    off = abs((found.epochs or 0) - stop)
                    rows.append(
                        (name, seen, patience, held, off, EPOCHS - stop, upper - lower, took_s)
                    )
    print("\nmetric    seen patience  cases  held  error  of the planned end  width (epochs)")
    for name in MODES:
        for seen in SEEN:
            for patience in PATIENCE:
                _line(f"{name:<10}{seen:4}{patience:9}", rows, (name, seen, patience))
    _line("all                    ", rows, ())
    print(f"\none takes {1e3 * np.median([row[-1] for row in rows]):.1f} ms")


def _line(label: str, rows: list[tuple], chosen: tuple) -> None:
    """Print shares and medians of the cases that begin with `chosen`."""
    cases = np.array([row[3:-1] for row in rows if row[: len(chosen)] == chosen], dtype=float)
    if len(cases):
        off, planned, width = np.median(cases[:, 1:], axis=0)
        held = 100 * cases[:, 0].mean()
        print(f"{label}{len(cases):7}{held:4.0f} %{off:7.0f}{planned:20.0f}{width:16.0f}")


if __name__ == "__main__":
    main()
