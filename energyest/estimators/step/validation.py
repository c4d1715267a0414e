"""The validations of a training: what they cost so far, and how many are to come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.estimators.step.interval import error_of
from energyest.estimators.step.level import Level, current_level
from energyest.estimators.step.spikes import remaining_spikes
from energyest.records.meta import read_positive
from energyest.records.trace import EnergyTrace

# A validation step is a forward pass: a third of a training step.
_VALIDATION_STEP = 1 / 3
# The relative error of that guess.
_GUESS_ERROR = 0.5
# Validations in an epoch, beyond which a recorded schedule is damaged.
_MOST_IN_AN_EPOCH = 1e6


@dataclass(frozen=True)
class ToCome:
    """What the validations to come cost: joules, scale of their error in joules, seconds."""

    energy_J: float = 0.0
    error_J: float = 0.0
    duration_s: float = 0.0


class Validations:
    """What a trace tells of validation.

    Attributes:
        in_each: whether each epoch validates, as far as it is known. Then it is part of the epoch:
            the edge between the two is known less well than the edges of epochs, and projecting
            them apart would add noise to both.
        energy_J: shape (epochs,), the part of each epoch; NaN if unknown, 0 without validation.
        duration_s: shape (epochs,), likewise.
    """

    def __init__(self, trace: EnergyTrace) -> None:
        energy_J, duration_s = trace.column("validation_energy_J"), trace.column("validation_s")
        happened = (energy_J > 0) | (duration_s > 0)
        unknown = np.isnan(energy_J) & np.isnan(duration_s)
        any_at_all = bool(happened.any())
        self._trace = trace
        self._schedule = _Schedule.of(trace)
        self.in_each = any_at_all and bool((happened | unknown).all())
        without = ~happened & (~unknown | (not any_at_all))
        self.energy_J: FloatArray = np.where(without, 0.0, energy_J)
        self.duration_s: FloatArray = np.where(without, 0.0, duration_s)
        self._positions: NDArray[np.intp] = np.flatnonzero(happened)
        self._level: Level | None = None
        self._level_s = math.nan
        known = self._positions[np.isfinite(energy_J[self._positions])]
        if len(known) and not self.in_each:
            number = np.ones(len(known))
            if self._schedule is not None:
                # A row of a trace of intervals may hold several.
                number = np.maximum(number, self._schedule.between(known, known + 1))
            self._level = current_level(energy_J[known] / number)
            self._level_s = self._level.average(duration_s[known] / number)

    def unread(self, epoch: int) -> ToCome:
        """What the validation of an epoch cost whose energy was not read."""
        if self._level is None:
            return ToCome()
        if self._schedule is not None:
            number = float(self._schedule.between(epoch, epoch + 1))
        else:
            number = float(epoch in self._positions)
        return ToCome(number * self._level.mean)

    def to_come(self, total: float, training_J: float, training_s: float) -> ToCome:
        """What the validations from now on cost.

        Args:
            total: epochs of the whole training.
            training_J: joules of an epoch's training, for a guess before the first validation.
            training_s: its seconds.
        """
        measured = len(self._trace)
        if self.in_each or total <= measured:
            return ToCome()
        scheduled = None
        if self._schedule is not None:
            scheduled = float(self._schedule.between(measured, total))
        if self._level is None:
            share = None if self._schedule is None else self._schedule.training_share
            if scheduled is None or share is None:
                return ToCome()
            guess = scheduled * share * _VALIDATION_STEP
            return ToCome(guess * training_J, _GUESS_ERROR * guess * training_J, guess * training_s)
        number = scheduled
        if number is None:
            number = remaining_spikes(self._positions, measured, total)
        if number is None:
            number = len(self._positions) / measured * (total - measured)
        energy_J = number * self._level.mean
        error_J = energy_J * error_of(self._level, number) if number > 0 else 0.0
        return ToCome(energy_J, error_J, number * self._level_s if number > 0 else 0.0)


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
        every = read_positive(trace.meta, "validation_every_n_rows")
        if every is None or every < 1 / _MOST_IN_AN_EPOCH:
            return None
        first = read_positive(trace.meta, "first_epoch")
        share = read_positive(trace.meta, "validation_to_training_batches")
        # Of intervals, the beginning of a resumed training is not known.
        return cls(every, first or 0.0 if trace.unit == "epoch" else 0.0, share)

    def between(self, begin: Any, end: Any) -> Any:
        """Number of validations in the epochs from `begin` until `end`; numbers or arrays."""
        # The last, broken epoch of a training that ends within it is not validated.
        return np.maximum(0.0, self._until(end) - self._until(begin))

    def _until(self, epoch: Any) -> Any:
        return np.floor((self.offset + epoch) / self.every + 1e-9)
