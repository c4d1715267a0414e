"""More rows than a picture has room for, as what the eye would see of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray

# A panel of a notebook's picture has 650 columns of pixels: a group is about one of them wide.
MOST_ROWS = 600


class Thinned(NamedTuple):
    """Rows in groups of neighbours, one a column of the picture; NaN in a gap.

    Attributes:
        first: the row that each group begins with.
        low: the lowest value of each group, so that no dip is lost.
        high: the highest, so that no spike is.
        mean: the mean of those that are known.
    """

    first: NDArray[np.intp]
    low: FloatArray
    high: FloatArray
    mean: FloatArray


def thin(position: FloatArray, values: FloatArray) -> Thinned:
    """Rows in `MOST_ROWS` groups of equal width, or fewer; of fewer rows, each is its own.

    A gap that is wider than a group stays one, and has a group of its own; one that is narrower
    would not be seen.

    Args:
        position: where each row is drawn, not decreasing, shape (rows,).
        values: what is drawn of it, NaN where it is not known, shape (rows,).
    """
    edges = np.linspace(position[0], position[-1], MOST_ROWS + 1)
    group = np.searchsorted(edges[1:-1], position, side="right")
    is_known = ~np.isnan(values)
    known = np.flatnonzero(is_known)
    before, after = known[:-1], known[1:]
    is_gap = (after - before > 1) & (group[after] - group[before] > 1)
    sides = np.append(before[is_gap] + 1, after[is_gap])
    first = np.union1d(np.flatnonzero(np.diff(group, prepend=-1)), sides)
    total = np.add.reduceat(np.where(is_known, values, 0.0), first)
    count = np.add.reduceat(is_known.astype(float), first)
    mean = np.divide(total, count, out=np.full(len(first), math.nan), where=count > 0)
    return Thinned(first, np.fmin.reduceat(values, first), np.fmax.reduceat(values, first), mean)
