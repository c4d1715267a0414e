"""The cost of the remaining epochs: training, validation and spikes, projected separately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import finite_or_none, positive_or_none
from energyest.estimators.arguments import lacks_durations
from energyest.estimators.step.disturbances import DRAWS, Disturbances, are_equal_times, chance
from energyest.estimators.step.horizon import Horizon, measured_s
from energyest.estimators.step.interval import error_of, errors, errors_of_mean
from energyest.estimators.step.level import MIN_EPOCHS, Level, current_level
from energyest.estimators.step.planned_changes import PlannedChange, Weights, weights_of
from energyest.estimators.step.spikes import remaining_spikes, without_spikes
from energyest.estimators.step.validation import Validations
from energyest.estimators.step.young_level import level_at_end, other_level
from energyest.records.devices import gpus_of
from energyest.records.trace import EnergyTrace

# Relative precision of the number of epochs within a time limit.
_PRECISION = 1e-9


@dataclass(frozen=True)
class Forecast:
    """Forecast of the rest of a training.

    Attributes:
        energy_J: remaining energy, including that of past epochs that were not measured.
        off_J: shape (draws,), deviations of simulated futures from `energy_J`.
        duration_s: seconds from now to the end; NaN if unknown.
        power_W: mean power of the remaining epochs; NaN if unknown.
        assumptions: assumptions besides the continuation of the level.
    """

    energy_J: float
    off_J: FloatArray
    duration_s: float
    power_W: float
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outlook:
    """The expected remaining epochs.

    Attributes:
        mean: expected energy of an epoch, without added parts.
        calm: the level without disturbances.
        disturbances: disturbances of the level.
        leaves_out: whether expected disturbances are not part of `mean` and must be added.
        spikes_J: energy that regular spikes add.
    """

    mean: float
    calm: Level
    disturbances: Disturbances
    leaves_out: bool
    spikes_J: float = 0.0


class Forecaster:
    """The epochs measured so far, and the level that they end on.

    Args:
        trace: trace with at least one epoch of measured energy.
        changes: known changes of the level, in order of epochs.

    Attributes:
        level: the level of training, without separately projected validation; its positions count
            only epochs for which this part is known.
        start: position of the level's first epoch in the trace.
    """

    def __init__(self, trace: EnergyTrace, changes: Sequence[PlannedChange] = ()) -> None:
        self._trace = trace
        self._energy_J = energy_J = trace.column("energy_J")
        self._duration_s = trace.column("duration_s")
        self._validations = Validations(trace)
        apart_J, apart_s = self._validations.energy_J, self._validations.duration_s
        if self._validations.in_each or not np.isfinite(energy_J - apart_J).any():
            apart_J = apart_s = np.zeros(len(trace))
        # Validation cannot use more than the whole epoch, except by rounding.
        training_J = np.maximum(energy_J - apart_J, 0.0)
        self._done = trace.epochs_done
        is_level = np.isfinite(training_J)
        if self._done < len(trace) and is_level[:-1].any():
            is_level[-1] = False  # cut short: counts as measured, but not as an epoch of the level
        self._positions = np.flatnonzero(is_level)
        self._training_J = training_J[self._positions]
        self._equal_times = are_equal_times(self._duration_s[: math.floor(self._done)])
        part = _part_to_project(self._training_J, self._positions, changes, self._done)
        self.level, self._to_come = part.level, part.to_come
        self._rows_since_change = part.rows_since_change
        self._rows = self._positions[part.where]
        self.start = int(self._rows[self.level.start])
        self._level_durations_s = np.maximum(self._duration_s - apart_s, 0.0)[self._rows]
        self._level_s = self.level.average(self._level_durations_s)
        self._series_J = self._training_J[part.where]
        spikes = np.flatnonzero(self.level.smooth != self._series_J)
        self._spikes = spikes[spikes >= self.level.start]
        calm, disturbances = self._calm(self._series_J)
        # A single spike, dips since the level, and disturbances before it are not part of its mean;
        # disturbances that recurred on it are.
        single = len(self._spikes) == 1 or (self.level.since > 0 and not len(self._spikes))
        leaves_out = disturbances.are_older or single
        usual_J = calm.mean if disturbances.are_older else self.level.mean
        self._irregular = Outlook(usual_J, calm, disturbances, leaves_out)
        self._other = other_level(self._series_J, self.level.start, self.level.dip)
        # Unmeasured epochs at the end of the trace are projected like remaining epochs.
        last = int(np.flatnonzero(np.isfinite(energy_J))[-1])
        self._begin = min(last + 1, self._done)
        self._unread_J = self._energy_of_unread()

    # ------------------------------------------------------------------ past epochs

    @property
    def unit(self) -> str:
        """What a row of the trace is: an `epoch` or an `interval`."""
        return self._trace.unit

    @property
    def measured_epochs(self) -> int:
        """Number of whole epochs whose energy was measured."""
        return math.floor(self._done) - self.unread_epochs

    @property
    def unread_epochs(self) -> int:
        """Number of epochs so far whose energy was not measured."""
        return int((~np.isfinite(self._energy_J)).sum())

    @property
    def read_s(self) -> float:
        """Total duration of the epochs whose energy was measured, in seconds."""
        return float(np.nansum(self._duration_s[np.isfinite(self._energy_J)]))

    @property
    def has_pending_change(self) -> bool:
        """Whether a known change has come whose new level is not established yet."""
        return self._rows_since_change is not None

    @property
    def missing_epochs(self) -> int:
        """Least number of further epochs until the present level is established."""
        if self._rows_since_change is not None:
            return max(1, MIN_EPOCHS - self._rows_since_change)
        return self.level.missing_epochs

    @property
    def power_W(self) -> float:
        """Mean power of the whole epochs on the level; NaN without durations."""
        duration_s = self.level.average(self._duration_s[self._rows])
        energy_J = self.level.average(self._energy_J[self._rows])
        return energy_J / duration_s if duration_s > 0 else math.nan

    @property
    def load(self) -> float | None:
        """Power of the GPUs on the level as a share of their limits; None if unknown."""
        gpus = gpus_of(self._trace.devices)
        limits = [positive_or_none(gpu.get("power_limit_W")) for gpu in gpus]
        limit_W = sum(limit for limit in limits if limit is not None)
        energy_J = self.level.average(self._trace.column("gpu_energy_J")[self._rows])
        duration_s = self.level.average(self._duration_s[self._rows])
        if not limits or None in limits or not duration_s > 0:
            return None
        return positive_or_none(energy_J / duration_s / limit_W)

    # ------------------------------------------------------------------ remaining epochs

    def epochs_within(self, horizon: Horizon) -> float:
        """Number of epochs of the whole training.

        Raises:
            EstimateError: a time limit ends it, and the durations of its epochs are unknown.
        """
        if horizon.is_reached(self._trace):
            return min(horizon.epochs, self._done)
        if not math.isfinite(horizon.end_s):
            return horizon.epochs
        until = self._epochs_until(horizon.end_s)
        if not math.isfinite(until):
            raise lacks_durations("a training with a time limit")
        return min(horizon.epochs, until)

    def forecast(self, total: float) -> Forecast:
        """Forecast the rest of a training with `total` epochs."""
        begin, end = self._begin, max(total, self._done)
        weights = self._weights(begin, end)
        weight, (rest_s, power_W) = weights.energy, self._time_to_come(total)
        outlook = self.outlook(total)
        level = outlook.calm
        extra = outlook.disturbances.to_come(begin, end)
        # Planned changes affect the cost of disturbances, too.
        factor = weight / (end - begin) if end > begin else 0.0
        an_epoch_J = level.mean * factor
        # Spikes, such as checkpoints, keep their size; what dips save scales with an epoch.
        spikes_J = outlook.spikes_J
        if spikes_J < 0:
            spikes_J *= factor
        training_J = max(weight * outlook.mean + spikes_J, 0.0)
        if outlook.leaves_out:
            training_J += _times(float(np.median(extra)), an_epoch_J)
        off_J = weight * level.mean + spikes_J + an_epoch_J * extra - training_J
        likely, more = self._other
        if likely and weight > 0:
            is_other = chance().other_level < likely
            training_J += weight * level.mean * likely * more
            off_J += weight * level.mean * (is_other - likely) * more
        if self._validations.in_each and weights.changes:
            # Planned changes affect training; validation within the epoch stays the same.
            share_J = finite_or_none(level.average(self._validations.energy_J[self._rows])) or 0.0
            training_J += _times(end - begin - weight, min(share_J, level.mean))
        # Dips and a lower level together may seem to save more than there is.
        off_J, training_J = off_J + min(training_J, 0.0), max(training_J, 0.0)
        # Both errors are common to all remaining epochs.
        error_J = training_J * error_of(level, weight) if weight > 0 else 0.0
        error_J = math.hypot(error_J, _times(level.mean, weights.error))
        validation = self._validations.to_come(total, level.mean, self._level_s)
        off_J += math.hypot(error_J, validation.error_J) * errors()
        return Forecast(
            energy_J=training_J + validation.energy_J + self._unread_J,
            off_J=off_J,
            duration_s=rest_s,
            power_W=power_W,
            assumptions=tuple(c.describe(self.unit) for c in weights.changes),
        )

    def duration_off_s(self, total: float) -> FloatArray:
        """Deviations of simulated futures from the projected duration, in s, of shape (draws,)."""
        measured, end = self._done, max(total, self._done)
        weights = self._weights(measured, end)
        known = np.isfinite(self._level_durations_s)
        start = int(np.count_nonzero(known[: self.level.start]))
        durations_s = self._level_durations_s[known]
        if not (weights.time > 0 and self._level_s > 0) or start >= len(durations_s):
            return np.zeros(DRAWS)
        off_s: FloatArray = (
            weights.time
            * self._level_s
            * errors_of_mean(
                self._level_s,
                durations_s,
                start,
                self._rows[known],
                (measured, end),
                further=weights.error / weights.time,
                dip=int(np.count_nonzero(known[len(known) - self.level.dip :])),
            )
        )
        return off_s

    def outlook(self, total: float) -> Outlook:
        """The expected remaining epochs of a training with `total` epochs."""
        if len(self._spikes) > 1:
            epochs = self._rows[self._spikes]
            to_come = remaining_spikes(epochs, self._done, total)
            if to_come is not None:
                return self._with_regular_spikes(to_come)
        return self._irregular

    # ------------------------------------------------------------------ inside

    def _weights(self, begin: float, end: float) -> Weights:
        """Total cost of the epochs from `begin` to `end`, in epochs of the present level."""
        return weights_of(self._to_come, begin, end, self.load if self._to_come else None)

    def _calm(self, values: FloatArray) -> tuple[Level, Disturbances]:
        """The level without disturbances, and the disturbances."""
        disturbances = Disturbances(
            values, self.level.start, self._rows, equal_times=self._equal_times
        )
        if np.array_equal(disturbances.calm, self._series_J):
            return self.level, disturbances
        return current_level(disturbances.calm, self.level.change), disturbances

    def _time_to_come(self, total: float) -> tuple[float, float]:
        """Seconds from now to the end (NaN if unknown), and mean power of the remaining epochs."""
        measured, end = self._done, max(total, self._done)
        weights = self._weights(self._begin, end)
        weight_s = weights.time
        # Energy and time of the same epochs, including unmeasured ones at the end of the trace.
        power_W = self.power_W * (weights.energy / weight_s if weight_s > 0 else 1.0)
        if self._begin < measured:
            weight_s = self._weights(measured, end).time
        training_s = _times(weight_s, self._level_s)
        if self._validations.in_each and weights.changes:
            share_s = self.level.average(self._validations.duration_s[self._rows])
            share_s = finite_or_none(share_s) or 0.0
            training_s += _times(end - measured - weight_s, min(share_s, self._level_s))
        validation = self._validations.to_come(total, self.level.mean, self._level_s)
        unknown_s = _times(int(np.isnan(self._duration_s).sum()), self._level_s)
        return training_s + validation.duration_s + unknown_s, power_W

    def _with_regular_spikes(self, to_come: float) -> Outlook:
        """The expected remaining epochs, given the number of remaining spikes."""
        smooth = self.level.smooth
        height_J = float((self._series_J - smooth)[self._spikes].mean())
        usual_J = current_level(smooth, self.level.change).mean
        return Outlook(usual_J, *self._calm(smooth), leaves_out=False, spikes_J=to_come * height_J)

    def _energy_of_unread(self) -> float:
        """Energy of unmeasured epochs between measured ones, interpolated from their neighbours."""
        unread = np.flatnonzero(~np.isfinite(self._energy_J))
        unread = unread[unread < self._begin]
        if not len(unread):
            return 0.0
        around_J = np.interp(unread, self._positions, without_spikes(self._training_J))
        validation_J = sum(self._validations.unread(int(epoch)).energy_J for epoch in unread)
        return float(around_J.sum()) + validation_J

    def _epochs_until(self, end_s: float) -> float:
        """Number of epochs of the training if it ends `end_s` seconds after its start."""
        done_s, measured = measured_s(self._trace), self._done

        def length_s(total: float) -> float:
            return done_s + self._time_to_come(total)[0]

        an_epoch_s = length_s(measured + 1) - length_s(measured)
        if not an_epoch_s > 0:
            return math.nan
        low, high = measured, measured + 2 * max(1.0, (end_s - done_s) / an_epoch_s)
        while length_s(high) < end_s:
            low, high = high, measured + 2 * (high - measured)
        while high - low > _PRECISION * high:
            middle = (low + high) / 2
            low, high = (middle, high) if length_s(middle) < end_s else (low, middle)
        return high


@dataclass(frozen=True)
class _Part:
    """The epochs to project from.

    Attributes:
        level: the level at the end of these epochs.
        where: their part of the values.
        to_come: changes after them.
        rows_since_change: epochs since a change that came after them but before now; None if
            there is none.
    """

    level: Level
    where: slice
    to_come: list[PlannedChange]
    rows_since_change: int | None = None


def _part_to_project(
    values: FloatArray,
    positions: NDArray[np.intp],
    changes: Sequence[PlannedChange],
    measured: float,
) -> _Part:
    """The epochs since the last known change or, soon after it, those before it.

    An epoch within which a change happens belongs to neither side. Until the new level is
    established, the level before it is used, and the change counts as one that is about to come.
    """
    past = [change for change in changes if change.epoch < measured]
    to_come = [change for change in changes if change.epoch >= measured]
    begins = [0, *(int(np.searchsorted(positions, math.ceil(c.epoch))) for c in past)]
    ends = [*(int(np.searchsorted(positions, math.floor(c.epoch))) for c in past), len(values)]
    edges = [0.0, *(math.floor(change.epoch) for change in past), measured]
    number = len(past)
    while number and past[number - 1].is_known:
        if edges[number + 1] - edges[number] >= MIN_EPOCHS and begins[number] < ends[number]:
            break  # long enough to be judged on its own
        number -= 1
    where = slice(begins[number], ends[number])
    if where.start >= where.stop:
        # Nothing was measured there, or the size of a change is unknown: use the newest epochs.
        number, where = len(past), slice(min(begins[-1], len(values) - 1), len(values))
    level = level_at_end(values[where])
    pending = past[number:]
    since = math.floor(measured - edges[number + 1]) if pending else None
    return _Part(level, where, [*pending, *to_come], since)


def _times(number: float, seconds: float) -> float:
    """A product that is 0 if `number` is 0, even if `seconds` is NaN."""
    return number * seconds if number else 0.0
