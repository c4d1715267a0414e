"""When `EarlyStopping` rules end a training, from the metrics so far and their futures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from energyest.arrays import FloatArray
from energyest.estimators.early_stopping.curve import MIN_VALUES, Futures
from energyest.estimators.early_stopping.rule import Observed, StoppingRule, Watch
from energyest.estimators.step.disturbances import DRAWS
from energyest.records.meta import read_count
from energyest.records.trace import EnergyTrace

#: Number of values drawn per future: a training that has not stopped by then continues.
FARTHEST = 1000
_SEED = 0
# Stopped futures are dropped once fewer than this share of the remaining ones go on.
_WORTH_KEEPING = 0.8


@dataclass(frozen=True)
class Stops:
    """Possible stops of a training.

    Attributes:
        rows: shape (draws,), number of rows at the stop; infinite if it does not stop.
        rule: the rule that stops it most often.
        checks_in_row: checks of that rule per row of the trace, which only holds the last value.
        is_certain: whether the metrics so far already end the training.
        missing: number of further rows needed for a result; 0 if there are enough.
    """

    rows: FloatArray
    rule: StoppingRule
    checks_in_row: int
    is_certain: bool = False
    missing: int = 0


def find_stops(trace: EnergyTrace, rules: Sequence[StoppingRule], limit: float) -> Stops:
    """Find the possible stops of a training that ends when the first rule fires.

    Args:
        trace: trace with the metrics of all rules.
        rules: the rules; at least one.
        limit: number of rows after which the training ends anyway; infinite without a limit.
    """
    least = _least_rows(trace)
    all_of_them = [_stops_of(trace, rule, limit, number) for number, rule in enumerate(rules)]
    certain = [stops for stops in all_of_them if stops.is_certain]
    considered = certain or all_of_them
    rows = np.maximum([stops.rows for stops in considered], least)
    first = np.bincount(np.argmin(rows, axis=0)).argmax()
    return Stops(
        rows.min(axis=0),
        considered[first].rule,
        considered[first].checks_in_row,
        bool(certain),
        max(stops.missing for stops in considered),
    )


def _least_rows(trace: EnergyTrace) -> int:
    """Number of rows before which the Trainer does not stop early (`min_epochs`)."""
    if trace.unit != "epoch":
        return 0
    before = read_count(trace.meta, "first_epoch") or 0
    return max(0, (read_count(trace.meta, "min_epochs") or 0) - before)


def _stops_of(trace: EnergyTrace, rule: StoppingRule, limit: float, number: int) -> Stops:
    """The possible stops by one rule."""
    observed = Observed(trace, rule)
    watch = Watch(rule, observed.patience)
    done = observed.follow(watch)
    if done is not None:
        return Stops(np.full(DRAWS, float(done)), rule, observed.checks_in_row, is_certain=True)
    never: FloatArray = np.full(DRAWS, math.inf)
    if limit <= len(trace):
        return Stops(never, rule, observed.checks_in_row)
    missing = MIN_VALUES - len(observed.finite)
    if missing > 0:
        more = math.ceil(missing * observed.period)
        return Stops(never, rule, observed.checks_in_row, missing=more)
    random = np.random.default_rng([_SEED, number])
    rows = _draw(observed, watch, Futures(observed.finite, DRAWS, random), limit)
    return Stops(rows, rule, observed.checks_in_row)


def _draw(observed: Observed, watch: Watch, futures: Futures, limit: float) -> FloatArray:
    """Number of rows at the stop, in each of the futures."""
    stops = np.full(DRAWS, math.inf)
    going = np.arange(DRAWS)
    watch.spread(DRAWS)
    newest = np.full(DRAWS, observed.values[observed.fresh[-1]], dtype=np.float32)
    row = len(observed.values)
    coming = max(float(row), observed.fresh[-1] + observed.period)
    end = min(limit, row + FARTHEST * observed.period)
    while row < end and len(going):
        is_fresh = row >= round(coming)
        if is_fresh:
            newest = futures.next().astype(np.float32)
            coming += observed.period
        row += 1
        if not (is_fresh or observed.in_each):
            continue
        is_over = watch.check(newest) & (stops[going] > row)
        stops[going[is_over]] = row
        goes_on = stops[going] > row
        # Dropping stopped futures takes time, too.
        if np.count_nonzero(goes_on) < _WORTH_KEEPING * len(going):
            going, newest = going[goes_on], newest[goes_on]
            watch.keep(goes_on)
            futures.keep(goes_on)
    return stops
