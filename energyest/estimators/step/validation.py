"""The validations of a training: their cost so far, and the number of remaining ones."""

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
# A recorded schedule with more validations per epoch is damaged.
_MOST_IN_AN_EPOCH = 1e6


@dataclass(frozen=True)
class ToCome:
    """The cost of validations: joules, scale of the error in joules, and seconds."""

    energy_J: float = 0.0
    error_J: float = 0.0
    duration_s: float = 0.0


class Validations:
    """The validations in a trace.

    Attributes:
        in_each: whether every known epoch includes validation. It is then projected as part of the
            epoch: the boundary between the two is less precise than those of epochs, and separate
            projections would add noise to both.
        energy_J: shape (epochs,), validation energy per epoch; NaN if unknown, 0 without any.
        duration_s: shape (epochs,), validation time per epoch, likewise.
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
                # A row of a trace of intervals may contain several validations.
                number = np.maximum(number, self._schedule.between(known, known + 1))
            self._level = current_level(energy_J[known] / number)
            self._level_s = self._level.average(duration_s[known] / number)

    def unread(self, epoch: int) -> ToCome:
        """The validation cost of an epoch whose energy was not measured."""
        if self._level is None:
            return ToCome()
        if self._schedule is not None:
            number = float(self._schedule.between(epoch, epoch + 1))
        else:
            number = float(epoch in self._positions)
        return ToCome(number * self._level.mean)

    def to_come(self, total: float, training_J: float, training_s: float) -> ToCome:
        """The cost of the remaining validations.

        Args:
            total: number of epochs of the whole training.
            training_J: training energy per epoch, for a guess before the first validation.
            training_s: training time per epoch in seconds, likewise.
        """
        measured = self._trace.epochs_done
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
    """The validation schedule recorded by the monitor.

    Attributes:
        every: epochs (or intervals) from one validation to the next.
        offset: number of epochs of this training before the trace began.
        training_share: batches of a validation ÷ training batches of an epoch; None if unknown.
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
        # For intervals, the offset of a resumed training is unknown.
        return cls(every, first or 0.0 if trace.unit == "epoch" else 0.0, share)

    def between(self, begin: Any, end: Any) -> Any:
        """Number of validations in the epochs from `begin` until `end`; numbers or arrays."""
        # A last epoch that is cut short is not validated.
        return np.maximum(0.0, self._until(end) - self._until(begin))

    def _until(self, epoch: Any) -> Any:
        return np.floor((self.offset + epoch) / self.every + 1e-9)
