"""`track()` around a JAX loop; it waits for queued work at the edges of epochs.

python examples/loop_jax.py
"""

import jax
import numpy as np
from sklearn.datasets import load_digits

from energyest import track

digits, labels = load_digits(return_X_y=True)
images = (digits / 16).astype(np.float32)
random = np.random.default_rng(0)
weights = [
    (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
    for shape in ((64, 256), (256, 10))
]


def scores(weights, images):
    """Of each class, before the softmax."""
    return jax.nn.relu(images @ weights[0]) @ weights[1]


def loss(weights, images, labels):
    """Cross entropy of a batch."""
    log_p = jax.nn.log_softmax(scores(weights, images))
    return -jax.numpy.take_along_axis(log_p, labels[:, None], axis=1).mean()


@jax.jit
def step(weights, images, labels):
    """One step of gradient descent."""
    gradients = jax.grad(loss)(weights, images, labels)
    return jax.tree.map(lambda weight, slope: weight - 0.1 * slope, weights, gradients)


with track("runs/jax") as run:
    for _ in run.epochs(20):
        for batch in random.permutation(1500).reshape(-1, 50):
            weights = step(weights, images[batch], labels[batch])
        with run.validation():
            accuracy = float((scores(weights, images[1500:]).argmax(1) == labels[1500:]).mean())
        run.log(samples=1500, val_acc=accuracy)

print(run.trace)
print(f"waited for {', '.join(run.trace.meta['synchronized'])}")
print(run.projection)
