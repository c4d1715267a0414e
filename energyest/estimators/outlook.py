"""What the epochs to come will cost: training, validation and spikes, each projected apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.errors import EstimateError
from energyest.estimators.checks import is_number
from energyest.estimators.events import remaining_events, without_spikes
from energyest.estimators.horizon import Horizon, measured_s
from energyest.estimators.interval import error_of
from energyest.estimators.level import Level, current_level
from energyest.estimators.planned import PlannedChange, weights_of
from energyest.integration import FloatArray
from energyest.trace import EnergyTrace

# A validation step is a forward pass: a third of a training step.
_VALIDATION_STEP = 1 / 3
# The relative error of that guess.
_GUESS_ERROR = 0.5
# Enough to know the number of epochs to its last digits.
_HALVINGS = 50


@dataclass(frozen=True)
class Outlook:
    """What is to come.

    Attributes:
        energy_J: joules.
        error_J: scale of its error in joules.
        duration_s: seconds; NaN if unknown.
        assumptions: what it rests on, beside the level going on.
    """

    energy_J: float
    error_J: float
    duration_s: float
    assumptions: tuple[str, ...] = ()


class History:
    """The epochs measured so far, and the level that they end on.

    Args:
        trace: at least one epoch of it has a measured energy.
        changes: what is known to change the level, in the order of their epochs.

    Attributes:
        level: the level of training without validation; its positions count measured epochs.
        start: position of the level's first epoch in the trace.
    """

    def __init__(self, trace: EnergyTrace, changes: Sequence[PlannedChange] = ()) -> None:
        self._trace = trace
        energy_J, duration_s = trace.column("energy_J"), trace.column("duration_s")
        self._positions = np.flatnonzero(np.isfinite(energy_J))
        validation_J = np.nan_to_num(trace.column("validation_energy_J"))
        validation_s = np.nan_to_num(trace.column("validation_s"))
        validated = (validation_J > 0) | (validation_s > 0)
        self._validated = np.flatnonzero(validated)
        self._validation_J, self._validation_s = validation_J, validation_s
        self._validates_always = bool(validated.all())
        if self._validates_always:
            # Then it is part of the epoch: the edge between the two is known less well than the
            # edges of epochs, and would add noise to both.
            validation_J = validation_s = np.zeros(len(trace))
        # An epoch cannot spend more on validation than in all; rounding can.
        training_J = np.maximum(energy_J - validation_J, 0.0)[self._positions]
        self._training_s = (duration_s - validation_s)[self._positions]
        self._training_J = training_J
        self.level, self._part, self._to_come = _level_between(
            training_J, self._positions, changes, len(trace)
        )
        self.start = int(self._positions[self._part.start + self.level.start])

    @property
    def measured_epochs(self) -> int:
        """Number of epochs whose energy was measured."""
        return len(self._positions)

    @property
    def unread_epochs(self) -> int:
        """Number of epochs so far whose energy was not measured."""
        return len(self._trace) - len(self._positions)

    @property
    def read_s(self) -> float:
        """Seconds of the epochs whose energy was measured."""
        return float(self._trace.column("duration_s")[self._positions].sum())

    @property
    def power_W(self) -> float:
        """Mean power of the whole epochs on the level; NaN without durations."""
        part = self._positions[self._part]
        duration_s = self.level.average(self._trace.column("duration_s")[part])
        energy_J = self.level.average(self._trace.column("energy_J")[part])
        return energy_J / duration_s if duration_s > 0 else math.nan

    @property
    def load(self) -> float | None:
        """Power of the GPUs on the level as a share of their limits; None if unknown."""
        gpus = [device for device in self._trace.devices if device.get("kind") == "gpu"]
        limits = [limit for gpu in gpus if is_number(limit := gpu.get("power_limit_W"))]
        part = self._positions[self._part]
        energy_J = self.level.average(self._trace.column("gpu_energy_J")[part])
        duration_s = self.level.average(self._trace.column("duration_s")[part])
        if not gpus or len(limits) < len(gpus) or min(limits) <= 0:
            return None
        load = energy_J / duration_s / sum(limits) if duration_s > 0 else math.nan
        return load if math.isfinite(load) and load > 0 else None

    def epochs_within(self, horizon: Horizon) -> float:
        """How many epochs the training has."""
        if horizon.is_reached(self._trace):
            return min(horizon.epochs, len(self._trace))
        if not math.isfinite(horizon.end_s):
            return horizon.epochs
        until = self._epochs_until(horizon.end_s)
        if not math.isfinite(until):
            raise EstimateError(
                "a training that ends by the clock needs the durations of its epochs, and the "
                "trace does not hold them"
            )
        return min(horizon.epochs, until)

    def outlook(self, total: float) -> Outlook:
        """What is to come if the training has `total` epochs."""
        measured = len(self._trace)
        end = max(total, measured)
        weights = weights_of(self._to_come, measured, end, self.load)
        weight = weights.energy + self.unread_epochs
        level, spikes_J = self.level_for(total)
        training_J = weight * level.mean + spikes_J
        if self._validates_always and weights.changes:
            # What is planned changes the training.
            number = end - measured + self.unread_epochs
            share_J = level.average(self._validation_J[self._positions[self._part]])
            training_J += (number - weight) * share_J
        # Both kinds of error concern all epochs to come alike.
        error_J = training_J * error_of(level, weight) if weight > 0 else 0.0
        error_J = math.hypot(error_J, level.mean * weights.error)
        number = weights.time + self.unread_epochs
        training_s = number * level.average(self._training_s[self._part]) if number > 0 else 0.0
        validation_J, validation_error_J, validation_s = self._validation(total, level.mean)
        return Outlook(
            energy_J=training_J + validation_J,
            error_J=math.hypot(error_J, validation_error_J),
            duration_s=training_s + validation_s,
            assumptions=tuple(map(str, weights.changes)),
        )

    def level_for(self, total: float) -> tuple[Level, float]:
        """The level of the epochs to come, and the joules that regular spikes add to it.

        Spikes that come irregularly are part of the level.
        """
        series = self._training_J[self._part]
        smooth = without_spikes(series)
        spikes = np.flatnonzero(smooth != series)
        spikes = spikes[spikes >= self.level.start]
        if len(spikes) < 2:
            return self.level, 0.0
        to_come = remaining_events(self._positions[self._part][spikes], len(self._trace), total)
        if to_come is None:
            return self.level, 0.0
        height_J = float((series - smooth)[spikes].mean())
        return current_level(smooth, self.level.change), to_come * height_J

    # ------------------------------------------------------------------ inside

    def _epochs_until(self, end_s: float) -> float:
        """How many epochs the training has if it ends that many seconds after it began."""
        done_s, measured = measured_s(self._trace), float(len(self._trace))

        def length_s(total: float) -> float:
            return done_s + self.outlook(total).duration_s

        if not length_s(measured + 1) > done_s:
            return math.nan
        low, high = measured, measured + 1
        while length_s(high) < end_s:
            low, high = high, measured + 2 * (high - measured)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if length_s(middle) < end_s else (low, middle)
        return high

    def _validation(self, total: float, training_J: float) -> tuple[float, float, float]:
        """Energy, scale of its error, and seconds of the validations to come."""
        measured = len(self._trace)
        if self._validates_always:
            return 0.0, 0.0, 0.0
        schedule = _Schedule.of(self._trace)
        if not len(self._validated):
            if schedule is None or schedule.training_share is None:
                return 0.0, 0.0, 0.0
            # None so far: the guess is that of a forward pass.
            guess = schedule.between(measured, total) * schedule.training_share * _VALIDATION_STEP
            level_s = self.level.average(self._training_s[self._part])
            return guess * training_J, _GUESS_ERROR * guess * training_J, guess * level_s
        done = np.ones(len(self._validated))
        to_come: float | None
        if schedule is None:
            to_come = remaining_events(self._validated, measured, total)
        else:
            done = np.array(
                [max(1.0, schedule.between(i, i + 1)) for i in self._validated.tolist()]
            )
            to_come = schedule.between(measured, total)
        if to_come is None:
            to_come = len(self._validated) / measured * max(0.0, total - measured)
        level = current_level(self._validation_J[self._validated] / done)
        error_J = to_come * level.mean * error_of(level, to_come) if to_come > 0 else 0.0
        level_s = level.average(self._validation_s[self._validated] / done)
        return to_come * level.mean, error_J, to_come * level_s


@dataclass(frozen=True)
class _Schedule:
    """When validation comes, as the monitor recorded it.

    Attributes:
        every: epochs (or intervals) from one validation to the next.
        offset: epochs of this training before the trace began.
        training_share: batches of a validation per batches of an epoch; None if unknown.
    """

    every: float
    offset: float
    training_share: float | None

    @classmethod
    def of(cls, trace: EnergyTrace) -> _Schedule | None:
        every = trace.meta.get("validation_every_n_rows")
        if not (is_number(every) and math.isfinite(every) and every > 0):
            return None
        intervals = trace.meta.get("interval_steps") is not None
        first = trace.meta.get("first_epoch")
        share = trace.meta.get("validation_to_training_batches")
        return cls(
            float(every),
            float(first) if is_number(first) and not intervals else 0.0,
            float(share) if is_number(share) else None,
        )

    def between(self, begin: float, end: float) -> float:
        """Number of validations in the epochs from `begin` until `end`."""
        # The last, broken epoch of a training that ends within it is not validated.
        return max(0.0, self._until(end) - self._until(begin))

    def _until(self, epoch: float) -> float:
        return math.floor((self.offset + epoch) / self.every + 1e-9)


def _level_between(
    values: FloatArray,
    positions: NDArray[np.intp],
    changes: Sequence[PlannedChange],
    measured: int,
) -> tuple[Level, slice, list[PlannedChange]]:
    """The level since the last known change, its part of `values`, and the changes to come.

    If that change was so recently that the new level does not show yet, the level before it is
    taken, and the change counts as one to come at once.
    """
    past = [change for change in changes if change.epoch < measured]
    to_come = [change for change in changes if change.epoch >= measured]
    edges = [0, *(int(np.searchsorted(positions, change.epoch)) for change in past), len(values)]
    for number in range(len(past), -1, -1):
        part = slice(edges[number], edges[number + 1])
        pending = past[number:]
        if not all(change.is_known for change in pending):
            break
        if part.stop > part.start:
            level = current_level(values[part])
            if level.is_stable:
                return level, part, [*pending, *to_come]
    # Nothing is stable, or by how much it changed is unknown: the newest epochs say the most.
    part = slice(min(edges[-2], len(values) - 1), len(values))
    return current_level(values[part]), part, to_come
