"""STEP: stable training epoch projection, after del Rey et al., arXiv 2307.05520."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from energyest.checks import check_confidence
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_trace, lacks_durations
from energyest.estimators.step.forecast import Forecast, Forecaster
from energyest.estimators.step.horizon import Horizon, find_horizon, measured_s
from energyest.estimators.step.interval import ends_around
from energyest.estimators.step.level import MIN_EPOCHS
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
from energyest.estimators.step.published_method import Window, check_window
from energyest.estimators.step.stability import unstable_message
from energyest.records.trace import EnergyTrace

Form = Literal["energy", "power"]


def estimate_step(
    trace: EnergyTrace,
    epochs: float | None = None,
    *,
    steps: int | None = None,
    form: Form = "energy",
    start: int | Literal["auto"] = "auto",
    window: int | None = None,
    confidence: float = 0.9,
    duration_s: float | None = None,
    planned: Iterable[PlannedChange | Mapping[str, Any]] | None = None,
) -> Estimate:
    """Project the energy of a whole training from the epochs measured so far.

    By default (`start="auto", window=None`), all available information is used: measured epochs
    count as measured, and each remaining epoch is assumed to cost the mean of the current level.

    - The level consists of all epochs since the energy per epoch last changed. The time of that
      change is uncertain; the mean is averaged over all possible times, weighted by their
      probability (`find_stable_epoch` returns the most probable one).
    - Validation is projected separately, on the Trainer's schedule if the monitor knows it, or
      else as regularly as it has occurred. The same applies to regular spikes, such as checkpoints.
    - Planned changes (`planned`) multiply the level from their epoch on.

    With a `window`, the formula of the paper is used (section on STEP of arXiv 2307.05520), whose
    setting is `start=10, window=5`. With s = start, w = window and N = epochs:

    - energy form: energy of the epochs before s + energy of the epochs s to s+w-1 / w * (N - s);
    - power form: mean power over the epochs s to s+w-1, times the duration of the training.

    The interval is the central part of a thousand simulated futures, drawn with fixed random
    numbers. It accounts for the t-distributed error of the level: the uncertainty of its mean, the
    noise of the remaining epochs, drift, and effects that a run does not show in advance. It
    accounts for stalls and dips, with rates, sizes and burst lengths learned from this run and from
    typical values. It also accounts for the chance that a young, lower level after a long one ends,
    and for the error of planned changes. Its constants were validated on families of runs that were
    not used to choose them; see `docs/explanation/uncertainty.md` for figures.

    It does not account for an unannounced change of level (declare it in `planned`) or a steady
    trend. Nor does it account for stalls much larger than the variation of a run that was quiet so
    far, or for an event that a log has not shown yet. Durations have an interval of their own.

    Args:
        trace: the epochs (or intervals of steps) measured so far.
        epochs: number of epochs of the whole training, with a fraction if it ends within an epoch.
            For a trace of intervals, the number of intervals.
        steps: instead of `epochs`, the number of training steps (batches) of the whole training.
            Without either, the training ends after `duration_s` or, by default, as planned
            according to the trace.
        form: `"energy"`, or `"power"` to project mean power over the duration.
        start: first epoch of the level to project from, counted from 0, or `"auto"`.
        window: number of epochs, from `start` on, to take the level from; None for all of them.
        confidence: coverage probability of the interval, between 0 and 1.
        duration_s: duration of the whole training in seconds, if known; otherwise it is projected
            like the energy.
        planned: planned changes, see `PlannedChange`; by default those that the monitor recorded;
            `[]` for none.

    Raises:
        NotStableError: there are too few epochs, or there is no stable level yet; the error holds
            the best estimate so far and the number of missing epochs.
        EstimateError: `epochs` or `steps` is less than was measured, an argument is invalid, or the
            length of the training is unknown.

    Examples:
        >>> from energyest import EnergyTrace, estimate_step
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030], duration_s=[30, 24, 24, 24])
        >>> estimate = estimate_step(trace, epochs=100)
        >>> print(estimate)
        403.1 kJ (0.112 kWh) for 100 epochs in 40 min 06 s, 90 % interval 389...
    """
    check_trace(trace)
    confidence = check_confidence(confidence, EstimateError)
    if form not in ("energy", "power"):
        raise EstimateError(f"form={form!r} must be 'energy' or 'power'")
    horizon = find_horizon(trace, epochs, steps, duration_s)
    start, window = check_window(start, window, horizon.epochs)
    changes = planned_changes(trace, planned)
    automatic = start == "auto" and window is None
    if not automatic and planned is not None and changes:
        raise EstimateError("planned changes need start='auto' and window=None")
    if not np.isfinite(trace.column("energy_J")).any():
        raise NotStableError(unstable_message(trace), missing_epochs=MIN_EPOCHS)
    history = Forecaster(trace, changes)
    if automatic:
        missing = history.level.missing_epochs
        if not missing or (not history.unread_epochs and horizon.is_reached(trace)):
            return _estimate(trace, history, horizon, form, confidence)
        why = unstable_message(trace, history)
    else:
        chosen = Window(history.start if start == "auto" else start, window)
        whole = trace.head(math.floor(trace.epochs_done))  # a window takes whole epochs
        why, missing = _lacking(chosen, whole, history, found=start == "auto")
        if not missing:
            return chosen.estimate(whole, horizon, form, confidence)
    guess = _estimate(trace, history, horizon, form, None)
    raise NotStableError(why, estimate=guess, missing_epochs=missing)


def project_path(
    trace: EnergyTrace, epochs: Iterable[float], *, confidence: float = 0.9
) -> list[Estimate]:
    """The projections of `estimate_step` to several lengths of one training.

    They show how the total grows with the epochs, and where a planned change bends it.

    Args:
        trace: the epochs measured so far, on a level that is stable.
        epochs: lengths of the training, each no less than what was measured.
        confidence: probability of each interval.

    Raises:
        NotStableError: no energy was measured.
        EstimateError: as `estimate_step`.
    """
    check_trace(trace)
    confidence = check_confidence(confidence, EstimateError)
    if not np.isfinite(trace.column("energy_J")).any():
        raise NotStableError(unstable_message(trace), missing_epochs=MIN_EPOCHS)
    history = Forecaster(trace, planned_changes(trace, None))
    horizons = (find_horizon(trace, number, None, None) for number in epochs)
    return [_estimate(trace, history, horizon, "energy", confidence) for horizon in horizons]


def _lacking(
    chosen: Window, trace: EnergyTrace, history: Forecaster, *, found: bool
) -> tuple[str, int]:
    """Why a window cannot be projected yet, and how many more epochs are needed."""
    measured = len(trace)
    missing = chosen.missing(measured)
    if missing:
        stop = chosen.start + (chosen.length or 1)
        return (
            f"not enough epochs yet: the level is taken from epochs {chosen.start} to {stop - 1}, "
            f"but only {measured} were measured; {missing} more are needed",
            max(missing, history.missing_epochs if found else 0),
        )
    return unstable_message(trace, history), history.missing_epochs if found else 0


def _estimate(
    trace: EnergyTrace, history: Forecaster, horizon: Horizon, form: Form, confidence: float | None
) -> Estimate:
    """The projection from the current level; without an interval if `confidence` is None."""
    done_J = float(np.nansum(trace.column("energy_J")))
    done_s = measured_s(trace)
    total = history.epochs_within(horizon)
    forecast = history.forecast(total)
    total_s = done_s + forecast.duration_s if horizon.duration_s is None else horizon.duration_s
    total_J = done_J + forecast.energy_J
    off_J = forecast.off_J
    if form == "power":
        total_J = done_J + forecast.power_W * float(np.maximum(0.0, total_s - history.read_s))
        if not math.isfinite(total_J):
            raise lacks_durations("form='power'")
        if forecast.energy_J > 0:  # errors are relative to the remaining energy
            off_J = off_J * ((total_J - done_J) / forecast.energy_J)
    known_s = total_s if math.isfinite(total_s) else None
    interval: dict[str, float] = {}
    if confidence is not None and np.isfinite(off_J).all():
        lower_J, upper_J = ends_around(total_J, off_J, least=done_J, confidence=confidence)
        interval = {"lower_J": lower_J, "upper_J": upper_J, "confidence": confidence}
        if known_s is not None:
            ends_by_clock = horizon.duration_s is not None or total < horizon.epochs
            off_s = np.zeros(1) if ends_by_clock else history.duration_off_s(total)
            interval["duration_lower_s"], interval["duration_upper_s"] = ends_around(
                known_s, off_s, least=done_s, confidence=confidence
            )
    done = trace.epochs_done
    return Estimate(
        total_J,
        **interval,
        duration_s=known_s,
        measured_J=done_J,
        epochs=total,
        unit=trace.unit,
        stable_epoch=history.start,
        method=f"STEP, {form} form, {trace.unit}s {history.start} to {math.floor(done) - 1}",
        assumptions=_assumptions(history, horizon, forecast, form, remaining=total > done),
    )


def _assumptions(
    history: Forecaster, horizon: Horizon, forecast: Forecast, form: Form, *, remaining: bool
) -> tuple[str, ...]:
    assumptions = []
    if remaining:
        but = ", except for the changes named here" if forecast.assumptions else ""
        assumptions.append(f"the energy per {history.unit} does not change again{but}")
    if remaining and (dip := history.level.dip):
        assumptions.append(f"the last {dip} {history.unit}(s), which cost less, are likely a dip")
    assumptions += forecast.assumptions
    if form == "power" and horizon.duration_s is not None:
        assumptions.append(f"the training takes {horizon.duration_s:g} s")
    if history.unread_epochs:
        assumptions.append(
            f"{history.unread_epochs} {history.unit}(s) that were not measured cost what others do"
        )
    return tuple(assumptions)
