"""The bootstrap: medians of choices, and their variation over resamples of the repetitions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.tradeoff.table import Groups, groups_of

#: Number of resamples; each tail of a 90 % interval is then 4.5 to 5.5 %.
RESAMPLES = 2_000
# From so many repetitions on, medians are drawn without the values that lie around them.
_MANY = 200
# Values that are drawn at a time: 64 MiB of them.
_MOST_DRAWN = 2**23


@dataclass(frozen=True)
class Choices:
    """Choices with the medians of their repetitions.

    Attributes:
        groups: values of the columns that define a choice -> positions of its rows.
        columns: name -> values, shape (runs,).
        medians: name -> medians, shape (choices,).
    """

    groups: Groups
    columns: Mapping[str, FloatArray]
    medians: dict[str, FloatArray]

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """The values that define each choice."""
        return list(self.groups)

    @property
    def counts(self) -> NDArray[np.int_]:
        """Number of repetitions, shape (choices,)."""
        return np.array([len(rows) for rows in self.groups.values()])

    def draws(self, confidence: float, seed: int, *, jointly: bool = True) -> dict[str, FloatArray]:
        """Medians of repetitions drawn with replacement; the columns of a run stay together.

        Args:
            confidence: confidence of the intervals that the draws are used for.
            seed: seed of the random numbers.
            jointly: False if each column is looked at alone: the columns of a choice with very
                many repetitions are then drawn separately, which is far quicker.

        Returns:
            Name -> shape (choices, resamples); NaN where the repetitions are too few.
        """
        generator = np.random.default_rng(seed)
        found = {n: np.full((len(self.groups), RESAMPLES), math.nan) for n in self.columns}
        fewest = fewest_repetitions(confidence)
        for place, rows in enumerate(self.groups.values()):
            if len(rows) < fewest:
                continue
            if len(rows) >= _MANY and not jointly:
                for name, values in self.columns.items():
                    found[name][place] = medians_of_resamples(values[rows], RESAMPLES, generator)
                continue
            at_once = max(1, _MOST_DRAWN // len(rows))
            for first in range(0, RESAMPLES, at_once):
                some = slice(first, min(first + at_once, RESAMPLES))
                size = (some.stop - some.start, len(rows))
                drawn = rows[generator.integers(len(rows), size=size)]
                for name, values in self.columns.items():
                    found[name][place, some] = np.median(values[drawn], axis=1)
        return found


def medians_of_resamples(
    values: FloatArray, resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Medians of samples of the same size drawn with replacement, without drawing them.

    A value drawn with replacement is the one at place ⌊n·U⌋ of the sorted values, for a U that is
    uniform on [0, 1). The k-th smallest of n such U has a beta distribution with the parameters k
    and n + 1 − k; and the next one, given this, the smallest of the n − k others above it. (David
    and Nagaraja, "Order Statistics", 3rd edition, 2003, sections 2.1 and 2.5.)

    Args:
        values: shape (n,), n ≥ 2.
        resamples: number of samples.
        generator: source of random numbers.

    Returns:
        Shape (resamples,).
    """
    in_order, n = np.sort(values), len(values)
    middle = (n + 1) // 2
    lower = generator.beta(middle, n + 1 - middle, resamples)
    upper = lower
    if n % 2 == 0:
        upper = lower + (1 - lower) * generator.beta(1, n - middle, resamples)
    places = [np.minimum((n * u).astype(np.intp), n - 1) for u in (lower, upper)]
    medians: FloatArray = (in_order[places[0]] + in_order[places[1]]) / 2
    return medians


def fewest_repetitions(confidence: float) -> int:
    """Number of repetitions needed for a confidence interval of a median.

    All of n independent repetitions lie on one side of the true median with probability 2^(1−n);
    no interval made from them then contains it.
    """
    return 1 + math.ceil(-math.log2(1 - confidence))


def choices_of(runs: pd.DataFrame, columns: Mapping[str, FloatArray], by: Sequence[str]) -> Choices:
    """Group runs into choices.

    Args:
        runs: the table.
        columns: values to take medians of, each of shape (runs,).
        by: columns of the table that define a choice.
    """
    groups = groups_of(runs, by)
    medians = {
        name: np.array([np.median(values[rows]) for rows in groups.values()])
        for name, values in columns.items()
    }
    return Choices(groups, columns, medians)


def interval(draws: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Ends of the percentile interval over the last axis; NaN where draws are NaN."""
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=-1)
    return lower, upper
