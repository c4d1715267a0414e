"""Which of several choices no other one beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from energyest.integration import FloatArray


def undominated(costs: FloatArray) -> NDArray[np.bool_]:
    """The Pareto front: choices that no other is better than in one cost and as good in the rest.

    Choices that are equal in all costs stand or fall together.

    Args:
        costs: shape (choices, costs), finite, all of them better the lower they are.

    Returns:
        Shape (choices,), true on the front.
    """
    no_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    beaten = (no_worse & better).any(axis=0)
    return np.asarray(~beaten)
