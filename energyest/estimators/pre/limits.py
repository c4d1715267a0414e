"""What holds a training back from outside: a power limit, a data loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.roofline_model import Predictions

# A clock's power grows with about the third power of it, once what is drawn at rest is taken off:
# frequency times the square of the voltage. `benchmarks/evidence/pre_older.py` says how far off
# steps are with it: more where the limit lies deep, and where power comes in bursts.
_POWER_OF_CLOCK = 3.0
# Of the limit, what is drawn under it, in the trainings of `zeus_nsdi23`.
_DRAWN = 0.95
# No clock falls below this share of the usual.
_LEAST_CLOCK = 0.1


def under_power_limit(predicted: Predictions, limit_W: float, rest_W: Array) -> Predictions:
    """Steps of a GPU that may draw no more than so much, and lowers its clock to that end.

    Args:
        predicted: of n steps without a limit.
        limit_W: the limit.
        rest_W: what the GPUs draw at rest, of shape (n,).
    """
    drawn_W = np.minimum(predicted.power_W, np.maximum(_DRAWN * limit_W, rest_W))
    share = np.maximum(drawn_W - rest_W, 0.0) / np.maximum(predicted.power_W - rest_W, 1e-9)
    clock = np.clip(share ** (1 / _POWER_OF_CLOCK), _LEAST_CLOCK, 1.0)
    return replace(predicted, step_s=predicted.step_s / clock, power_W=drawn_W)


def behind_loader(predicted: Predictions, batch_s: Array, rest_W: Array) -> Predictions:
    """Steps that wait for their data.

    Args:
        predicted: of n steps that do not wait.
        batch_s: how long the loader takes for a batch of each GPU, of shape (n,).
        rest_W: what a GPU draws while it waits, of shape (n,).
    """
    step_s = np.maximum(predicted.step_s, batch_s)
    power_W = predicted.power_W + (rest_W - predicted.power_W) * (1 - predicted.step_s / step_s)
    return replace(predicted, step_s=step_s, power_W=power_W)
