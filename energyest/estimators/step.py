"""STEP: stable training epoch projection, after del Rey et al., arXiv 2307.05520."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from energyest.errors import EstimateError, NotStableError
from energyest.estimators.checks import (
    check_confidence,
    check_count,
    check_epochs,
    check_positive,
)
from energyest.estimators.estimate import Estimate
from energyest.estimators.stability import (
    current_regime,
    measured_epochs,
    unstable_message,
)
from energyest.integration import FloatArray
from energyest.trace import EnergyTrace

Form = Literal["energy", "power"]


def estimate_step(
    trace: EnergyTrace,
    epochs: int,
    *,
    form: Form = "energy",
    start: int | Literal["auto"] = "auto",
    window: int | None = None,
    confidence: float = 0.9,
    duration_s: float | None = None,
) -> Estimate:
    """Project the energy of a whole training from the epochs measured so far.

    By default (`start="auto", window=None`) all that is known is used: the measured epochs count
    as measured, and each remaining one costs as much as the mean epoch of the current regime (see
    `find_stable_epoch`). With a `window` it is the formula of the paper (section on STEP of arXiv
    2307.05520), whose setting is `start=10, window=5`; s = start, w = window, N = epochs:

    - energy form: energy of the epochs before s + energy of the epochs s to s+w-1 / w * (N - s);
    - power form: mean power over the epochs s to s+w-1, times the duration of the training.

    The interval is that of a sum of further draws from the level's epochs, taken as independent
    and normal: Student's t with k-1 degrees of freedom times the standard deviation of its k
    epochs times sqrt(r + r^2/k), for r epochs to come. It does not cover a change of level that
    has not happened yet.

    Args:
        trace: the epochs measured so far.
        epochs: number of epochs of the whole training.
        form: `"energy"`, or `"power"`, which projects mean power over the duration.
        start: first epoch of the level to project from, counted from 0, or `"auto"`.
        window: number of epochs from `start` on to take the level from; None for all of them.
        confidence: probability that the interval is to hold the total, between 0 and 1.
        duration_s: duration of the whole training in seconds where it is known; else it is
            projected as the energy is.

    Raises:
        NotStableError: too few epochs, or no stable level yet; carries the best estimate so far
            and the number of epochs that are missing.
        EstimateError: fewer `epochs` than were measured, or arguments out of their range.
    """
    epochs = check_epochs(trace, epochs)
    confidence = check_confidence(confidence)
    if form not in ("energy", "power"):
        raise EstimateError(f"form={form!r} is not known: it is 'energy' or 'power'")
    start, window = _check_level(start, window, epochs)
    _check_duration(trace, duration_s)
    level = _find_level(trace, start, window)
    projection = _Projection(trace, epochs, form, confidence, duration_s)
    complete = len(trace) == epochs and bool(np.isfinite(trace.column("energy_J")).all())
    if level.missing_epochs and not (complete and window is None):
        guess = level if level.has_epochs else _find_level(trace, "auto", None)
        raise NotStableError(
            level.message,
            estimate=projection.estimate(guess) if guess.has_epochs else None,
            missing_epochs=level.missing_epochs,
        )
    return projection.estimate(level)


@dataclass(frozen=True)
class _Level:
    """The epochs to project from.

    `windowed` tells the paper's formula, which knows the epochs before the window and the window,
    from the default, which knows all epochs.
    """

    start: int
    stop: int
    windowed: bool = False
    missing_epochs: int = 0
    message: str = ""

    @property
    def has_epochs(self) -> bool:
        return self.stop > self.start


def _find_level(trace: EnergyTrace, start: int | Literal["auto"], window: int | None) -> _Level:
    measured = len(trace)
    message, missing = "", 0
    if start == "auto":
        positions, energy_J = measured_epochs(trace)
        regime = current_regime(energy_J)
        if not len(positions):
            return _Level(0, 0, False, regime.missing_epochs, unstable_message(regime, 0))
        first = int(positions[regime.start])
        missing = regime.missing_epochs
        message = unstable_message(regime, len(positions))
    else:
        first = start
    stop = measured if window is None else first + window
    needed = max(stop, first + 1)
    if needed > measured:
        missing = max(missing, needed - measured)
        message = (
            f"not enough epochs yet: the level to project from is epochs {first} to {needed - 1}, "
            f"and {measured} were measured; {needed - measured} more are needed"
        )
        return _Level(first, first, window is not None, missing, message)
    if not np.isfinite(trace.column("energy_J")[first:stop]).any():
        raise EstimateError(f"none of the epochs {first} to {stop - 1} has a measured energy")
    return _Level(first, stop, window is not None, missing, message)


@dataclass(frozen=True)
class _Projection:
    trace: EnergyTrace
    epochs: int
    form: Form
    confidence: float
    duration_s: float | None

    def estimate(self, level: _Level) -> Estimate:
        """The projection from the epochs of `level`."""
        energy_J = self.trace.column("energy_J")
        duration_s = self.trace.column("duration_s")
        stop = level.stop if level.windowed else len(energy_J)
        known_J = energy_J[:stop]
        read = np.isfinite(known_J)
        remaining = self.epochs - int(read.sum())
        floor_J = float(known_J[read].sum())
        measured_J: float | None = floor_J
        level_J = energy_J[level.start : level.stop]
        level_J = level_J[np.isfinite(level_J)]
        level_s = float(np.mean(duration_s[level.start : level.stop]))
        total_s = self._total_duration(duration_s[:stop], level_s)

        assumptions = self._assumptions(remaining, int((~read).sum()))
        if self.form == "power":
            total_J = self._by_power(level, floor_J, total_s)
            if level.windowed:
                # The paper's power form takes no epoch as measured, its window included.
                remaining, measured_J, floor_J = self.epochs, None, 0.0
        else:
            total_J = float(floor_J + remaining * level_J.mean())
        half_J = self._half_width(level_J, remaining)
        return Estimate(
            energy_J=total_J,
            lower_J=None if half_J is None else max(total_J - half_J, floor_J),
            upper_J=None if half_J is None else total_J + half_J,
            confidence=None if half_J is None else self.confidence,
            duration_s=total_s if math.isfinite(total_s) else None,
            measured_J=measured_J,
            epochs=self.epochs,
            method=f"STEP, {self.form} form, epochs {level.start} to {level.stop - 1}",
            assumptions=assumptions,
        )

    def _total_duration(self, known_s: FloatArray, level_s: float) -> float:
        if self.duration_s is not None:
            return self.duration_s
        return float(known_s.sum() + (self.epochs - len(known_s)) * level_s)

    def _by_power(self, level: _Level, known_J: float, total_s: float) -> float:
        """Mean power times duration: the whole one in the paper's formula, else what remains."""
        energy_J = self.trace.column("energy_J")
        duration_s = self.trace.column("duration_s")
        read = np.isfinite(energy_J[level.start : level.stop])
        level_J = energy_J[level.start : level.stop][read].sum()
        power_W = float(level_J / duration_s[level.start : level.stop][read].sum())
        if not (math.isfinite(power_W) and math.isfinite(total_s)):
            raise EstimateError(
                "form='power' needs the durations of the epochs, and the trace does not hold them"
            )
        if level.windowed:
            return power_W * total_s
        known_s = float(duration_s[np.isfinite(energy_J)].sum())
        return known_J + power_W * max(0.0, total_s - known_s)

    def _half_width(self, level_J: FloatArray, remaining: int) -> float | None:
        if remaining <= 0:
            return 0.0
        count = len(level_J)
        if count < 2:
            return None
        quantile = float(stdtrit(count - 1, (1 + self.confidence) / 2))
        spread = math.sqrt(remaining + remaining**2 / count)
        return quantile * float(np.std(level_J, ddof=1)) * spread

    def _assumptions(self, remaining: int, unmeasured: int) -> tuple[str, ...]:
        assumptions = []
        if remaining > 0:
            assumptions.append("the epochs to come cost what the epochs of this level cost")
        if self.form == "power" and self.duration_s is not None:
            assumptions.append(f"the training takes {self.duration_s:g} s")
        if unmeasured:
            assumptions.append(
                f"{unmeasured} epoch(s) without a measurement cost as much as others"
            )
        return tuple(assumptions)


def _check_level(
    start: int | Literal["auto"], window: int | None, epochs: int
) -> tuple[int | Literal["auto"], int | None]:
    if start != "auto":
        if not (isinstance(start, int | np.integer) and 0 <= start < epochs):
            raise EstimateError(
                f"start={start!r} must be 'auto' or an epoch from 0 to {epochs - 1}"
            )
        start = int(start)
    if window is not None:
        window = check_count(window, "window")
        first = 0 if start == "auto" else start
        if first + window > epochs:
            raise EstimateError(
                f"start={start} and window={window} reach past the last of {epochs} epochs"
            )
    return start, window


def _check_duration(trace: EnergyTrace, duration_s: float | None) -> None:
    if duration_s is None:
        return
    measured_s = float(np.nansum(trace.column("duration_s")))
    if check_positive(duration_s, "duration_s") < measured_s * (1 - 1e-9):
        raise EstimateError(
            f"duration_s={duration_s:g} is shorter than the {measured_s:g} s measured already"
        )
