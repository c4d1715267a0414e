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
from energyest.estimators.step.paper_window import Window, check_window
from energyest.estimators.step.planned_changes import PlannedChange, planned_changes
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

    By default (`start="auto", window=None`) all that is known is used: the measured epochs count
    as measured; the remaining ones cost what the level costs that the training is on now.

    - The level: all epochs since the energy per epoch changed last. When that was is a matter of
      probability; the mean is taken over all answers (see `find_stable_epoch` for the likeliest).
    - Validation is projected apart, as often as it will come: as the monitor knows from the
      Trainer, or else as regularly as it has come. So are spikes that come regularly, such as
      checkpoints.
    - Changes that are known ahead (`planned`) multiply the level from their epoch on.

    With a `window` it is the formula of the paper (section on STEP of arXiv 2307.05520), whose
    setting is `start=10, window=5`; s = start, w = window, N = epochs:

    - energy form: energy of the epochs before s + energy of the epochs s to s+w-1 / w * (N - s);
    - power form: mean power over the epochs s to s+w-1, times the duration of the training.

    The interval is the middle of a thousand futures, drawn with the same random numbers each time.
    In it are: the error of the level, t-distributed, with the uncertainty of its mean, the noise of
    the epochs to come, its drift, and what no run shows ahead; stalls and dips, whose rate, size
    and burstiness are learned from this run and start from what is usual; that a young, lower level
    after a long one may end; and the error of planned changes. Its constants hold on families of
    runs that had no part in their choice; `docs/explanation/uncertainty.md` has the figures. Not in
    it are: a change of level that nobody announced (declare it as `planned`), stalls much larger
    than a run that was quiet so far has varied, and a steady trend. Durations have an interval of
    their own.

    Args:
        trace: the epochs (or intervals of steps) measured so far.
        epochs: number of epochs of the whole training; it has a fraction where the training ends
            within an epoch. In a trace of intervals it is the number of intervals.
        steps: instead of `epochs`, the number of training steps (batches) of the whole training.
            Without either, the training lasts `duration_s`, or as long as the monitor recorded
            that it is planned to.
        form: `"energy"`, or `"power"`, which projects mean power over the duration.
        start: first epoch of the level to project from, counted from 0, or `"auto"`.
        window: number of epochs from `start` on to take the level from; None for all of them.
        confidence: probability that the interval is to hold the total, between 0 and 1.
        duration_s: duration of the whole training in seconds where it is known; else it is
            projected as the energy is.
        planned: changes known ahead, see `PlannedChange`; by default those that the monitor
            recorded, with `[]` none.

    Raises:
        NotStableError: too few epochs, or no stable level yet; carries the best estimate so far
            and the number of epochs that are missing.
        EstimateError: fewer `epochs` or `steps` than were measured, arguments out of their range,
            or nothing that says how long the training is.

    Examples:
        >>> from energyest import EnergyTrace, estimate_step
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030], duration_s=[30, 24, 24, 24])
        >>> estimate = estimate_step(trace, epochs=100)
        >>> print(estimate)
        403.1 kJ (0.112 kWh) for 100 epochs in 40 min 06 s, 90 % interval 388 kJ ...
    """
    check_trace(trace)
    confidence = check_confidence(confidence, EstimateError)
    if form not in ("energy", "power"):
        raise EstimateError(f"form={form!r} is not known: it is 'energy' or 'power'")
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
        why, missing = _lacking(chosen, trace, history, found=start == "auto")
        if not missing:
            return chosen.estimate(trace, horizon, form, confidence)
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
    """What keeps a window from being projected: why, and how many more epochs it takes."""
    measured = len(trace)
    missing = chosen.missing(measured)
    if missing:
        stop = chosen.start + (chosen.length or 1)
        return (
            f"not enough epochs yet: the level to project from is epochs {chosen.start} to "
            f"{stop - 1}, and {measured} were measured; {missing} more are needed",
            max(missing, history.missing_epochs if found else 0),
        )
    return unstable_message(trace, history), history.missing_epochs if found else 0


def _estimate(
    trace: EnergyTrace, history: Forecaster, horizon: Horizon, form: Form, confidence: float | None
) -> Estimate:
    """The projection from the current level; without an interval where `confidence` is None."""
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
        if forecast.energy_J > 0:  # errors are relative to what is to come
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
    stop = len(trace)
    return Estimate(
        total_J,
        **interval,
        duration_s=known_s,
        measured_J=done_J,
        epochs=total,
        unit=trace.unit,
        stable_epoch=history.start,
        method=f"STEP, {form} form, {trace.unit}s {history.start} to {stop - 1}",
        assumptions=_assumptions(history, horizon, forecast, form, remaining=total > stop),
    )


def _assumptions(
    history: Forecaster, horizon: Horizon, forecast: Forecast, form: Form, *, remaining: bool
) -> tuple[str, ...]:
    assumptions = []
    if remaining:
        but = ", but for the changes named here" if forecast.assumptions else ""
        assumptions.append(f"the energy per {history.unit} does not change again{but}")
    assumptions += forecast.assumptions
    if form == "power" and horizon.duration_s is not None:
        assumptions.append(f"the training takes {horizon.duration_s:g} s")
    if history.unread_epochs:
        assumptions.append(
            f"{history.unread_epochs} {history.unit}(s) that were not read cost what others cost"
        )
    return tuple(assumptions)
