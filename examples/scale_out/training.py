"""A small training whose trace lands in a folder of its own; the other scripts here run many.

python examples/scale_out/training.py --width 64 --folder runs/width-64
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from energyest import track


def train(width: int, folder: str, epochs: int = 5) -> tuple[float, float]:
    """Train a network on scikit-learn's digits; return its accuracy and its energy in joules."""
    torch.manual_seed(0)
    digits, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(digits, dtype=torch.float32) / 16, torch.tensor(targets)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    accuracy = 0.0
    with track(folder, quiet=True) as run:
        run.describe(model={"name": f"width {width}"}, hparams={"width": width})
        for _ in run.epochs(epochs):
            for batch in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
            with run.validation(), torch.no_grad():
                accuracy = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
            run.log(samples=1500, val_acc=accuracy)
    return accuracy, run.total_J


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train one network.")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--folder", default="runs/one")
    options = parser.parse_args()
    final, energy_J = train(options.width, options.folder)
    print(f"accuracy {final:.3f}, {energy_J:.1f} J")
