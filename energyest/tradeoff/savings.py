"""`savings`: what each choice saves against each dearer one, and what it gives up for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energyest.arrays import FloatArray
from energyest.errors import RunsError
from energyest.estimators.checks import check_confidence, check_count
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

if TYPE_CHECKING:
    import pandas as pd


def savings(
    runs: pd.DataFrame,
    cost: str = "energy_J",
    quality: str | None = "val_acc",
    *,
    by: By = CHOICE,
    confidence: float = 0.9,
    seed: int = 0,
) -> pd.DataFrame:
    """Relative saving and difference in quality of every pair of choices, largest saving first.

    The saving is 1 − median cost of the cheaper ÷ median cost of the dearer one; the difference is
    that of the median qualities. Intervals are percentiles of a bootstrap: the repetitions of each
    choice are drawn anew, with replacement, cost and quality of a run together.

    Args:
        runs: one row a run.
        cost: column of what is to be saved.
        quality: column of what may be given up for it; None to leave it out.
        by: columns that make a choice.
        confidence: probability for the intervals.
        seed: of the bootstrap.

    Returns:
        One row a pair, from the dearer to the cheaper choice: `from_<column>` and `to_<column>` for
        each column of `by`, `saving_pct, saving_lower_pct, saving_upper_pct`, `quality_change`
        (cheaper − dearer, in the quality's unit), `quality_lower, quality_upper`, `from_runs` and
        `to_runs`. An end of an interval is NaN where a choice has too few repetitions to give one:
        of n, all lie on one side of the true median in 2^(1−n) of all cases, so 90 % need 5.

    Raises:
        RunsError: there is one choice alone; a column is missing or holds what is no number in one
            unit; a value is not known.
        EstimateError: the confidence is no probability.
    """
    import pandas as pd  # noqa: PLC0415

    names = as_names(by)
    qualities = [] if quality is None else [quality]
    table = check_runs(runs, as_names([*names, cost, *qualities], "by, cost and quality"))
    confidence = check_confidence(confidence)
    check_count(seed, "seed", least=0)
    refuse_taken(names, ["runs"])  # the result has from_runs and to_runs
    check_choices(table, names)
    values = {cost: check_cost(table, cost, names)}
    if quality is not None:
        values[quality] = check_quality(table, quality)
    choices = choices_of(table, values, names)
    if len(choices.keys) < 2:
        raise RunsError(f"all runs are of one choice ({names}): a saving needs two")
    order = np.argsort(choices.medians[cost], kind="stable")
    cheap, dear = np.triu_indices(len(order), 1)
    cheap, dear = order[cheap], order[dear]

    columns = {f"from_{n}": [choices.keys[i][k] for i in dear] for k, n in enumerate(names)}
    columns |= {f"to_{n}": [choices.keys[i][k] for i in cheap] for k, n in enumerate(names)}
    found = pd.DataFrame(columns)
    # Draws a pair at a time: those of a thousand pairs at once would be 80 MB.
    pairs = list(zip(cheap, dear, strict=True))
    drawn = choices.draws(confidence, seed)
    medians, draws = choices.medians[cost], drawn[cost]
    found["saving_pct"] = _saving(medians[cheap], medians[dear])
    ends = [interval(_saving(draws[to], draws[of]), confidence) for to, of in pairs]
    found["saving_lower_pct"], found["saving_upper_pct"] = np.transpose(ends)
    if quality is not None:
        medians, draws = choices.medians[quality], drawn[quality]
        found["quality_change"] = medians[cheap] - medians[dear]
        ends = [interval(draws[to] - draws[of], confidence) for to, of in pairs]
        found["quality_lower"], found["quality_upper"] = np.transpose(ends)
    found["from_runs"] = choices.counts[dear]
    found["to_runs"] = choices.counts[cheap]
    found = found.sort_values("saving_pct", ascending=False, kind="stable")
    in_order: pd.DataFrame = found.reset_index(drop=True)
    return in_order


def _saving(cheaper: FloatArray, dearer: FloatArray) -> FloatArray:
    return 100 * (1 - cheaper / dearer)
