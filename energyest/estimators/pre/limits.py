"""External limits of a training: a power limit and a data loader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions

# Power above rest grows with about the third power of the clock: frequency times voltage squared.
# `benchmarks/evidence/power_limits.py` prints the resulting errors: they are larger for deep limits
# and for power that comes in bursts.
_POWER_OF_CLOCK = 3.0
# Power drawn under a limit as a share of the limit, in the trainings of `zeus_nsdi23`.
_DRAWN = 0.95
# Standard deviations of the logarithms of duration and energy under a limit that holds a training
# back (`benchmarks/evidence/power_limits.py`: mean errors of 6 and 10 %).
_DEVIATION_STEP, _DEVIATION_ENERGY = 0.07, 0.12
# The clock does not fall below this share of its usual value.
_LEAST_CLOCK = 0.1


def under_power_limit(
    predicted: Predictions, limit_W: float, board_W: float, rest_W: Array
) -> Predictions:
    """Predictions for a GPU that lowers its clock to stay below a power limit.

    Args:
        predicted: predictions for n steps without a limit.
        limit_W: power limit in W.
        board_W: power limit of the board itself, which `predicted` includes.
        rest_W: power of the GPUs at rest in W, of shape (n,).
    """
    share = drawn_share(predicted.power_W, board_W)
    drawn_W = drawn_at(limit_W, predicted.power_W, rest_W, share=share)
    clock = clock_at(drawn_W, predicted.power_W, rest_W)
    is_held = drawn_W < predicted.power_W
    return replace(
        predicted,
        step_s=predicted.step_s / clock,
        power_W=drawn_W,
        deviation_step=np.hypot(predicted.deviation_step, _DEVIATION_STEP * is_held),
        deviation_energy=np.hypot(predicted.deviation_energy, _DEVIATION_ENERGY * is_held),
    )


def drawn_share(free_W: ArrayLike, board_W: ArrayLike) -> Array:
    """Power drawn under a limit that holds a training back, as a share of the limit.

    Args:
        free_W: power drawn without a limit.
        board_W: power limit of the board, under which it is drawn.
    """
    share: Array = np.clip(np.asarray(free_W) / board_W, _DRAWN, 1.0)
    return share


def drawn_at(
    limit_W: ArrayLike, free_W: ArrayLike, rest_W: ArrayLike, *, share: ArrayLike
) -> Array:
    """Power drawn under a limit, in W.

    Args:
        limit_W: the limit.
        free_W: power drawn without a limit.
        rest_W: power at rest, below which no limit brings a GPU.
        share: power drawn under a limit that holds a training back, as a share of the limit.
    """
    drawn_W: Array = np.minimum(free_W, np.maximum(np.multiply(share, limit_W), rest_W))
    return drawn_W


def clock_at(drawn_W: ArrayLike, free_W: ArrayLike, rest_W: ArrayLike) -> Array:
    """Clock of a GPU that draws `drawn_W` instead of `free_W`, as a share of its usual one."""
    drawn_W, free_W = np.asarray(drawn_W), np.asarray(free_W)
    share = np.maximum(drawn_W - rest_W, 0.0) / np.maximum(free_W - rest_W, 1e-9)
    clock = np.clip(share ** (1 / _POWER_OF_CLOCK), _LEAST_CLOCK, 1.0)
    # A light training may draw less than what such a GPU usually draws at rest.
    held: Array = np.where(drawn_W < free_W, clock, 1.0)
    return held


def behind_loader(predicted: Predictions, batch_s: Array, rest_W: Array) -> Predictions:
    """Predictions for steps that wait for their data.

    Args:
        predicted: predictions for n steps that do not wait.
        batch_s: time that the loader takes for one batch for each GPU, of shape (n,).
        rest_W: power of a waiting GPU in W, of shape (n,).
    """
    step_s = np.maximum(predicted.step_s, batch_s)
    # A GPU that waits draws no more than one that works.
    waiting_W = np.minimum(rest_W, predicted.power_W)
    power_W = predicted.power_W + (waiting_W - predicted.power_W) * (1 - predicted.step_s / step_s)
    return replace(predicted, step_s=step_s, power_W=power_W)
