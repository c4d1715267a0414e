"""Medians of choices, and how they vary when their repetitions are drawn anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energyest.integration import FloatArray
from energyest.tradeoff.table import groups_of

if TYPE_CHECKING:
    import pandas as pd

#: Medians are drawn so often; an end of a 90 % interval is then one of 4.5 to 5.5 %.
RESAMPLES = 2_000


@dataclass(frozen=True)
class Choices:
    """Choices with the medians of their repetitions.

    Attributes:
        keys: what makes each choice, the values of the columns it is made by.
        counts: number of repetitions, shape (choices,).
        medians: column -> shape (choices,).
        draws: column -> shape (choices, resamples): medians of repetitions drawn with replacement.
            All columns of a run are drawn together. NaN where the repetitions are too few.
    """

    keys: list[tuple[object, ...]]
    counts: FloatArray
    medians: dict[str, FloatArray]
    draws: dict[str, FloatArray]


def fewest_repetitions(confidence: float) -> int:
    """How many repetitions an interval of a median needs.

    All of n independent repetitions lie on one side of the true median with probability
    2^(1−n): then no interval that is made of them holds it.
    """
    return 1 + math.ceil(-math.log2(1 - confidence))


def choices_of(
    runs: pd.DataFrame,
    columns: Mapping[str, FloatArray],
    by: Sequence[str],
    *,
    confidence: float,
    seed: int,
) -> Choices:
    """Group runs into choices.

    Args:
        runs: the table; `by` are columns of it.
        columns: the numbers to take medians of, each of shape (runs,).
        by: what makes a choice.
        confidence: of the intervals that the draws are for.
        seed: of the draws.
    """
    groups = groups_of(runs, by)
    keys, members = list(groups), list(groups.values())
    generator = np.random.default_rng(seed)
    medians = {n: np.array([np.median(v[rows]) for rows in members]) for n, v in columns.items()}
    draws = {name: np.full((len(keys), RESAMPLES), math.nan) for name in columns}
    for place, rows in enumerate(members):
        if len(rows) >= fewest_repetitions(confidence):
            drawn = rows[generator.integers(len(rows), size=(RESAMPLES, len(rows)))]
            for name, values in columns.items():
                draws[name][place] = np.median(values[drawn], axis=1)
    counts = np.array([len(rows) for rows in members], dtype=np.float64)
    return Choices(keys, counts, medians, draws)


def interval(draws: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Ends of the percentile interval over the last axis; NaN where draws are."""
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(draws, [tail, 1 - tail], axis=-1)
    return lower, upper
