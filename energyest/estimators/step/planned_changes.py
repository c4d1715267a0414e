"""Planned changes of a training, such as unfreezing layers or a higher resolution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from energyest.checks import check_positive, is_number
from energyest.errors import EstimateError
from energyest.records.meta import read_objects
from energyest.records.trace import EnergyTrace

# Error scale of a guess from FLOPs, without and with a known load: the error that nine of ten
# changes of real trainings stay below, divided by the 90 % quantile of `interval`.
# `benchmarks/evidence/step_accuracy.py` prints both errors.
_FLOPS_ERROR = 0.14
_LOAD_ERROR = 0.07
# Assumed relative error of a ratio of energies that the user states.
_ENERGY_ERROR = 0.02
# Power of a GPU that waits for the next launch, as a share of its power limit. On an H100 and an
# H200 (limit 700 W), trainings that wait nearly all the time draw 100 to 150 W.
_WAITING = 1 / 6
# Power of a GPU that computes all the time, likewise; few trainings reach the limit.
_BUSY = 3 / 4


@dataclass(frozen=True)
class Effect:
    """The effect of a change on an epoch.

    Attributes:
        energy: energy of an epoch after the change ÷ energy before it.
        time: duration of an epoch after the change ÷ duration before it.
        error: scale of the relative error of both.
    """

    energy: float
    time: float
    error: float


@dataclass(frozen=True)
class PlannedChange:
    """A change of the energy per epoch that is known before it happens.

    Attributes:
        epoch: position of the first epoch (or interval, in a trace of intervals) after the change,
            counted from 0 at the start of the trace.
        flops_ratio: training FLOPs of an epoch after ÷ before the change. The energy is assumed to
            change by the same ratio, or by less if the GPU waits most of the time. None if
            unknown.
        energy_ratio: energy of an epoch after ÷ before the change, if you know it, for example
            from an earlier run; it takes precedence over `flops_ratio`.
        reason: what changes, for the assumptions of the estimate.

    Raises:
        EstimateError: the epoch is negative or a ratio is not positive.

    Examples:
        >>> from energyest import EnergyTrace, PlannedChange, estimate_step
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010, 4030], duration_s=[30, 24, 24, 24])
        >>> unfreeze = PlannedChange(epoch=30, flops_ratio=3)
        >>> estimate_step(trace, epochs=100, planned=[unfreeze]).energy_J > 2 * 403_000
        True
    """

    epoch: float
    flops_ratio: float | None = None
    energy_ratio: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if not (is_number(self.epoch) and math.isfinite(self.epoch) and self.epoch >= 0):
            raise EstimateError(f"PlannedChange: epoch={self.epoch!r} must be 0 or more")
        if not isinstance(self.reason, str):
            raise EstimateError(f"PlannedChange: reason={self.reason!r} must be text")
        for name in ("flops_ratio", "energy_ratio"):
            value = getattr(self, name)
            if value is not None:
                check_positive(value, f"PlannedChange: {name}", EstimateError)

    @property
    def is_known(self) -> bool:
        """Whether a ratio is given."""
        return self.flops_ratio is not None or self.energy_ratio is not None

    def effect(self, load: float | None) -> Effect:
        """The effect of the change on an epoch.

        FLOPs take time only to the extent that the GPU is busy, which its power shows: `busy` is 0
        at the power of a waiting GPU and 1 at the power of a GPU that computes all the time. If
        the work grows by a factor f, the time grows by max(1, busy f); if it shrinks, waiting time
        stays the same. The power above that of waiting scales with the work, the rest with time.

        Args:
            load: power of the GPUs before the change, as a share of their limits; None if
                unknown.
        """
        if self.energy_ratio is not None:
            return Effect(self.energy_ratio, self.energy_ratio, _ENERGY_ERROR)
        if self.flops_ratio is None:
            return Effect(1.0, 1.0, math.inf)
        work = self.flops_ratio
        if load is None:
            return Effect(work, work, _FLOPS_ERROR)
        busy = min(1.0, max(0.0, (load - _WAITING) / (_BUSY - _WAITING)))
        time = max(1.0, busy * work) if work >= 1 else 1 - busy + busy * work
        waiting = min(load, _WAITING)
        return Effect((waiting * time + (load - waiting) * work) / load, time, _LOAD_ERROR)

    def describe(self, unit: str) -> str:
        """Describe the change as an assumption of an estimate; `unit` is what `epoch` counts."""
        what = f"{self.reason or 'a planned change'} at {unit} {self.epoch:g}"
        if self.energy_ratio is not None:
            return f"{what} multiplies the energy by {self.energy_ratio:.3g}"
        if self.flops_ratio is not None:
            return f"{what} multiplies the FLOPs by {self.flops_ratio:.3g}"
        return f"{what} changes the energy by an unknown factor, assumed to be 1"


def planned_changes(
    trace: EnergyTrace, planned: Iterable[PlannedChange | Mapping[str, Any]] | None
) -> list[PlannedChange]:
    """The given changes, or else those that the monitor recorded, in order of epochs.

    Raises:
        EstimateError: an entry is neither a `PlannedChange` nor a mapping with its fields.
    """
    if planned is not None:
        if isinstance(planned, str | Mapping | PlannedChange) or not isinstance(planned, Iterable):
            raise EstimateError(
                f"planned={planned!r} must be a list, such as [PlannedChange(30, flops_ratio=3)]"
            )
        changes = [_as_change(entry) for entry in planned]
    else:
        changes = list(_recorded(trace))
    return sorted(changes, key=lambda change: change.epoch)


def _as_change(entry: PlannedChange | Mapping[str, Any]) -> PlannedChange:
    if isinstance(entry, PlannedChange):
        return entry
    if isinstance(entry, Mapping):
        try:
            return PlannedChange(**entry)
        except TypeError as error:
            raise EstimateError(f"planned change {dict(entry)!r}: {error}") from error
    raise EstimateError(
        f"planned change {entry!r} must be a PlannedChange, such as "
        "PlannedChange(30, flops_ratio=3), or a mapping with its fields"
    )


def _recorded(trace: EnergyTrace) -> Iterable[PlannedChange]:
    """The changes in the trace's meta, without invalid entries and those not yet known."""
    for entry in read_objects(trace.meta, "planned_changes"):
        known_since = entry.get("known_since", 0)
        if is_number(known_since) and known_since > len(trace):
            continue  # the head of a longer trace: it was not known by then
        fields = {
            name: entry.get(name) for name in ("epoch", "flops_ratio", "energy_ratio", "reason")
        }
        try:
            yield PlannedChange(**{n: v for n, v in fields.items() if v is not None})
        except (EstimateError, TypeError):
            continue


