"""Since when has a training cost the same per epoch? Detection of the current regime."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from energyest.errors import EstimateError, NotStableError
from energyest.estimators.checks import check_trace
from energyest.estimators.fluss import fluss_epoch
from energyest.integration import FloatArray
from energyest.trace import EnergyTrace

# A regime is believed from this many epochs on: two agree too easily by chance.
MIN_EPOCHS = 3
# Noise is taken to be at least this share of the level: the estimate from a handful of nearly
# equal epochs can be arbitrarily small.
LEAST_NOISE = 0.02
# The improvement in squared error, in units of the noise variance, that a change point must bring,
# per log of the number of epochs: the penalty of the strengthened Schwarz criterion as used for
# change points (Fryzlewicz, "Wild binary segmentation", Annals of Statistics 42, 2014).
PENALTY = 3.0


@dataclass(frozen=True)
class Regime:
    """The stretch of epochs that the training is in now.

    Attributes:
        start: position of its first epoch.
        epochs: number of epochs measured in it.
    """

    start: int
    epochs: int

    @property
    def is_stable(self) -> bool:
        """Whether it has lasted long enough to be believed."""
        return self.epochs >= MIN_EPOCHS

    @property
    def missing_epochs(self) -> int:
        """How many more epochs it takes, at the least."""
        return max(0, MIN_EPOCHS - self.epochs)


def current_regime(values: FloatArray) -> Regime:
    """The last stretch of `values` without a change of level.

    Binary segmentation from the right: the sequence is split where the fit of two levels is best,
    as long as that improves the squared error by more than a penalty; of two stretches the later
    is examined further. The first regime may be a single (cold) epoch. A single epoch that stands
    out between two others (a checkpoint, a validation every so often) is no change of level; nor
    is the last epoch, if the level has seen the like of it before.

    Args:
        values: shape (epochs,), for example joules per epoch; finite.
    """
    regime = _last_stretch(values)
    if regime.epochs == 1 and regime.start > 0:
        before = _last_stretch(values[:-1])
        if before.is_stable and _has_happened_before(values[before.start :]):
            return Regime(before.start, before.epochs + 1)
    return regime


def _last_stretch(values: FloatArray) -> Regime:
    # In units of the largest, so that no square overflows.
    scale = float(np.abs(values).max(initial=0.0))
    scaled = values / scale if scale > 0 else values
    variance = _noise_variance(scaled)
    start = 0
    while True:
        # Blips are looked for within the stretch: at its beginning, a cold epoch is none.
        split = _best_split(_without_blips(scaled[start:]), variance, len(values))
        if split is None:
            return Regime(start, len(values) - start)
        start += split


def _has_happened_before(values: FloatArray) -> bool:
    """Whether the last value stands out about as one inside did."""
    earlier = values[:-1]
    blips = earlier - _without_blips(earlier)
    last = values[-1] - float(np.median(earlier))
    return bool((blips * np.sign(last) >= abs(last) / 2).any())


def find_stable_epoch(trace: EnergyTrace, method: str = "changepoint") -> int:
    """The first epoch of the regime that the training is in now.

    Args:
        trace: the epochs measured so far.
        method: `"changepoint"`, the change of level in the energy per epoch that came last; or
            `"fluss"`, the paper's segmentation of the whole power series (extra `fluss`).

    Returns:
        The position of that epoch in the trace, counted from 0.

    Raises:
        NotStableError: that regime holds fewer than `MIN_EPOCHS` epochs as yet.
        EstimateError: there is no such method, or too few readings for it.
        MissingDependencyError: the method needs a package that is not installed.
    """
    check_trace(trace)
    if method == "fluss":
        return fluss_epoch(trace)
    if method != "changepoint":
        raise EstimateError(f"method={method!r} is not known: it is 'changepoint' or 'fluss'")
    positions, energy_J = measured_epochs(trace)
    regime = current_regime(energy_J)
    if not regime.is_stable:
        raise NotStableError(
            unstable_message(regime, len(positions)), missing_epochs=regime.missing_epochs
        )
    return int(positions[regime.start])


def measured_epochs(trace: EnergyTrace) -> tuple[NDArray[np.intp], FloatArray]:
    """Positions and energies in joules of the epochs whose energy was measured."""
    energy_J = trace.column("energy_J")
    positions = np.flatnonzero(np.isfinite(energy_J))
    return positions, energy_J[positions]


def unstable_message(regime: Regime, measured: int) -> str:
    """Why there is nothing to project from yet."""
    if measured == 0:
        why = "no epoch was measured"
    elif regime.start:
        why = f"the energy per epoch changed at epoch {regime.start}, {regime.epochs} epoch(s) ago"
    else:
        why = f"only {measured} epoch(s) were measured"
    return (
        f"not stable yet: {why}; a projection needs {MIN_EPOCHS} epochs of one level, so at "
        f"least {regime.missing_epochs} more"
    )


def _noise_variance(values: FloatArray) -> float:
    """Variance of the epoch-to-epoch noise, robust against changes of level."""
    if len(values) < 2:
        return math.inf
    level = abs(float(np.median(values)))
    # Differences of neighbours see a change of level once; their median hardly does, and the
    # lower of two middle ones keeps a cold first epoch from passing for noise among three.
    steps = np.sort(np.abs(np.diff(values)))
    # 1.4826 turns a median absolute deviation into a standard deviation, sqrt(2) one of
    # differences into one of values.
    spread = 1.4826 * float(steps[(len(steps) - 1) // 2]) / math.sqrt(2)
    return float(max(spread, LEAST_NOISE * level, np.finfo(np.float64).tiny)) ** 2


def _without_blips(values: FloatArray) -> FloatArray:
    """The running median of three; the ends stay as they are."""
    if len(values) < 3:
        return values
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([values[:1], inner, values[-1:]])


def _best_split(values: FloatArray, variance: float, total: int) -> int | None:
    n = len(values)
    if n < 2:
        return None
    sums = np.cumsum(values)
    left = np.arange(1, n)
    right = n - left
    shift = (sums[-1] - sums[:-1]) / right - sums[:-1] / left
    # What two levels gain over one in squared error.
    gain = left * right / n * shift**2
    best = int(np.argmax(gain))
    return best + 1 if gain[best] > PENALTY * math.log(max(total, 3)) * variance else None
