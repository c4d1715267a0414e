"""`savings`: what each choice saves over each more expensive one, and at what loss of quality."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from energyest.arrays import FloatArray
from energyest.checks import check_confidence, check_count
from energyest.errors import RunsError
from energyest.frames import ResultTable
from energyest.tradeoff.resample import choices_of, interval
from energyest.tradeoff.table import (
    CHOICE,
    By,
    as_names,
    check_choices,
    check_cost,
    check_quality,
    check_runs,
    refuse_taken,
)

Change = Callable[[FloatArray, FloatArray], FloatArray]


def savings(
    runs: pd.DataFrame,
    cost: str = "energy_J",
    quality: str | None = "val_acc",
    *,
    by: By = CHOICE,
    confidence: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Relative saving and change in quality for every pair of choices, largest saving first.

    The saving is 1 − median cost of the cheaper ÷ median cost of the more expensive choice; the
    change in quality is the difference of their medians. Intervals are bootstrap percentiles: the
    repetitions of each choice are resampled with replacement.

    Args:
        runs: table with one row per run.
        cost: column of the cost to be saved.
        quality: column of the quality that may be lost; None to leave it out.
        by: columns that define a choice.
        confidence: confidence of the intervals.
        seed: seed of the bootstrap.

    Returns:
        One row per pair, from the more expensive to the cheaper choice: `from_<column>` and
        `to_<column>` for each column of `by`; `saving, saving_lower, saving_upper` as shares (1 is
        the whole cost); `quality_change, quality_change_lower, quality_change_upper` (cheaper −
        more expensive, in the unit of the quality); `from_runs` and `to_runs`. Ends of an interval
        are NaN if a choice has too few repetitions: all of n repetitions lie on one side of the
        true median with probability 2^(1−n), so that 90 % need 5.

    Raises:
        RunsError: there is only one choice; a column is missing or does not hold numbers in one
            unit; a value is unknown; the confidence does not lie between 0 and 1; or the seed is
            not a whole number of 0 or more.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import savings
        >>> table = savings(runs, by='model')
        >>> table[['saving', 'saving_lower', 'saving_upper']].round(2).head(2)
           saving  saving_lower  saving_upper
        0    0.91          0.91          0.92
        1    0.89          0.89          0.90
    """
    names = as_names(by)
    qualities = [] if quality is None else [quality]
    table = check_runs(runs, as_names([*names, cost, *qualities], "by, cost and quality"))
    confidence = check_confidence(confidence, RunsError)
    check_count(seed, "seed", RunsError, least=0)
    refuse_taken(names, ["runs"])  # the result has from_runs and to_runs
    check_choices(table, names)
    values = {cost: check_cost(table, cost, names)}
    if quality is not None:
        values[quality] = check_quality(table, quality)
    choices = choices_of(table, values, names)
    if len(choices.keys) < 2:
        raise RunsError(f"all runs belong to one choice of {names}: a saving needs two")
    order = np.argsort(choices.medians[cost], kind="stable")
    cheap, expensive = (order[places] for places in np.triu_indices(len(order), 1))

    columns = {f"from_{n}": [choices.keys[i][k] for i in expensive] for k, n in enumerate(names)}
    columns |= {f"to_{n}": [choices.keys[i][k] for i in cheap] for k, n in enumerate(names)}
    found = pd.DataFrame(columns)
    changes: dict[str, tuple[str, Change]] = {"saving": (cost, _saving)}
    if quality is not None:
        changes["quality_change"] = (quality, np.subtract)
    drawn = choices.draws(confidence, seed, jointly=False)
    for name, (column, change) in changes.items():
        medians, draws = choices.medians[column], drawn[column]
        found[name] = change(medians[cheap], medians[expensive])
        # One pair at a time: the draws of a thousand pairs would take 80 MB.
        pairs = zip(cheap, expensive, strict=True)
        ends = [interval(change(draws[to], draws[of]), confidence) for to, of in pairs]
        found[f"{name}_lower"], found[f"{name}_upper"] = np.transpose(ends)
    found["from_runs"] = choices.counts[expensive]
    found["to_runs"] = choices.counts[cheap]
    in_order: pd.DataFrame = ResultTable(
        found.sort_values("saving", ascending=False, kind="stable", ignore_index=True)
    )
    return in_order


def _saving(cheaper: FloatArray, more_expensive: FloatArray) -> FloatArray:
    return 1 - cheaper / more_expensive