@dataclass(frozen=True)
class Weights:
    """The total cost of future epochs, in epochs of the present level.

    Attributes:
        energy: the sum of the factors of their energies.
        time: the sum of the factors of their durations.
        error: scale of the error of `energy` due to the changes.
        changes: the changes that take effect.
    """

    energy: float
    time: float
    error: float
    changes: list[PlannedChange]


def weights_of(
    changes: list[PlannedChange], begin: float, end: float, load: float | None
) -> Weights:
    """The total cost of the epochs from `begin` to `end`.

    Args:
        changes: future changes, in order of epochs.
        begin: where the future epochs begin.
        end: where they end.
        load: power of the GPUs on the present level as a share of their limits; None if unknown.
    """
    used = [change for change in changes if change.epoch < end]
    edges = [begin, *(max(float(change.epoch), begin) for change in used), end]
    effects = [Effect(1.0, 1.0, 0.0)]
    for change in used:
        last, effect = effects[-1], change.effect(load)
        if load is not None:
            load = min(1.0, load * effect.energy / effect.time)
        effects.append(
            Effect(
                last.energy * effect.energy,
                last.time * effect.time,
                math.hypot(last.error, effect.error),
            )
        )
    parts = np.diff(edges)
    energy = parts * [effect.energy for effect in effects]
    # The error of a change is the same in all epochs after it, so the errors add up.
    errors = [part * effect.error for part, effect in zip(energy, effects, strict=True) if part > 0]
    time = float(parts @ [effect.time for effect in effects])
    return Weights(float(energy.sum()), time, sum(errors), used)
