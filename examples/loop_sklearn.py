"""scikit-learn's `partial_fit` under `track()`, used as a decorator.

python examples/loop_sklearn.py [--epochs 20] [--folder energyest-sklearn]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from energyest import track
from energyest.records.trace import EnergyTrace


def main(arguments: Sequence[str] | None = None) -> EnergyTrace:
    """Train a small network on scikit-learn's digits, and print its cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", default="energyest-sklearn")
    options = parser.parse_args(arguments)

    @track(options.folder)
    def train(model, run):
        images, labels = load_digits(return_X_y=True)
        random = np.random.default_rng(0)
        for _ in run.epochs(options.epochs):
            for batch in random.permutation(1500).reshape(-1, 50):
                model.partial_fit(images[batch], labels[batch], classes=range(10))
            with run.validation():
                accuracy = model.score(images[1500:], labels[1500:])
            run.log(samples=1500, val_acc=accuracy)
        return model

    train(MLPClassifier(64, random_state=0))
    print(f"{train.run.trace}\n{train.run.projection}")
    return train.run.trace


if __name__ == "__main__":
    main()
