"""`match_gpu`: which GPU suits models of which complexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from energyest.arrays import FloatArray
from energyest.errors import RunsError
from energyest.estimators.checks import check_confidence
from energyest.gpus import find_gpu
from energyest.tradeoff.crossing import line_crossing
from energyest.tradeoff.html import as_html
from energyest.tradeoff.resample import choices_of
from energyest.tradeoff.table import (
    By,
    as_names,
    check_choices,
    check_columns,
    check_cost,
    check_runs,
    groups_of,
    label,
    numbers,
    refuse_taken,
)

if TYPE_CHECKING:
    import pandas as pd

# With fewer models, no order of them has a two-sided probability below 5 % by chance: 2/4! = 8 %.
_FEWEST_RANKED = 5
# FLOPs of one model are counted alike on all GPUs, but for a last, smaller batch.
_SAME_COMPLEXITY = 1.01
_PER_SAMPLE = "energy_per_sample_J"
_SIDES = ("cheaper_below", "cheaper_above")
_QUANTITIES = ("utilization", "mean_power_W")


@dataclass(frozen=True, eq=False, repr=False)
class GpuMatch:
    """What `match_gpu` found.

    Attributes:
        points: a row a model and GPU: the columns that make a model, `gpu, runs,
            flops_per_sample, energy_per_sample_J`, and where the table has them, `utilization`,
            `mean_power_W`, `power_share` (of the power limit); medians of the runs.
        relations: a row a GPU and quantity: `gpu, quantity, models, spearman_rho, p_value` against
            FLOPs per sample; the p-value is NaN for fewer than 5 models.
        crossings: a row a pair of GPUs: `smaller, larger` (by power limit, or by name where that is
            the same or not known), `models` (measured on both), `crossing, lower, upper` (FLOPs per
            sample), `cheaper_below, cheaper_above` (the GPU that is the cheaper one on either side
            of the crossing), `covered_from, covered_to` (FLOPs per sample measured on both),
            `reason`: why there is no crossing or end of its interval, where that is NaN.
        confidence: probability for the intervals.
        flops: column of `points` that holds the complexity.
        gpu: column that names the GPU.
        model: columns that make a model.
    """

    points: pd.DataFrame
    relations: pd.DataFrame
    crossings: pd.DataFrame
    confidence: float
    flops: str
    gpu: str
    model: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self._say(row) for row in self.crossings.to_dict("records")]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(
            "Which GPU for which complexity", [self.crossings, self.points, self.relations]
        )

    def _say(self, row: dict[Any, Any]) -> str:
        pair = f"{row['larger']} against {row['smaller']} ({row['models']} models)"
        if not math.isfinite(row["crossing"]):
            return f"{pair}: no crossing: {row['reason']}"
        ends = [
            f"{row[end] / 1e9:.3g}" if math.isfinite(row[end]) else "?"
            for end in ("lower", "upper")
        ]
        text = (
            f"{pair}: {row['cheaper_above']} is the cheaper one from {row['crossing'] / 1e9:.3g} "
            f"GFLOPs per sample on ({100 * self.confidence:.0f} % interval {ends[0]} to {ends[1]})"
        )
        return f"{text}; {row['reason']}" if row["reason"] else text


def match_gpu(
    runs: pd.DataFrame,
    *,
    flops: str = "flops_per_sample",
    gpu: str = "gpu",
    model: By = "model",
    confidence: float = 0.9,
) -> GpuMatch:
    """Energy per sample, utilisation and power against complexity, for each GPU.

    Two GPUs are compared on the models that were measured on both, so that what is peculiar to a
    model falls out: a line is fitted to the logarithm of their energies' ratio against that of the
    FLOPs per sample. Where it crosses zero, the other GPU becomes the cheaper one. The interval is
    Fieller's: of three models or more, models that deviate from the line widen it; between two, it
    says how well these two were measured and nothing on how others deviate.

    Args:
        runs: one row a run, with the columns `energy_per_sample_J`, or else `energy_J` and
            `samples`; and `flops`, `gpu` and `model`. `utilization`, `mean_power_W` and
            `power_limit_W` are used where they are there.
        flops: column of FLOPs per sample: the model's complexity. Forward or training, but the same
            for all.
        gpu: column that names the GPU.
        model: column, or columns, that make a model and its settings.
        confidence: probability for the intervals.

    Raises:
        RunsError: there are fewer than two GPUs; a column is missing, or holds what is no positive
            number in one unit; a value is not known; a model has several complexities.
        EstimateError: the confidence is no probability.
    """
    confidence = check_confidence(confidence)
    models = as_names(model, "model")
    by = as_names([*models, gpu], "model and gpu")
    table = check_runs(runs, [*by, flops])
    check_choices(table, by)
    refuse_taken(by, ("runs", "power_share", flops, _PER_SAMPLE, *_QUANTITIES, "power_limit_W"))
    if _PER_SAMPLE in table.columns:
        energy_J = check_cost(table, _PER_SAMPLE, by)
    else:
        check_columns(table, ["energy_J", "samples"])
        energy_J = check_cost(table, "energy_J", by) / numbers(table, "samples", positive=True)
    columns = {flops: numbers(table, flops, positive=True), _PER_SAMPLE: energy_J}
    for name in _QUANTITIES:
        if name in table.columns:
            columns[name] = numbers(table, name, known=False)
    if (columns.get("utilization", np.zeros(1)) > 1).any():
        raise RunsError("utilization must be a share of time from 0 to 1, not in per cent")
    table = table[by].assign(**columns, power_limit_W=_limits_W(table, gpu))
    if table[gpu].nunique() < 2:
        raise RunsError(f"all runs are on one {gpu} ({table[gpu].iloc[0]}): a match needs two")
    _check_complexity(table, flops, models)
    points = _points(table, by)
    return GpuMatch(
        points=points,
        relations=_relations(points, flops, gpu),
        crossings=_crossings(table, points, flops, gpu, models, confidence),
        confidence=confidence,
        flops=flops,
        gpu=gpu,
        model=tuple(models),
    )


def _limits_W(table: pd.DataFrame, gpu: str) -> FloatArray:
    """Power limits as recorded, or else of data sheets."""
    sheets = {name: find_gpu(str(name)) for name in table[gpu].unique()}
    known = table[gpu].map({n: math.nan if g is None else g.tdp_W for n, g in sheets.items()})
    limits: FloatArray = known.to_numpy(dtype=np.float64)
    if "power_limit_W" in table.columns:
        recorded = numbers(table, "power_limit_W", positive=True, known=False)
        limits = np.where(np.isnan(recorded), limits, recorded)
    return limits


def _check_complexity(table: pd.DataFrame, flops: str, models: Sequence[str]) -> None:
    values = table[flops].to_numpy(float)
    for key, rows in groups_of(table, models).items():
        low, high = values[rows].min(), values[rows].max()
        if high > _SAME_COMPLEXITY * low:
            raise RunsError(
                f"{flops} of {label(key)} lies between {low:.4g} and {high:.4g}: it must be the "
                "same on all GPUs; name the setting that changes it in model="
            )


def _points(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    groups = table.reset_index(drop=True).groupby(list(by), observed=True)
    points = groups.median()
    points.insert(0, "runs", groups.size())
    if "mean_power_W" in points:
        points["power_share"] = points["mean_power_W"] / points["power_limit_W"]
    found: pd.DataFrame = points.reset_index()
    return found


def _relations(points: pd.DataFrame, flops: str, gpu: str) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    rows = []
    for name, part in points.groupby(gpu, observed=True):
        for quantity in (_PER_SAMPLE, *_QUANTITIES):
            if quantity in part:
                rho, p_value = _spearman(part[flops].to_numpy(), part[quantity].to_numpy())
                rows.append(
                    {
                        "gpu": name,
                        "quantity": quantity,
                        "models": len(part),
                        "spearman_rho": rho,
                        "p_value": p_value,
                    }
                )
    found: pd.DataFrame = pd.DataFrame(rows)
    return found


def _spearman(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Spearman's ρ, and its two-sided p-value by permutation; NaN where it cannot be told."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    rho = float(stats.spearmanr(x, y).statistic)
    if len(x) < _FEWEST_RANKED:
        return rho, math.nan
    # The usual t distribution tells half of the true p-value of five models.
    ranks = stats.rankdata(x) - (len(x) + 1) / 2, stats.rankdata(y)
    test = stats.permutation_test(
        (ranks[0],),
        lambda permuted, axis: np.sum(permuted * ranks[1], axis=axis),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return rho, float(test.pvalue)


def _crossings(
    table: pd.DataFrame,
    points: pd.DataFrame,
    flops: str,
    gpu: str,
    models: Sequence[str],
    confidence: float,
) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    # Of the logarithm of each median: what repetitions drawn anew make of it.
    energy_J = {_PER_SAMPLE: table[_PER_SAMPLE].to_numpy(float)}
    choices = choices_of(table, energy_J, [gpu, *models])
    draws = choices.draws(confidence, seed=0)[_PER_SAMPLE]
    each = pd.DataFrame(
        {
            "log": np.log(choices.medians[_PER_SAMPLE]),
            "error": np.log(draws).var(axis=1),
        },
        index=pd.MultiIndex.from_tuples(choices.keys),
    )
    complexity = np.log(points.groupby(list(models), observed=True)[flops].median())
    limits_W = points.groupby(gpu, observed=True)["power_limit_W"].median()
    rows = []
    known = limits_W.notna().all()
    for pair in combinations(
        sorted(limits_W.index, key=lambda g: (limits_W[g] if known else 0.0, str(g))), 2
    ):
        smaller, larger = pair
        of_smaller, of_larger = each.loc[smaller], each.loc[larger]
        both = of_smaller.index.intersection(of_larger.index)
        of_smaller, of_larger = of_smaller.loc[both], of_larger.loc[both]
        x = complexity.loc[both].to_numpy(float)
        row = {"smaller": smaller, "larger": larger, "models": len(both)}
        ratio = (of_smaller["log"] - of_larger["log"]).to_numpy(float)
        error = (of_smaller["error"] + of_larger["error"]).to_numpy(float)
        told = _crossing(x, ratio, error, pair, confidence)
        rows.append(row | told)
    found: pd.DataFrame = pd.DataFrame(rows)
    return found


def _crossing(
    x: FloatArray,
    ratio: FloatArray,
    error: FloatArray,
    pair: tuple[str, str],
    confidence: float,
) -> dict[str, object]:
    """Where the other GPU becomes the cheaper one, or why that cannot be said.

    Args:
        x: logarithm of the models' FLOPs per sample.
        ratio: logarithm of the smaller GPU's energy over the larger one's.
        error: variance of `ratio` by repetition; NaN where there are none.
        pair: names of the two.
        confidence: probability for the interval.
    """
    smaller, larger = pair
    if len(x) < 2 or np.ptp(x) == 0:
        return _refused(
            x,
            f"{len(set(x))} complexity was measured on both: two models of different FLOPs per "
            "sample are needed",
        )
    if (ratio < 0).all() or (ratio > 0).all():
        first, last = np.exp(-ratio[[np.argmin(x), np.argmax(x)]])
        cheaper = larger if ratio[0] > 0 else smaller
        return _refused(
            x,
            f"{cheaper} is the cheaper one for all models measured on both ({larger} needs "
            f"{first:.3g} times the energy of {smaller} for the simplest, {last:.3g} times for the "
            "most complex)",
        )
    found = line_crossing(x, ratio, error, confidence)
    if not x.min() <= found.x <= x.max():
        return _refused(
            x,
            "one is the cheaper for some of the models and the other for others, but not by their "
            "complexity",
        )
    if len(x) > 2 and math.isinf(found.upper):
        return _refused(
            x,
            "the models deviate too much from a common line to say where it crosses: measure more "
            "of them on both",
        )
    reasons = []
    if len(x) == 2:
        reasons.append(
            "between two models, the interval says nothing on how others deviate"
            if np.isfinite(error).all()
            else "too few repetitions of these two models for an interval"
        )
    ends = {}
    for end, within in (("lower", found.lower >= x.min()), ("upper", found.upper <= x.max())):
        value = getattr(found, end)
        ends[end] = math.exp(value) if within and math.isfinite(value) else math.nan
        if math.isnan(ends[end]) and not (len(x) == 2 and np.isnan(error).any()):
            reasons.append(f"the {end} end lies outside of the complexities measured on both")
    if len(x) > 2 and all(map(math.isnan, ends.values())):
        return _refused(
            x, "both ends of its interval lie outside of the complexities measured on both"
        )
    sides = pair if found.slope > 0 else pair[::-1]
    return {
        "crossing": math.exp(found.x),
        **ends,
        **dict(zip(_SIDES, sides, strict=True)),
        **_covered(x),
        "reason": "; ".join(reasons),
    }


def _refused(x: FloatArray, reason: str) -> dict[str, object]:
    nothing = dict.fromkeys(("crossing", "lower", "upper"), math.nan)
    return {**nothing, **dict.fromkeys(_SIDES, ""), **_covered(x), "reason": reason}


def _covered(x: FloatArray) -> dict[str, float]:
    known = len(x) > 0
    return {
        "covered_from": math.exp(x.min()) if known else math.nan,
        "covered_to": math.exp(x.max()) if known else math.nan,
    }
