"""The Pareto front: `pareto_front`, `cheapest_within`, and `undominated`, which both use."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import check_count, is_number
from energyest.errors import RunsError
from energyest.frames import ResultTable
from energyest.tradeoff.metrics import Mode, check_mode, direction
from energyest.tradeoff.resample import Choices, choices_of
from energyest.tradeoff.table import (
    By,
    as_names,
    check_choices,
    check_cost,
    check_quality,
    check_runs,
    refuse_taken,
)

# `front_share` is given if there are enough repetitions for an interval with this confidence.
_CONFIDENCE = 0.9
# Number of draws for `front_share`; its error is then about 1.5 percentage points.
_SHARE_DRAWS = 1000


def pareto_front(
    runs: pd.DataFrame,
    cost: By = "energy_J",
    quality: str | None = "val_acc",
    *,
    by: By | None = None,
    mode: Mode | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The Pareto-optimal runs or choices: no other is as good in everything and better in one.

    Runs that are equal in every cost and in quality are on the front together or not at all.

    Args:
        runs: table with one row per run.
        cost: column or columns in which lower is better, such as energy, duration or CO2e.
        quality: column of the quality; None for a front of costs only.
        by: columns that define a choice, such as `["model", "gpu"]`: repetitions then form one
            choice, with the medians of their costs and quality. By default, each run is a choice.
        mode: "max" if higher quality is better, "min" if lower is; by default inferred from the
            name of the quality (higher for an accuracy, lower for a loss).
        seed: seed of the bootstrap.

    Returns:
        The rows on the front, cheapest first. Runs have all their columns. Choices have `by`,
        `runs` (number of runs), the medians, and `front_share`: the share of bootstrap resamples in
        which the choice is on the front; NaN if any choice has fewer than 5 repetitions.

    Raises:
        RunsError: a column is missing or does not hold numbers in one unit; a cost or quality of a
            run is unknown; neither `mode` nor the name of the quality shows whether higher is
            better; or an argument is invalid.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import pareto_front
        >>> front = pareto_front(runs, cost='energy_J', quality='val_acc', by=['model', 'gpu'])
        >>> front['model'].tolist()
        ['small_cnn', 'small_cnn', 'resnet18']
    """
    costs = as_names(cost, "cost")
    check_count(seed, "seed", RunsError, least=0)
    table, values = _checked(runs, costs, quality, by, mode, ())
    worse = _as_costs(values, costs, quality, mode)
    if by is None:
        on_front = undominated(worse)
        rows: pd.DataFrame = ResultTable(table[on_front].sort_values(costs, kind="stable"))
        return rows
    choices = choices_of(table, values, as_names(by))
    found = _frame(choices, as_names(by))
    found["front_share"] = _front_share(
        _as_costs(choices.draws(_CONFIDENCE, seed), costs, quality, mode)[:, :_SHARE_DRAWS]
    )
    chosen = found[undominated(_as_costs(choices.medians, costs, quality, mode))]
    in_order: pd.DataFrame = ResultTable(
        chosen.sort_values(costs, kind="stable", ignore_index=True)
    )
    return in_order


def cheapest_within(
    runs: pd.DataFrame,
    within: float,
    cost: By = "energy_J",
    quality: str = "val_acc",
    *,
    by: By | None = None,
    mode: Mode | None = None,
) -> pd.DataFrame:
    """The cheapest run or choice whose quality is close enough to the best.

    Args:
        runs: table with one row per run.
        within: how much worse than the best the quality may be, in its own unit: two percentage
            points are 0.02 for an accuracy from 0 to 1, and 2 for one in per cent.
        cost: column to minimise; if several are given, each decides ties of the one before.
        quality: see `pareto_front`.
        by: see `pareto_front`.
        mode: see `pareto_front`.

    Returns:
        One row, or several if they cost the same, as `pareto_front` returns them, with `behind`:
        how much worse than the best the quality is.

    Raises:
        RunsError: as `pareto_front`; or `within` is negative, or at least 1 although all qualities
            are shares.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import cheapest_within
        >>> cheapest_within(runs, 0.02, by='model')['model'].tolist()
        ['resnet18']
    """
    costs = as_names(cost, "cost")
    table, values = _checked(runs, costs, quality, by, mode, ("behind",))
    if by is not None:
        choices = choices_of(table, values, as_names(by))
        table, values = _frame(choices, as_names(by)), choices.medians
    worse = _as_costs(values, costs, quality, mode)
    behind = worse[:, -1] - worse[:, -1].min()
    _check_within(within, quality, values[quality])
    near = behind <= within + 1e-12 * max(1.0, float(np.abs(worse[:, -1]).max()))
    # Minimise the first cost, then the next among ties.
    for place in range(len(costs)):
        near &= worse[:, place] == worse[near, place].min()
    found = table.assign(behind=behind)[near]
    chosen: pd.DataFrame = ResultTable(found if by is None else found.reset_index(drop=True))
    return chosen


