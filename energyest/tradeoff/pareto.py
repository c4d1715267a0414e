"""The Pareto front: `pareto_front`, `cheapest_within`, and `undominated` below both."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import check_count, is_number
from energyest.errors import RunsError
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

# `front_share` is given where the repetitions would allow an interval of this confidence.
_CONFIDENCE = 0.9
# Of so many draws; the share is then known to 1.5 points.
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
    """The runs, or choices, that no other beats: none is as good in all and better in one.

    Runs that are equal in every cost and in quality are all on the front.

    Args:
        runs: one row a run.
        cost: column or columns where less is better: energy, duration, CO2e.
        quality: column of what is bought with it; None for a front of costs alone.
        by: columns that make a choice, such as `["model", "gpu"]`: repetitions are one choice then,
            with the medians of their costs and quality. By default every run stands for itself.
        mode: whether more quality is better, "max", or less, "min"; by default as its name says:
            more of an accuracy, less of a loss.
        seed: of the bootstrap.

    Returns:
        The rows of the front, cheapest first. Of runs, with all their columns; of choices, with
        `by`, `runs` (their number), the medians, and `front_share`: in which share of resampled
        repetitions the choice is on the front. NaN where any choice has too few repetitions for it
        (5).

    Raises:
        RunsError: a column is missing or does not hold numbers in one unit; a cost or quality is
            not known for a run; neither `mode` nor the name of the quality tells whether more of it
            is better; an argument is out of its range.

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
        rows: pd.DataFrame = table[on_front].sort_values(costs, kind="stable")
        return rows
    choices = choices_of(table, values, as_names(by))
    found = _frame(choices, as_names(by))
    found["front_share"] = _front_share(
        _as_costs(choices.draws(_CONFIDENCE, seed), costs, quality, mode)[:, :_SHARE_DRAWS]
    )
    chosen = found[undominated(_as_costs(choices.medians, costs, quality, mode))]
    in_order: pd.DataFrame = chosen.sort_values(costs, kind="stable", ignore_index=True)
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
    """The cheapest of the runs, or choices, whose quality is near enough to the best.

    Args:
        runs: one row a run.
        within: by how much the quality may be worse than the best, in its own unit: two points of
            an accuracy from 0 to 1 are 0.02, of one in per cent 2.
        cost: what has to be least; where several columns are named, the next decides ties.
        quality: see `pareto_front`.
        by: see `pareto_front`.
        mode: see `pareto_front`.

    Returns:
        One row, or several if they cost the same, as `pareto_front` returns them, with `behind`: by
        how much its quality is worse than the best.

    Raises:
        RunsError: as `pareto_front`; `within` is negative, or 1 or more where all qualities are
            shares.

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
    # Equal in the first cost, then in the next.
    for place in range(len(costs)):
        near &= worse[:, place] == worse[near, place].min()
    found: pd.DataFrame = table.assign(behind=behind)[near]
    return found if by is None else found.reset_index(drop=True)


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


def _check_within(within: float, quality: str, values: FloatArray) -> None:
    if not (is_number(within) and math.isfinite(within) and within >= 0):
        raise RunsError(f"within={within!r} must be a number of 0 or more")
    if within >= 1 and values.min() >= 0 and values.max() <= 1:
        raise RunsError(
            f"within={within:g}, but {quality} lies between 0 and 1: two points of it are 0.02"
        )


def _checked(
    runs: pd.DataFrame,
    costs: Sequence[str],
    quality: str | None,
    by: By | None,
    mode: Mode | None,
    taken: Sequence[str],
) -> tuple[pd.DataFrame, dict[str, FloatArray]]:
    """The table, and the columns of costs and quality as numbers."""
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
    """Costs and, last, the quality as numbers where lower is better; shape (rows, columns)."""
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
    """In which share of the draws each choice is on the front; of shape (choices, draws, costs)."""
    if np.isnan(drawn).any():
        return np.full(len(drawn), math.nan)
    on_front = np.stack([undominated(drawn[:, i]) for i in range(drawn.shape[1])])
    share: FloatArray = on_front.mean(axis=0)
    return share
