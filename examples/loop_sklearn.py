"""scikit-learn's `partial_fit` under `track()`, used as a decorator.

python examples/loop_sklearn.py
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from energyest import track


@track("runs/sklearn")
def train(model, run):
    """Train on scikit-learn's images of digits; `run` is what `track` passes in."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    for _ in run.epochs(15):
        for batch in random.permutation(1500).reshape(-1, 50):
            model.partial_fit(images[batch], labels[batch], classes=range(10))
        with run.validation():
            accuracy = model.score(images[1500:], labels[1500:])
        run.log(samples=1500, val_acc=accuracy)


train(MLPClassifier(64, random_state=0))
print(train.run.trace)
print(train.run.projection)