def undominated(costs: FloatArray) -> NDArray[np.bool_]:
    """The Pareto front: choices that no other is as good as in all costs and better than in one.

    Choices that are equal in all costs are on the front together or not at all.

    Args:
        costs: shape (choices, costs), finite; lower is better for all.

    Returns:
        Shape (choices,), True on the front.
    """
    if costs.shape[1] == 2:
        return _undominated_of_two(costs)
    no_worse = (costs[:, None, :] <= costs[None, :, :]).all(axis=2)
    better = (costs[:, None, :] < costs[None, :, :]).any(axis=2)
    beaten = (no_worse & better).any(axis=0)
    return np.asarray(~beaten)


def _undominated_of_two(costs: FloatArray) -> NDArray[np.bool_]:
    """`undominated` for two costs, without comparing all pairs."""
    order = np.lexsort((costs[:, 1], costs[:, 0]))
    first, second = costs[order, 0], costs[order, 1]
    # Among equals in the first cost, the lowest second cost comes first.
    begins = np.append(True, np.diff(first) > 0)
    leader = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    before = np.append(np.inf, np.minimum.accumulate(second)[:-1])
    found = np.empty(len(order), dtype=np.bool_)
    found[order] = (second == second[leader]) & (second < before[leader])
    return found


def _check_within(within: float, quality: str, values: FloatArray) -> None:
    if not (is_number(within) and math.isfinite(within) and within >= 0):
        raise RunsError(f"within={within!r} must be a number of 0 or more")
    if within >= 1 and values.min() >= 0 and values.max() <= 1:
        raise RunsError(
            f"within={within:g}, but {quality} lies between 0 and 1: two percentage points are 0.02"
        )


def _checked(
    runs: pd.DataFrame,
    costs: Sequence[str],
    quality: str | None,
    by: By | None,
    mode: Mode | None,
    taken: Sequence[str],
) -> tuple[pd.DataFrame, dict[str, FloatArray]]:
    """The checked table, and its columns of costs and quality as numbers."""
    check_mode(mode)
    names = [] if by is None else as_names(by)
    wanted = [*names, *costs, *([] if quality is None else [quality])]
    table = check_runs(runs, as_names(wanted, "cost, quality and by"), repeated=bool(names))
    if names:
        refuse_taken(wanted, ("runs", "front_share", *taken))
        check_choices(table, names)
    else:
        refuse_taken(list(map(str, table.columns)), taken)
    values = {name: check_cost(table, name, names) for name in costs}
    if quality is not None:
        values[quality] = check_quality(table, quality)
    return table, values


def _as_costs(
    values: dict[str, FloatArray], costs: Sequence[str], quality: str | None, mode: Mode | None
) -> FloatArray:
    """Costs and, last, the quality, as numbers for which lower is better; shape (rows, columns)."""
    columns = [values[name] for name in costs]
    if quality is not None:
        sign = -1.0 if direction(quality, mode) == "max" else 1.0
        columns.append(sign * values[quality])
    return np.stack(columns, axis=-1)


def _frame(choices: Choices, by: Sequence[str]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(choices.keys, columns=list(by))
    frame["runs"] = choices.counts
    for name, values in choices.medians.items():
        frame[name] = values
    return frame


def _front_share(drawn: FloatArray) -> FloatArray:
    """The share of `drawn`, shape (choices, draws, costs), in which each choice is on the front."""
    if np.isnan(drawn).any():
        return np.full(len(drawn), math.nan)
    on_front = np.stack([undominated(drawn[:, i]) for i in range(drawn.shape[1])])
    share: FloatArray = on_front.mean(axis=0)
    return share
