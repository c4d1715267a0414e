"""A training by Keras's `fit`, measured by a callback of a few lambdas.

A small network learns scikit-learn's digits, on any of Keras's backends: `KERAS_BACKEND=torch`
(or `jax`, or `tensorflow`). Lines that end in `# +` are all that measuring adds.

python examples/popular/keras_loop.py [--epochs 3] [--output out-keras]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

from energyest import track  # +


def main(arguments: Sequence[str] | None = None) -> None:
    """Train on digits."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out-keras"))
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(0)
    digits, labels = load_digits(return_X_y=True)
    images = (digits / 16).astype(np.float32)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

    with track(options.output / "energy", epochs=options.epochs) as run:  # +
        energy = keras.callbacks.LambdaCallback(  # +
            on_epoch_begin=lambda epoch, logs: run.start_epoch(epoch),  # +
            on_test_begin=lambda logs: run.start_validation(),  # +
            on_test_end=lambda logs: run.end_validation(),  # +
            on_epoch_end=lambda epoch, logs: run.end_epoch(**logs),  # +
        )  # +
        model.fit(
            images[:1500],
            labels[:1500],
            epochs=options.epochs,
            validation_data=(images[1500:], labels[1500:]),
            callbacks=[energy],  # +
        )


if __name__ == "__main__":
    main()
