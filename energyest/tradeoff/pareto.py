"""Which of several choices no other one beats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray


def undominated(costs: FloatArray) -> NDArray[np.bool_]:
    """The Pareto front: choices that no other is better than in one cost and as good in the rest.

    Choices that are equal in all costs stand or fall together.

    Args:
        costs: shape (choices, costs), finite, all of them better the lower they are.

    Returns:
        Shape (choices,), true on the front.
    """
    if costs.shape[1] == 2:
        return _undominated_of_two(costs)
    no_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    beaten = (no_worse & better).any(axis=0)
    return np.asarray(~beaten)


def _undominated_of_two(costs: FloatArray) -> NDArray[np.bool_]:
    """The same for two costs, without comparing all with all."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order, 0], costs[order, 1]
    # Of those that are equal in the first cost, the least second one stands first.
    begins = np.append(True, np.diff(first) > 0)
    leader = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    before = np.append(np.inf, np.minimum.accumulate(second)[:-1])
    found = np.empty(len(order), dtype=np.bool_)
    found[order] = (second == second[leader]) & (second < before[leader])
    return found
