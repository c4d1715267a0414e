"""`estimate_early_stop`: the energy of a training that `EarlyStopping` may end early."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_confidence, check_count, finite_or_none, short
from energyest.display import format_energy
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_trace, whole
from energyest.estimators.early_stopping.curve import MIN_VALUES
from energyest.estimators.early_stopping.rule import StoppingRule
from energyest.estimators.early_stopping.stops import FARTHEST, Stops, find_stops
from energyest.estimators.step.estimate import estimate_step
from energyest.estimators.step.horizon import measured_s, tells_length
from energyest.estimators.step.interval import ends_around, errors, quantile
from energyest.records.meta import read_objects
from energyest.records.trace import EnergyTrace


def estimate_early_stop(
    trace: EnergyTrace,
    epochs: float | None = None,
    *,
    monitor: str | None = None,
    patience: int | None = None,
    mode: Literal["min", "max"] | None = None,
    min_delta: float | None = None,
    confidence: float = 0.9,
) -> Estimate:
    """Project when `EarlyStopping` will end a training, and the energy until then.

    Unlike `estimate_step`, this assumes that the metric continues along its curve so far. It cannot
    predict anything that the curve does not show, such as a change of the learning rate.

    Futures of the metric are drawn from saturating curves (power laws and exponentials, which may
    turn back if a model overfits) that fit the values so far, with noise. The rule of the callback
    is applied to each future, starting from the callback's present state. If the values so far
    already end the training, the result is that epoch. STEP estimates the energy until each stop;
    the interval combines its uncertainty with that of the stops, as if they were independent.

    Args:
        trace: the epochs (or intervals of steps) measured so far, with the metric as a column.
        epochs: number of epochs after which the training ends at the latest; by default as the
            monitor recorded. Without either, it continues until it stops.
        monitor: name of the metric; by default the metrics of all callbacks that the monitor
            recorded, the first of which to fire ends the training.
        patience: number of checks without improvement after which it stops. The defaults of this
            and the next two arguments are the recorded values or, for a metric without a recorded
            callback, Lightning's defaults.
        mode: "min" if lower is better, or "max".
        min_delta: smallest change that counts as an improvement (exclusive).
        confidence: coverage probability of each interval (stop and energy).

    Returns:
        The energy until the median stop, which is its `epochs`; `epochs_lower` and `epochs_upper`
        are the interval of the stops. `lower_J` and `upper_J` are None if STEP has no interval, or
        if the training may not stop and nothing else ends it.

    Raises:
        NotStableError: there are too few values of the metric; or STEP has no stable level yet, in
            which case the error holds the best estimate so far.
        EstimateError: no metric is watched, the metric is not in the trace, an argument is invalid,
            or the training has no planned end and is not likely to stop.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import estimate_early_stop
        >>> losses = [1.0, 0.7, 0.55, 0.48, 0.45, 0.44, 0.436, 0.435]
        >>> trace = EnergyTrace.from_epochs([4000] * 8, val_loss=losses)
        >>> estimate = estimate_early_stop(trace, epochs=100, monitor='val_loss', patience=3)
        >>> estimate.epochs < 100
        True
    """
    check_trace(trace)
    confidence = check_confidence(confidence, EstimateError)
    rules = _rules(trace, monitor, patience, mode, min_delta)
    step = _Step(trace, confidence)
    longest = step.whole(epochs)
    limit = math.inf if longest is None or longest.epochs is None else longest.epochs
    stops = find_stops(trace, rules, limit)
    if stops.missing:
        raise NotStableError(
            f"not known yet when it stops: {MIN_VALUES} values of {stops.rule.monitor} are needed "
            f"to extrapolate it, so at least {stops.missing} more {trace.unit}(s)",
            missing_epochs=stops.missing,
        )
    rows = np.minimum(stops.rows, limit)
    middle = _quantile(rows, 0.5)
    if math.isinf(middle):
        raise EstimateError(
            f"{stops.rule.monitor} is not likely to stop the training within {FARTHEST} of its "
            "values, and nothing else is known to end it: pass epochs="
        )
    estimate = step.until(middle)
    if not stops.is_certain:
        estimate = _joined(step, estimate, rows, longest)
    estimate = replace(
        estimate,
        epochs=whole(middle),
        method=f"EarlyStopping on {stops.rule.monitor}; {estimate.method}",
        assumptions=(*_assumptions(trace, stops, rows, longest), *estimate.assumptions),
    )
    if step.error is not None:
        error = step.error
        raise NotStableError(error.reason, estimate=estimate, missing_epochs=error.missing_epochs)
    return estimate


def _rules(
    trace: EnergyTrace,
    monitor: str | None,
    patience: int | None,
    mode: str | None,
    min_delta: float | None,
) -> list[StoppingRule]:
    """The rules that watch the training and whose metrics are in the trace."""
    recorded = [StoppingRule.of(entry) for entry in read_objects(trace.meta, "early_stopping")]
    rules = [rule for rule in recorded if rule is not None and monitor in (None, rule.monitor)]
    if not rules:
        if not isinstance(monitor, str):
            raise EstimateError(
                "no EarlyStopping is known to watch this training: pass the name of the metric as "
                "monitor="
            )
        rules = [StoppingRule(monitor)]
    if patience is not None:
        patience = check_count(patience, "patience", EstimateError, least=0)
        rules = [replace(rule, patience=patience) for rule in rules]
    if mode is not None:
        if mode not in ("min", "max"):
            raise EstimateError(f"mode={short(mode)} must be 'min' or 'max'")
        rules = [replace(rule, mode=mode) for rule in rules]
    if min_delta is not None:
        if finite_or_none(min_delta) is None:
            raise EstimateError(f"min_delta={short(min_delta)} must be a finite number")
        rules = [replace(rule, min_delta=float(min_delta)) for rule in rules]
    there = [rule for rule in rules if rule.monitor in trace.metrics]
    if not there:
        raise EstimateError(
            f"the trace has no metric {rules[0].monitor!r} yet; "
            f"it has {', '.join(trace.metrics) or 'none'}"
        )
    return there


class _Step:
    """STEP's projections of a training to different ends.

    Args:
        trace: the epochs measured so far.
        confidence: coverage probability of the intervals.

    Attributes:
        measured_s: total duration of the epochs so far, in seconds.
        error: the reason if the projections are guesses, else None.
    """

    def __init__(self, trace: EnergyTrace, confidence: float) -> None:
        self._trace, self.confidence = trace, confidence
        self.measured_s = measured_s(trace)
        self.error: NotStableError | None = None

    def whole(self, epochs: float | None) -> Estimate | None:
        """The projection without early stopping; None if no other end is known."""
        if epochs is None and not tells_length(self._trace):
            return None
        return self._project(self._trace, epochs)

    def until(self, epochs: float) -> Estimate:
        """The projection for an end after `epochs`, which may lie before the last measured one."""
        return self._project(self._trace.head(math.ceil(epochs)), epochs)

    def _project(self, trace: EnergyTrace, epochs: float | None) -> Estimate:
        try:
            return estimate_step(trace, epochs, confidence=self.confidence)
        except NotStableError as error:
            if error.estimate is None:
                raise
            self.error = error
            return error.estimate


def _quantile(rows: FloatArray, share: float) -> float:
    return float(np.quantile(rows, share, method="inverted_cdf"))


class _Ends(NamedTuple):
    """The cost of a training for different ends; each field has shape (ends,)."""

    epochs: FloatArray
    expected: FloatArray
    below: FloatArray
    above: FloatArray

    def interval(
        self, rows: FloatArray, total: float, least: float, confidence: float
    ) -> tuple[float, float] | tuple[None, None]:
        """The interval of the cost if the end is drawn from `rows`; None if a cost is unknown."""
        if not np.isfinite(self).all():
            return None, None
        expected, below, above = (np.interp(rows, self.epochs, values) for values in self[1:])
        # STEP's errors, scaled so that the ends of its interval are at -1 and 1.
        error = errors() / quantile(confidence)
        off = expected + error * np.where(error < 0, expected - below, above - expected) - total
        return ends_around(total, off, least=least, confidence=confidence)


def _joined(step: _Step, usual: Estimate, rows: FloatArray, longest: Estimate | None) -> Estimate:
    """Extend the intervals of an estimate by the uncertainty of the stop.

    Args:
        step: projects the cost until a given end.
        usual: estimate until the median stop.
        rows: shape (draws,), the stops.
        longest: estimate without early stopping; None if no other end is known.
    """
    confidence = step.confidence
    lower, upper = (_quantile(rows, (1 + sign * confidence) / 2) for sign in (-1, 1))
    if math.isinf(upper):
        return replace(
            usual,
            lower_J=None,
            upper_J=None,
            duration_lower_s=None,
            duration_upper_s=None,
            confidence=None,
        )
    ends = {one.epochs: one for one in (usual, longest) if one is not None}
    for end in (float(rows.min()), upper):
        if end not in ends:
            ends[end] = step.until(end)
    known = sorted(ends.values(), key=lambda one: one.epochs or 0.0)

    def costs(*names: str) -> _Ends:
        values = [[getattr(one, name) for one in known] for name in ("epochs", *names)]
        return _Ends(*np.array(values, dtype=np.float64))

    lower_J, upper_J = costs("energy_J", "lower_J", "upper_J").interval(
        rows, usual.energy_J, usual.measured_J or 0.0, confidence
    )
    lower_s, upper_s = costs("duration_s", "duration_lower_s", "duration_upper_s").interval(
        rows, usual.duration_s or 0.0, step.measured_s, confidence
    )
    return replace(
        usual,
        lower_J=lower_J,
        upper_J=upper_J,
        duration_lower_s=lower_s,
        duration_upper_s=upper_s,
        epochs_lower=whole(lower),
        epochs_upper=whole(upper),
        confidence=confidence,
    )


def _assumptions(
    trace: EnergyTrace, stops: Stops, rows: FloatArray, longest: Estimate | None
) -> tuple[str, ...]:
    """Assumptions in addition to those of STEP."""
    rule = stops.rule
    checks = f"{rule.patience} check(s) of {rule.monitor} without improvement"
    if stops.is_certain:
        return (f"the values so far already end the training: {checks}, or a threshold",)
    stated = [
        f"unlike in the projection to the planned end, {rule.monitor} continues along its curve so "
        f"far, and the training stops after {checks}"
    ]
    if longest is not None and longest.epochs is not None:
        goes_on = np.count_nonzero(rows >= longest.epochs) / len(rows)
        stated.append(
            f"with a probability of {100 * goes_on:.0f} %, it continues to its planned end: then, "
            f"{longest.epochs:.6g} {trace.unit}s cost {format_energy(longest.energy_J)}"
        )
    if stops.checks_in_row > 1:
        stated.append(
            f"of {stops.checks_in_row} checks per {trace.unit}, only the last is considered"
        )
    return tuple(stated)
