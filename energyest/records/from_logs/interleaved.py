"""Detect readings of several devices in one series, from the pattern of times and power."""

from __future__ import annotations

import numpy as np

from energyest.arrays import FloatArray

# nvidia-smi reads all devices in turn and then waits: each wait is at least this many times as long
# as any step from one device to the next.
_WAIT = 4.0
# This many rounds in a row are not chance; in a short log, fewer suffice if they are most of it.
_MANY_ROUNDS, _FEW_ROUNDS, _MOST_OF_IT = 20, 4, 0.8
_MOST_DEVICES = 64
# Of more devices than a host usually has, few rounds may be chance: a log with gaps looks alike.
_DEVICES_OF_A_HOST = 16
# Relative change of power from reading to reading, and that over a whole round, as a share of it.
_CHANGE, _ALIKE = 0.1, 0.2
_MOST_LEVELS = 4


def devices_in_turn(time_s: FloatArray) -> int:
    """The number of devices that seem to be read in turn: readings close together, a wait, ...

    Args:
        time_s: shape (readings,), seconds, not decreasing.

    Returns:
        The number of readings in each group; 1 if they come one by one.
    """
    step_s = np.diff(time_s)
    if (step_s == 0).any():
        at_once = np.diff(np.flatnonzero(np.concatenate([[True], step_s > 0, [True]])))
        if at_once[0] > 1 and (at_once == at_once[0]).all() and len(at_once) > 1:
            return int(at_once[0])
    around_s = np.maximum(step_s[:-2], step_s[2:])
    waits = 1 + np.flatnonzero((step_s[1:-1] > 0) & (step_s[1:-1] >= _WAIT * around_s))
    if len(waits) < 2:
        return 1
    # Complete rounds: from one wait to the next.
    size, wait_s = np.diff(waits), np.minimum(step_s[waits[1:]], step_s[waits[:-1]])
    is_inside = np.ones(len(step_s), dtype=np.bool_)
    is_inside[waits] = False
    longest_s = np.maximum.reduceat(np.where(is_inside, step_s, 0.0), waits)[:-1]
    size = np.where((_WAIT * longest_s <= wait_s) & (size <= _MOST_DEVICES), size, 0)
    # Runs of rounds of equal size; one more lies before the first wait, and one after the last.
    first = np.flatnonzero(np.append(True, np.diff(size) != 0))
    rounds, size = np.diff(np.append(first, len(size))) + 2, size[first]
    is_most = (rounds >= _FEW_ROUNDS) & (rounds * size >= _MOST_OF_IT * len(time_s))
    is_most &= size <= _DEVICES_OF_A_HOST
    is_run = (size > 0) & (is_most | (rounds >= _MANY_ROUNDS))
    return int(size[np.argmax(is_run)]) if is_run.any() else 1


def devices_by_power(power_W: FloatArray) -> int:
    """The number of levels between which power alternates, as with devices read in turn.

    A single device can look the same if its load changes as fast as it is read.

    Args:
        power_W: shape (readings,), watts; NaN where a reading failed.

    Returns:
        The number of levels; 1 if power does not alternate.
    """
    known_W = power_W[np.isfinite(power_W)]
    if len(known_W) < _MOST_LEVELS * _MANY_ROUNDS:
        return 1
    change_W = np.median(np.abs(np.diff(known_W)))
    if change_W <= _CHANGE * np.median(known_W):
        return 1
    for levels in range(2, _MOST_LEVELS + 1):
        if np.median(np.abs(known_W[levels:] - known_W[:-levels])) <= _ALIKE * change_W:
            return levels
    return 1
