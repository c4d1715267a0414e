"""A lower level of a few epochs, after a longer one: often a long dip, which ends."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from energyest.arrays import FloatArray
from energyest.estimators.step.disturbances import LEAST_HEIGHT
from energyest.estimators.step.level import MIN_EPOCHS, Level, current_level

# A lower level of at most `_YOUNG` epochs, after one longer than `_LONGER` times its age, is mostly
# a long dip. The probability that it ends falls with its age, by a factor of e in
# `GOES_BACK_EPOCHS` epochs.
_YOUNG, _LONGER, _LEAST_EPOCHS = 10, 1.5, 4
GOES_BACK, GOES_BACK_EPOCHS = 0.5, 4.0
_FORMER_EPOCHS, _FORMER_ALIKE = 12, 0.03
# A level that has lasted this long is projected although the newest epochs are lower.
_ESTABLISHED = 2 * MIN_EPOCHS


class OtherLevel(NamedTuple):
    """Another level, on which the remaining epochs may lie instead.

    Attributes:
        probability: probability that they do.
        more: extra cost of an epoch there, as a share of an epoch on the projected level; negative
            for a lower level.
    """

    probability: float = 0.0
    more: float = 0.0


def level_at_end(values: FloatArray) -> Level:
    """The present level, or an established one if no epoch has cost more than it since.

    That is: if the last epochs do not lie on one level, what has come since a level of six or more
    is a dip, or several.

    Args:
        values: shape (values,), at least one; finite and not negative, for example joules.

    Returns:
        The level. `dip` is the number of lower epochs at the end.
    """
    level = former = current_level(values)
    if not level.missing_epochs:
        return level
    stop = len(values)
    while former.epochs < _ESTABLISHED:
        stop -= former.age
        if stop < _ESTABLISHED:
            return level
        former = current_level(values[:stop])
    since = values[stop:]
    # Dips on the level itself lower its mean.
    usual_at_most = max(former.mean, float(np.median(values[former.start : stop])))
    if (since > (1 + LEAST_HEIGHT) * usual_at_most).any():
        return level
    usual = np.flatnonzero(since >= (1 - LEAST_HEIGHT) * former.mean)
    return replace(
        former,
        age=former.age + len(since),
        shares=np.concatenate([former.shares, np.zeros(len(since))]),
        smooth=np.concatenate([former.smooth, since]),
        change=None,
        since=len(since),
        dip=len(since) - 1 - int(usual[-1]) if len(usual) else len(since),
    )


def other_level(values: FloatArray, start: int, dip: int = 0) -> OtherLevel:
    """The level to which a training may return or, after a dip, on which it may stay.

    Args:
        values: shape (values,), cost of each epoch.
        start: position of the first epoch of the projected level.
        dip: number of lower epochs at the end that are not part of this level.
    """
    stop = len(values) - dip
    usual = float(np.median(values[start:stop]))
    if not usual > 0:
        return OtherLevel()
    if dip:
        low = float(np.median(values[stop:][-MIN_EPOCHS:]))
        return OtherLevel(1 - _returns(dip), low / usual - 1)
    age, before = stop - start, values[:start]
    if age > _YOUNG or not len(before):
        return OtherLevel()
    former = float(np.median(before[-_FORMER_EPOCHS:]))
    epochs = np.count_nonzero(np.abs(before - former) <= _FORMER_ALIKE * former)
    if epochs < max(_LEAST_EPOCHS, _LONGER * age) or usual > (1 - LEAST_HEIGHT) * former:
        return OtherLevel()
    return OtherLevel(_returns(age), former / usual - 1)


def _returns(age: int) -> float:
    """Probability that a lower level of this many epochs ends."""
    return min(GOES_BACK * math.exp((MIN_EPOCHS - age) / GOES_BACK_EPOCHS), 1.0)
