"""STEP as published: the formula, from given epochs, and the segmentation of power by FLUSS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from energyest.arrays import FloatArray
from energyest.checks import check_count, is_count
from energyest.errors import EstimateError, MissingDependencyError
from energyest.estimate import Estimate
from energyest.estimators.arguments import lacks_durations
from energyest.estimators.step.horizon import Horizon
from energyest.estimators.step.interval import ends_around, errors_of_mean
from energyest.estimators.step.level import fixed_level
from energyest.records.trace import EnergyTrace

# FLUSS with the settings of del Rey et al., arXiv 2307.05520: readings per window, subsequence
# length of the corrected arc curve, number of regimes, and exclusion factor at both ends.
WINDOW = 10
SUBSEQUENCE = 10
REGIMES = 2
EXCLUSION = 3


@dataclass(frozen=True)
class Window:
    """The epochs to project from: `start` to `start + length - 1`, or all from `start` on."""

    start: int
    length: int | None

    def missing(self, measured: int) -> int:
        """Number of epochs of the window that are not measured yet."""
        return max(0, self.start + (self.length or 1) - measured)

    def estimate(
        self, trace: EnergyTrace, horizon: Horizon, form: str, confidence: float
    ) -> Estimate:
        """The projection; all epochs of the window must have been measured.

        With a length, only the epochs before and in the window are used, as in the paper.

        Raises:
            EstimateError: no epoch of the window has a measured energy, or the power form lacks
                durations.
        """
        epochs = horizon.epochs
        stop = len(trace) if self.length is None else self.start + self.length
        energy_J = trace.column("energy_J")[:stop]
        durations_s = trace.column("duration_s")[:stop]
        if not np.isfinite(energy_J[self.start :]).any():
            raise EstimateError(
                f"none of the epochs {self.start} to {stop - 1} has a measured energy"
            )
        level = fixed_level(energy_J, self.start, stop)
        known_J = float(np.nansum(energy_J))
        level_s, known_s = level.average(durations_s), float(np.nansum(durations_s))
        if math.isfinite(horizon.end_s):
            if not level_s > 0:
                raise lacks_durations("a training with a time limit")
            epochs = min(epochs, stop + max(0.0, horizon.end_s - known_s) / level_s)
        total_s = horizon.duration_s
        if total_s is None:
            total_s = known_s + max(0.0, epochs - stop) * level_s
        read = int(np.isfinite(energy_J).sum())
        remaining = max(0.0, epochs - read)
        measured_J: float | None = known_J
        if form == "energy":
            total_J = known_J + remaining * level.mean
        else:
            power_W = level.mean / level_s if level_s > 0 else math.nan
            if not (math.isfinite(power_W) and math.isfinite(total_s)):
                raise lacks_durations("form='power'")
            if self.length is None:
                read_s = float(durations_s[np.isfinite(energy_J)].sum())
                total_J = known_J + power_W * max(0.0, total_s - read_s)
            else:
                # The paper's power form does not count any epoch as measured.
                total_J, remaining, measured_J = power_W * total_s, epochs, None
        interval: dict[str, float] = {}
        known = int(np.isfinite(energy_J[self.start :]).sum())
        if known > 1 or not remaining:  # one epoch does not show the spread
            off_J = self._off(energy_J, level.mean, (stop, stop + remaining))
            if form == "power" and remaining * level.mean > 0:
                # Errors are relative to the remaining energy, which here depends on the duration.
                to_come_J = total_J - (measured_J or 0.0)
                off_J = off_J * (to_come_J / (remaining * level.mean))
            lower_J, upper_J = ends_around(
                total_J, off_J, least=measured_J or 0.0, confidence=confidence
            )
            interval = {"lower_J": lower_J, "upper_J": upper_J, "confidence": confidence}
            if math.isfinite(total_s):
                is_known = horizon.duration_s is not None or epochs < horizon.epochs
                to_come = (stop, stop if is_known else max(epochs, stop))
                off_s = self._off(durations_s, level_s, to_come)
                interval["duration_lower_s"], interval["duration_upper_s"] = ends_around(
                    total_s, off_s, least=known_s, confidence=confidence
                )
        return Estimate(
            total_J,
            **interval,
            duration_s=total_s if math.isfinite(total_s) else None,
            measured_J=measured_J,
            epochs=epochs,
            unit=trace.unit,
            stable_epoch=self.start,
            method=f"STEP, {form} form, {trace.unit}s {self.start} to {stop - 1}",
            assumptions=_assumptions(remaining, stop - read, trace.unit),
        )

    def _off(self, values: FloatArray, mean: float, to_come: tuple[int, float]) -> FloatArray:
        """Deviations of simulated sums of the remaining epochs, of shape (draws,)."""
        number, read = to_come[1] - to_come[0], np.flatnonzero(np.isfinite(values))
        read = read[read >= self.start]  # epochs before the window do not count
        if not number > 0 or not mean > 0:
            return np.zeros(1)
        off: FloatArray = number * mean * errors_of_mean(mean, values[read], 0, read, to_come)
        return off


def _assumptions(remaining: float, unread: int, unit: str) -> tuple[str, ...]:
    said = ["the remaining epochs cost what the epochs of the window do"] if remaining else []
    if unread:
        said.append(f"{unread} {unit}(s) that were not measured cost what those of the window do")
    return tuple(said)


def check_window(
    start: int | Literal["auto"], window: int | None, epochs: float
) -> tuple[int | Literal["auto"], int | None]:
    """Return a start and a length of the window; raise an error if they are invalid.

    Raises:
        EstimateError: they are out of range, or reach past the last epoch.
    """
    last = math.ceil(epochs) - 1 if math.isfinite(epochs) else epochs
    if start != "auto":
        if not is_count(start) or start > last:
            raise EstimateError(f"start={start!r} must be 'auto' or an epoch from 0 to {last}")
        start = int(start)
    if window is not None:
        window = check_count(window, "window", EstimateError)
        if (0 if start == "auto" else start) + window > last + 1:
            raise EstimateError(
                f"start={start} and window={window} reach past the last of {last + 1} epochs"
            )
    return start, window


def fluss_epoch(trace: EnergyTrace) -> int:
    """The epoch in which power changes, by FLUSS segmentation of its matrix profile (the paper).

    The readings of the first device (a GPU if there is one) are resampled to one per second, the
    rate of the paper. The method needs the whole series and always finds a change, but never in
    the first or last 30 s.

    Raises:
        EstimateError: the trace holds too few readings, or epochs without times.
        MissingDependencyError: stumpy is not installed.
    """
    columns = trace.power_columns
    names = sorted(dict.fromkeys(columns["device"]), key=lambda n: not str(n).startswith("gpu"))
    ends_s = trace.column("end_s")
    if not names or not len(ends_s) or not np.isfinite(ends_s).all():
        raise EstimateError("method='fluss' needs power readings and epochs with times")
    rows = (columns["device"] == names[0]) & np.isfinite(columns["power_W"])
    time_s, power_W = columns["time_s"][rows], columns["power_W"][rows]
    seconds = np.arange(time_s[0], time_s[-1], 1.0) if len(time_s) else np.array([])
    # In a shorter series, the excluded ends meet, and nothing is left to search.
    shortest = 2 * EXCLUSION * SUBSEQUENCE + WINDOW
    if len(seconds) < shortest:
        raise EstimateError(
            f"method='fluss' needs {shortest} s of readings; the trace holds {len(seconds)}"
        )
    try:
        import stumpy  # noqa: PLC0415  (an extra that compiles for half a minute)
    except ImportError as error:
        raise MissingDependencyError("method='fluss' needs stumpy: pip install stumpy") from error
    profile = stumpy.stump(np.interp(seconds, time_s, power_W), m=WINDOW)
    _, changes = stumpy.fluss(
        profile[:, 1], L=SUBSEQUENCE, n_regimes=REGIMES, excl_factor=EXCLUSION
    )
    changed_s = seconds[int(changes[0])]
    return int(min(np.searchsorted(ends_s, changed_s, side="right"), len(ends_s) - 1))
