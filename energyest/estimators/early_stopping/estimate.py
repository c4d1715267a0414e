"""The energy of a training that an `EarlyStopping` is likely to end before its last epoch."""

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
    """Project when an `EarlyStopping` will end a training, and the energy until then.

    It is another assumption than that of `estimate_step`: the metric goes on along the curve that
    it has followed. What no curve shows ahead, such as a change of the learning rate, is beyond it.

    The metric's futures are drawn from saturating curves (power laws and exponentials, which may
    turn back where a model overfits) that fit the values so far, with noise around them. To each,
    the callback's own rule is applied, from where it stands now. Where the values so far have ended
    the training, the answer is that epoch. STEP tells the energy until each of the stops; the
    interval joins its uncertainty and theirs, as if they were independent.

    Args:
        trace: the epochs (or intervals of steps) measured so far, with the metric as a column.
        epochs: epochs after which the training ends at the latest; by default as the monitor
            recorded. Without either, it goes on until it stops.
        monitor: name of the metric; by default those of all callbacks that the monitor recorded, of
            which the first to fire ends the training.
        patience: checks without an improvement after which it stops. This and what follows is, by
            default, as the monitor recorded or, of a metric that nobody was seen to watch,
            Lightning's default.
        mode: "min" if less is better, or "max".
        min_delta: an improvement is more than this.
        confidence: probability that the intervals are to hold the stop and the energy, each.

    Returns:
        The energy until the median of the stops, which is its `epochs`; `epochs_lower` and
        `epochs_upper` are the interval of the stops. `lower_J` and `upper_J` are None where STEP
        has no interval, or where nothing bounds a training that may not stop.

    Raises:
        NotStableError: too few values of the metric, or STEP has no stable level yet; then it
            carries the best estimate so far.
        EstimateError: nothing is watched, the metric is not in the trace, arguments are out of
            their range, or the training neither ends nor is likely to stop.

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
            f"to tell how it goes on, so at least {stops.missing} more {trace.unit}(s)",
            missing_epochs=stops.missing,
        )
    rows = np.minimum(stops.rows, limit)
    middle = _quantile(rows, 0.5)
    if math.isinf(middle):
        raise EstimateError(
            f"{stops.rule.monitor} is not likely to stop the training within {FARTHEST} of its "
            "values, and nothing else is known to end it: give epochs"
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
    """What watches the training, of which the trace has the metrics."""
    recorded = [StoppingRule.of(entry) for entry in read_objects(trace.meta, "early_stopping")]
    rules = [rule for rule in recorded if rule is not None and monitor in (None, rule.monitor)]
    if not rules:
        if not isinstance(monitor, str):
            raise EstimateError(
                "no EarlyStopping is known to watch this training: give monitor, the name of the "
                "metric"
            )
        rules = [StoppingRule(monitor)]
    if patience is not None:
        patience = check_count(patience, "patience", EstimateError, least=0)
        rules = [replace(rule, patience=patience) for rule in rules]
    if mode is not None:
        if mode not in ("min", "max"):
            raise EstimateError(f"mode={short(mode)} is not known: it is 'min' or 'max'")
        rules = [replace(rule, mode=mode) for rule in rules]
    if min_delta is not None:
        if finite_or_none(min_delta) is None:
            raise EstimateError(f"min_delta={short(min_delta)} must be a finite number")
        rules = [replace(rule, min_delta=float(min_delta)) for rule in rules]
    there = [rule for rule in rules if rule.monitor in trace.metrics]
    if not there:
        raise EstimateError(
            f"the trace has no metric {rules[0].monitor!r} (yet); "
            f"it has {', '.join(trace.metrics) or 'none'}"
        )
    return there


class _Step:
    """STEP's projections of a training to several ends.

    Args:
        trace: what was measured.
        confidence: of the intervals.

    Attributes:
        measured_s: seconds of the epochs so far.
        error: why they are guesses, if they are.
    """

    def __init__(self, trace: EnergyTrace, confidence: float) -> None:
        self._trace, self.confidence = trace, confidence
        self.measured_s = measured_s(trace)
        self.error: NotStableError | None = None

    def whole(self, epochs: float | None) -> Estimate | None:
        """If it does not stop early; None if nothing else is known to end it."""
        if epochs is None and not tells_length(self._trace):
            return None
        return self._project(self._trace, epochs)

    def until(self, epochs: float) -> Estimate:
        """If it ends after so many epochs, which may lie before what was measured."""
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
    """What a training costs if it ends at one epoch or at another, each of shape (ends,)."""

    epochs: FloatArray
    expected: FloatArray
    below: FloatArray
    above: FloatArray

    def interval(
        self, rows: FloatArray, total: float, least: float, confidence: float
    ) -> tuple[float, float] | tuple[None, None]:
        """What holds the cost if it ends at one of `rows`; nothing where a cost is not known."""
        if not np.isfinite(self).all():
            return None, None
        expected, below, above = (np.interp(rows, self.epochs, values) for values in self[1:])
        # As STEP's errors are, with the ends of its interval at -1 and 1.
        error = errors() / quantile(confidence)
        off = expected + error * np.where(error < 0, expected - below, above - expected) - total
        return ends_around(total, off, least=least, confidence=confidence)


def _joined(step: _Step, usual: Estimate, rows: FloatArray, longest: Estimate | None) -> Estimate:
    """The estimate with intervals that span when the training stops as well.

    Args:
        step: tells what it costs.
        usual: until the median of the stops.
        rows: shape (draws,), when it stops.
        longest: if it does not.
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
    """What is assumed beside what STEP assumes."""
    rule = stops.rule
    checks = f"{rule.patience} check(s) of {rule.monitor} without an improvement"
    if stops.is_certain:
        return (f"the values so far tell that it stops there: {checks}, or a threshold",)
    stated = [
        f"unlike the projection of the planned end: {rule.monitor} goes on along the curve that it "
        f"has followed, and the training stops after {checks}"
    ]
    if longest is not None and longest.epochs is not None:
        goes_on = np.count_nonzero(rows >= longest.epochs) / len(rows)
        stated.append(
            f"it goes on to its planned end with a probability of {100 * goes_on:.0f} %: then, "
            f"{longest.epochs:.6g} {trace.unit}s cost {format_energy(longest.energy_J)}"
        )
    if stops.checks_in_row > 1:
        stated.append(
            f"of {stops.checks_in_row} checks in an {trace.unit}, the last stands for all"
        )
    return tuple(stated)
