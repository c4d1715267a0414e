"""`match_gpu`: which GPU suits models of which complexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from energyest.arrays import FloatArray
from energyest.checks import check_confidence
from energyest.display import as_text
from energyest.errors import RunsError
from energyest.gpus import find_gpu
from energyest.markup import as_html
from energyest.tradeoff.crossing import gpu_crossing
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

# With fewer models, no ranking has a two-sided chance probability below 5 %: 2/4! = 8 %.
_FEWEST_RANKED = 5
# The FLOPs of a model are the same on all GPUs, except for a smaller last batch.
_SAME_COMPLEXITY = 1.01
_PER_SAMPLE = "energy_per_sample_J"
_QUANTITIES = ("utilization", "mean_power_W")


@dataclass(frozen=True, eq=False, repr=False)
class GpuMatch:
    """The result of `match_gpu`.

    Attributes:
        points: one row per model and GPU, with medians of the runs: the columns that define a
            model, `gpu, runs, flops_per_sample, energy_per_sample_J` and, if the table has them,
            `utilization`, `mean_power_W` and `power_share` (of the power limit).
        relations: one row per GPU and quantity: `gpu, quantity, models, spearman_rho, p_value`
            against FLOPs per sample; the p-value is NaN for fewer than 5 models.
        crossings: one row per pair of GPUs. `smaller` and `larger` go by power limit, or by name if
            the limits are equal or unknown. `models` is the number measured on both. `crossing,
            crossing_lower, crossing_upper` are in FLOPs per sample. `cheaper_below, cheaper_above`
            are the cheaper GPU on either side of the crossing. `covered_from, covered_to` are the
            range of FLOPs per sample measured on both. `reason` says why the crossing or an end of
            its interval is NaN.
        confidence: confidence of the intervals.
        flops: column of `points` that holds the complexity.
        gpu: column that names the GPU.
        model: columns that define a model.
    """

    points: pd.DataFrame
    relations: pd.DataFrame
    crossings: pd.DataFrame
    confidence: float
    flops: str
    gpu: str
    model: tuple[str, ...]

    def __str__(self) -> str:
        return as_text("\n".join(self._sentences()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = [self.crossings, self.points, self.relations]
        return as_html("Which GPU for which complexity", tables, self._sentences())

    def _sentences(self) -> list[str]:
        return [self._sentence(row) for row in self.crossings.to_dict("records")]

    def _sentence(self, row: dict[Any, Any]) -> str:
        pair = f"{row['larger']} against {row['smaller']} ({row['models']} models)"
        if not math.isfinite(row["crossing"]):
            return f"{pair}: no crossing: {row['reason']}"
        lower, upper = (
            f"{row[end] / 1e9:.3g}" if math.isfinite(row[end]) else "?"
            for end in ("crossing_lower", "crossing_upper")
        )
        text = (
            f"{pair}: {row['cheaper_above']} is cheaper above {row['crossing'] / 1e9:.3g} GFLOPs "
            f"per sample ({100 * self.confidence:.0f} % interval {lower} to {upper})"
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
    """Relate energy per sample, utilisation and power to complexity, for each GPU.

    Two GPUs are compared on the models that were measured on both, so that peculiarities of a
    model cancel out. A line is fitted to the logarithm of the ratio of their energies against the
    logarithm of the FLOPs per sample. Where it crosses zero, the other GPU becomes cheaper. The
    interval is Fieller's. With three models or more, deviations from the line widen it; with two,
    it only reflects how precisely these two were measured, and does not apply to other models.

    Args:
        runs: table with one row per run and the columns `energy_per_sample_J`, or else `energy_J`
            and `samples`; and `flops`, `gpu` and `model`. `utilization`, `mean_power_W` and
            `power_limit_W` are used if present.
        flops: column of FLOPs per sample, the complexity of the model; either forward or training
            FLOPs, but the same for all runs.
        gpu: column that names the GPU.
        model: column or columns that define a model and its settings.
        confidence: confidence of the intervals.

    Raises:
        RunsError: there are fewer than two GPUs; a column is missing, or does not hold positive
            numbers in one unit; a value is unknown; a model has several complexities; or the
            confidence does not lie between 0 and 1.

    Examples:
        `runs` is a table from `collect_runs`: six networks, on two GPUs, six times each.

        >>> from energyest.tradeoff import match_gpu
        >>> match_gpu(runs).crossings[['smaller', 'larger', 'models']]
                         smaller       larger  models
        0  NVIDIA H100 80GB HBM3  NVIDIA H200       6
    """
    confidence = check_confidence(confidence, RunsError)
    models = as_names(model, "model")
    *by, _ = as_names([*models, gpu, flops], "model, gpu and flops")
    table = check_runs(runs, [*by, flops])
    check_choices(table, by)
    refuse_taken([*by, flops], ("runs", "power_share", _PER_SAMPLE, *_QUANTITIES, "power_limit_W"))
    table = _measured(table, by, flops, gpu)
    if table[gpu].nunique() < 2:
        raise RunsError(f"all runs are on one {gpu} ({table[gpu].iloc[0]}): a comparison needs two")
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


def _measured(runs: pd.DataFrame, by: Sequence[str], flops: str, gpu: str) -> pd.DataFrame:
    """Complexity, energy per sample and other known quantities of each run, as numbers."""
    if _PER_SAMPLE in runs.columns:
        energy_J = check_cost(runs, _PER_SAMPLE, by)
    else:
        check_columns(runs, ["energy_J", "samples"])
        energy_J = check_cost(runs, "energy_J", by) / numbers(runs, "samples", positive=True)
    columns = {flops: numbers(runs, flops, positive=True), _PER_SAMPLE: energy_J}
    for name in _QUANTITIES:
        if name in runs.columns:
            columns[name] = numbers(runs, name, known=False)
    if (columns.get("utilization", np.zeros(1)) > 1).any():
        raise RunsError("utilization must be a share of time from 0 to 1, not a percentage")
    table: pd.DataFrame = runs[list(by)].assign(**columns, power_limit_W=_limits_W(runs, gpu))
    return table


def _limits_W(runs: pd.DataFrame, gpu: str) -> FloatArray:
    """Recorded power limits, or else those from data sheets."""
    sheets = {name: find_gpu(str(name)) for name in runs[gpu].unique()}
    known = runs[gpu].map({n: math.nan if g is None else g.tdp_W for n, g in sheets.items()})
    limits: FloatArray = known.to_numpy(dtype=np.float64)
    if "power_limit_W" in runs.columns:
        recorded = numbers(runs, "power_limit_W", positive=True, known=False)
        limits = np.where(np.isnan(recorded), limits, recorded)
    return limits


def _check_complexity(table: pd.DataFrame, flops: str, models: Sequence[str]) -> None:
    values = table[flops].to_numpy(float)
    for key, rows in groups_of(table, models).items():
        low, high = values[rows].min(), values[rows].max()
        if high > _SAME_COMPLEXITY * low:
            raise RunsError(
                f"{flops} of {label(key)} varies from {low:.4g} to {high:.4g}: it must be the same "
                "on all GPUs; add the setting that changes it to model="
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
    rows = []
    for name, part in points.groupby(gpu, observed=True):
        for quantity in (_PER_SAMPLE, *_QUANTITIES):
            if quantity in part:
                rho, p_value = _spearman(part[flops].to_numpy(), part[quantity].to_numpy())
                rows.append((name, quantity, len(part), rho, p_value))
    columns = ["gpu", "quantity", "models", "spearman_rho", "p_value"]
    found: pd.DataFrame = pd.DataFrame(rows, columns=columns)
    return found


def _spearman(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Spearman's ρ and its two-sided permutation p-value; NaN if they cannot be computed."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan, math.nan
    rho = float(stats.spearmanr(x, y).statistic)
    if len(x) < _FEWEST_RANKED:
        return rho, math.nan
    # For five models, the usual t-distribution would give half the true p-value.
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
    log_J, variance = _log_energies(table, [gpu, *models], confidence)
    complexity = np.log(points.groupby(list(models), observed=True)[flops].median())
    rows = []
    for smaller, larger in combinations(_by_size(points, gpu), 2):
        both = log_J.loc[smaller].index.intersection(log_J.loc[larger].index)
        ratio = log_J.loc[smaller].loc[both] - log_J.loc[larger].loc[both]
        error = variance.loc[smaller].loc[both] + variance.loc[larger].loc[both]
        crossing = gpu_crossing(
            complexity.loc[both].to_numpy(float),
            ratio.to_numpy(float),
            error.to_numpy(float),
            (smaller, larger),
            confidence,
        )
        rows.append({"smaller": smaller, "larger": larger, "models": len(both)} | crossing)
    found: pd.DataFrame = pd.DataFrame(rows)
    return found


def _log_energies(
    table: pd.DataFrame, by: Sequence[str], confidence: float
) -> tuple[pd.Series[float], pd.Series[float]]:
    """Logarithm of each choice's median energy, and its variance over resamples."""
    choices = choices_of(table, {_PER_SAMPLE: table[_PER_SAMPLE].to_numpy(float)}, by)
    draws = choices.draws(confidence, seed=0, jointly=False)[_PER_SAMPLE]
    index = pd.MultiIndex.from_tuples(choices.keys)
    log_J = pd.Series(np.log(choices.medians[_PER_SAMPLE]), index)
    return log_J, pd.Series(np.log(draws).var(axis=1), index)


def _by_size(points: pd.DataFrame, gpu: str) -> list[Any]:
    """The GPUs sorted by power limit, or by name if limits are equal or unknown."""
    limits_W = points.groupby(gpu, observed=True)["power_limit_W"].median()
    known = limits_W.notna().all()
    return sorted(limits_W.index, key=lambda name: (limits_W[name] if known else 0.0, str(name)))
