"""Blends PRE and STEP: measured epochs gradually replace the estimate from before training.

The remaining energy is estimated twice, by PRE and from the epochs so far, and the logarithms of
both are averaged, weighted by inverse variance. With more epochs, the variance of the measured side
falls, and with it the weight of PRE. The estimate does not jump, and soon depends on STEP alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtri

from energyest.checks import check_confidence
from energyest.errors import EstimateError
from energyest.estimate import Estimate
from energyest.estimators.arguments import check_trace
from energyest.estimators.pre.estimate import GPU_ALONE
from energyest.estimators.step.horizon import Horizon, find_horizon, measured_s, tells_length
from energyest.estimators.step.interval import quantile
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes, weights_of
from energyest.records.trace import EnergyTrace

#: Deviation of the logarithm of the other epochs' cost from that of one warm epoch, or of a level
#: that STEP does not accept yet. A guess: it is less in most trainings, but drift, validation in
#: only some epochs, or an epoch that is still cold can make it this large.
LEVEL_DEVIATION = 0.1
#: The same for the power of processors and memory before training and during it. A guess.
HOST_DEVIATION = 0.3
# At this confidence, the errors of STEP are treated as normal errors.
_ALIKE_AT = 0.9


@dataclass(frozen=True)
class _Rest:
    """One estimate of the rest of a training.

    Attributes:
        energy_J: energy of the rest.
        duration_s: duration of the rest; NaN if unknown.
        deviation: standard deviation of the logarithm of the energy.
        epochs: number of remaining epochs.
    """

    energy_J: float
    duration_s: float
    deviation: float
    epochs: float


def blend(
    pre: Estimate,
    trace: EnergyTrace,
    step: Estimate | None = None,
    *,
    epochs: float | None = None,
    confidence: float | None = None,
) -> Estimate:
    """Estimate a whole training from PRE and from the epochs measured so far.

    Measured epochs count as measured. For the rest:

    - before any epoch was measured, and after the first, which is cold and says little: PRE;
    - after the second: PRE and the energy of that epoch, whose logarithm has the deviation
      `LEVEL_DEVIATION`;
    - from the third on: PRE and STEP. While STEP has no stable level, its best guess is used, with
      the same deviation as a single epoch.

    The logarithm of the rest is the mean of the two, weighted by inverse variances (see
    `share_of_pre`), and its variance is the inverse of the sum of the inverse variances.

    Args:
        pre: PRE's estimate of the whole training, with its number of epochs (or intervals) and an
            interval. It must cover the same devices as the trace.
        trace: the epochs measured so far.
        step: result of `estimate_step` for these epochs; an estimate without an interval is the
            guess of its `NotStableError`; None if there is none.
        epochs: number of epochs of the whole training; by default as in the trace's meta (see
            `estimate_step`), or else as in `pre`.
        confidence: coverage probability of the interval; by default that of `pre`.

    Raises:
        EstimateError: `pre` has no interval or epochs, or `epochs` is less than was measured.
    """
    check_trace(trace)
    if not (pre.epochs and pre.lower_J and pre.upper_J and pre.confidence):
        raise EstimateError("pre needs epochs and an interval, as estimate_pre() returns")
    confidence = check_confidence(
        pre.confidence if confidence is None else confidence, EstimateError
    )
    energy_J = trace.column("energy_J")
    done = _measured_epochs(trace)
    horizon = _horizon(pre, trace, epochs)
    if horizon.is_reached(trace) and np.isfinite(energy_J).all():
        return step or _finished(trace)
    changes = planned_changes(trace, None)
    predicted = _by_pre(pre, trace, horizon, changes)
    if done < 2:
        after = f", after {done:.3g} {trace.unit}" if done else ""
        return _total(trace, predicted, confidence, f"{pre.method}{after}", pre.assumptions)
    if step is None or (step.lower_J is None and done < 3):
        observed = _by_last_epoch(trace, horizon, changes)
        name = f"{trace.unit} {_last_whole_epoch(trace)}"
        assumptions = pre.assumptions
    else:
        observed = _by_step(step, trace, predicted.epochs)
        name = step.method if step.lower_J is not None else f"{step.method}, not stable yet"
        assumptions = step.assumptions
    if not observed.energy_J > 0:
        return step or _finished(trace)
    rest, share = _combined(predicted, observed)
    method = f"{name}, and PRE with {100 * share:.2g} % of the weight"
    whole = _total(trace, rest, confidence, method, assumptions)
    return whole if step is None else replace(whole, stable_epoch=step.stable_epoch)


def beside_gpu(pre: Estimate, power_W: float) -> Estimate:
    """Add the energy of other devices to PRE's estimate.

    Args:
        pre: estimate for the GPU alone, with a duration and an interval.
        power_W: present power of the other devices; the logarithm of their later power deviates
            from it by `HOST_DEVIATION`.

    Raises:
        EstimateError: `pre` has no interval or duration.
    """
    if not (pre.duration_s and pre.lower_J and pre.upper_J and pre.confidence):
        raise EstimateError("pre needs a duration and an interval, as estimate_pre() returns")
    others_J = power_W * pre.duration_s
    energy_J = pre.energy_J + others_J
    share, deviation = others_J / energy_J, deviation_of(pre)
    # The duration is as uncertain as the energy, and common to all devices.
    apart = share * HOST_DEVIATION
    half = math.hypot(deviation, apart) * float(ndtri((1 + pre.confidence) / 2))
    said = f"processors and memory keep drawing {power_W:.0f} W"
    return replace(
        pre,
        energy_J=energy_J,
        lower_J=energy_J * math.exp(-half),
        upper_J=energy_J * math.exp(half),
        assumptions=(said, *(text for text in pre.assumptions if text != GPU_ALONE)),
    )


def share_of_pre(pre_deviation: float, other_deviation: float, difference: float) -> float:
    """Weight of PRE, from 0 to 1, when combined with a measured estimate.

    The weights are inverse variances. If the two differ by more than both deviations explain, PRE
    is assumed to be wrong, because the other was measured: the difference then sets PRE's variance.

    Args:
        pre_deviation: standard deviation of the logarithm of PRE's estimate.
        other_deviation: the same for the other estimate.
        difference: difference of the two logarithms.
    """
    if math.isinf(pre_deviation) or other_deviation == 0:
        return 0.0
    if math.isinf(other_deviation):
        return 1.0
    variance = other_deviation**2
    return variance / max(pre_deviation**2 + variance, difference**2)


def deviation_of(estimate: Estimate) -> float:
    """Standard deviation of the logarithm of an estimate from the ends of its interval."""
    if not (estimate.lower_J and estimate.upper_J and estimate.confidence):
        return math.inf
    width = math.log(estimate.upper_J / estimate.lower_J)
    z = float(ndtri((1 + estimate.confidence) / 2))
    return width / 2 / z if z > 0 else math.inf


def _combined(predicted: _Rest, observed: _Rest) -> tuple[_Rest, float]:
    """The combination of both estimates, and the weight of the first."""
    difference = math.log(predicted.energy_J / observed.energy_J)
    share = share_of_pre(predicted.deviation, observed.deviation, difference)
    deviation = observed.deviation * math.sqrt(1 - share)
    duration_s = observed.duration_s
    if predicted.duration_s > 0 and observed.duration_s > 0:
        duration_s *= (predicted.duration_s / observed.duration_s) ** share
    energy_J = observed.energy_J * math.exp(share * difference)
    return _Rest(energy_J, duration_s, deviation, observed.epochs), share


def _by_pre(
    pre: Estimate, trace: EnergyTrace, horizon: Horizon, changes: list[PlannedChange]
) -> _Rest:
    assert pre.epochs is not None
    duration_s = math.nan if pre.duration_s is None else pre.duration_s
    an_epoch = pre.energy_J / pre.epochs, duration_s / pre.epochs
    # PRE describes the model as it was at the start, so past changes apply, too.
    return _epochs_like(an_epoch, deviation_of(pre), trace, horizon, changes)


def _by_last_epoch(trace: EnergyTrace, horizon: Horizon, changes: list[PlannedChange]) -> _Rest:
    energy_J = trace.column("energy_J")
    last = _last_whole_epoch(trace)
    an_epoch = float(energy_J[last]), float(trace.column("duration_s")[last])
    to_come = [change for change in changes if change.epoch > last]
    return _epochs_like(an_epoch, LEVEL_DEVIATION, trace, horizon, to_come)


def _epochs_like(
    an_epoch: tuple[float, float],
    deviation: float,
    trace: EnergyTrace,
    horizon: Horizon,
    changes: list[PlannedChange],
) -> _Rest:
    """The rest, made up of epochs with this energy and duration, modified by the changes."""
    energy_J, duration_s = an_epoch
    done = _measured_epochs(trace)
    count = horizon.epochs - done
    if math.isfinite(horizon.end_s) and duration_s > 0:
        count = min(count, (horizon.end_s - measured_s(trace)) / duration_s)
    count = max(count, 0.0)
    weights = weights_of(changes, done, done + count, None)
    error = weights.error / weights.energy if weights.energy > 0 else 0.0
    return _Rest(
        energy_J * weights.energy,
        duration_s * weights.time,
        math.hypot(deviation, error),
        count,
    )


def _by_step(step: Estimate, trace: EnergyTrace, epochs: float) -> _Rest:
    rest_J = step.energy_J - _measured_J(trace)
    duration_s = math.nan if step.duration_s is None else step.duration_s - measured_s(trace)
    if step.epochs is not None:
        epochs = step.epochs - _measured_epochs(trace)
    deviation = LEVEL_DEVIATION
    if step.upper_J is not None and step.lower_J is not None and step.confidence and rest_J > 0:
        # STEP's errors have heavier tails than normal errors. Both are matched at one fixed
        # confidence, so that the weights do not depend on the requested confidence.
        scale = (step.upper_J - step.lower_J) / 2 / quantile(step.confidence)
        deviation = scale / rest_J * quantile(_ALIKE_AT) / float(ndtri((1 + _ALIKE_AT) / 2))
    return _Rest(rest_J, duration_s, deviation, epochs)


def _total(
    trace: EnergyTrace,
    rest: _Rest,
    confidence: float,
    method: str,
    assumptions: tuple[str, ...],
) -> Estimate:
    """The sum of the measured part and the rest."""
    measured_J = _measured_J(trace)
    duration_s = measured_s(trace) + rest.duration_s
    factor = math.exp(min(rest.deviation * float(ndtri((1 + confidence) / 2)), 100.0))
    known = math.isfinite(rest.deviation)
    knows_both = known and math.isfinite(duration_s)
    return Estimate(
        energy_J=measured_J + rest.energy_J,
        lower_J=measured_J + rest.energy_J / factor if known else None,
        upper_J=measured_J + rest.energy_J * factor if known else None,
        confidence=confidence if known else None,
        duration_s=duration_s if math.isfinite(duration_s) else None,
        # A longer step costs more: time is assumed to be as uncertain as energy.
        duration_lower_s=measured_s(trace) + rest.duration_s / factor if knows_both else None,
        duration_upper_s=measured_s(trace) + rest.duration_s * factor if knows_both else None,
        measured_J=measured_J,
        epochs=_measured_epochs(trace) + rest.epochs,
        unit=trace.unit,
        method=method,
        assumptions=assumptions,
    )


def _finished(trace: EnergyTrace) -> Estimate:
    """The estimate of a finished training: what was measured."""
    measured_J = _measured_J(trace)
    return Estimate(
        measured_J,
        duration_s=measured_s(trace),
        measured_J=measured_J,
        epochs=trace.epochs_done,
        unit=trace.unit,
        method="measured",
    )


def _measured_epochs(trace: EnergyTrace) -> float:
    unread = int((~np.isfinite(trace.column("energy_J"))).sum())
    return trace.epochs_done - unread


def _last_whole_epoch(trace: EnergyTrace) -> int:
    whole = math.floor(trace.epochs_done)
    return int(np.flatnonzero(np.isfinite(trace.column("energy_J")[:whole]))[-1])


def _measured_J(trace: EnergyTrace) -> float:
    return float(np.nansum(trace.column("energy_J")))


def _horizon(pre: Estimate, trace: EnergyTrace, epochs: float | None) -> Horizon:
    if epochs is not None:
        return find_horizon(trace, epochs, None, None)
    if tells_length(trace):
        return find_horizon(trace, None, None, None)
    assert pre.epochs is not None
    return Horizon(max(float(pre.epochs), float(len(trace))))
