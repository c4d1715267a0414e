"""A JAX training loop under `track()`, which synchronises JAX at the edges of epochs.

python examples/loop_jax.py [--epochs 20] [--folder energyest-jax]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from sklearn.datasets import load_digits

from energyest import track
from energyest.records.trace import EnergyTrace

try:
    import jax
except ImportError:
    sys.exit("this example needs JAX: pip install jax")


def main(arguments: Sequence[str] | None = None) -> EnergyTrace:
    """Train a small network on scikit-learn's digits, and print its cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--folder", default="energyest-jax")
    options = parser.parse_args(arguments)

    digits, labels = load_digits(return_X_y=True)
    images = (digits / 16).astype(np.float32)
    random = np.random.default_rng(0)
    weights = [
        (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for shape in ((64, 256), (256, 10))
    ]

    def scores(weights, images):
        return jax.nn.relu(images @ weights[0]) @ weights[1]

    def loss(weights, images, labels):
        log_p = jax.nn.log_softmax(scores(weights, images))
        return -jax.numpy.take_along_axis(log_p, labels[:, None], axis=1).mean()

    @jax.jit
    def step(weights, images, labels):
        gradients = jax.grad(loss)(weights, images, labels)
        return jax.tree.map(lambda weight, slope: weight - 0.1 * slope, weights, gradients)

    with track(options.folder) as run:
        for _ in run.epochs(options.epochs):
            for batch in random.permutation(1500).reshape(-1, 50):
                weights = step(weights, images[batch], labels[batch])
            with run.validation():
                accuracy = float((scores(weights, images[1500:]).argmax(1) == labels[1500:]).mean())
            run.log(samples=1500, val_acc=accuracy)
    print(f"{run.trace}; waited for {run.trace.meta['synchronized']}\n{run.projection}")
    return run.trace


if __name__ == "__main__":
    main()
