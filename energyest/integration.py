"""From readings to joules: pure functions on arrays, without clocks, threads or files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from energyest.arrays import FloatArray

# Power readings further apart than this leave a gap in a trace.
MAX_GAP_S = 5.0
# So do those further apart than this many times the usual: two readings in a row may fail, and the
# next may be late.
GAP_TIMES = 3.5
# A counter adds, in one step, the energy since its last update: 0.1 s on an H100.
COUNTER_SLACK_S = 0.5
# A counter that does not move for this long while power is drawn is stuck.
COUNTER_STALL_S = 2.0


# The step that ends a standstill must supply at least this share of the energy by power.
_LEAST_MADE_UP = 0.8
# Over a shorter span, a power reading is a single sample: the counter's rise is spread evenly.
_SPREAD_EVENLY_S = 0.25
# Over a longer span, counter and power agree roughly, or one of them is wrong: on an H200 they
# differed by up to 6 % over 4 s, 20 % over 1 s and 34 % over 0.5 s, also with bursts of 30 ms.
_COMPARED_S = 0.45
_MOST_DIFFERENCE = 0.12
_DIFFERENCE_S = 0.15


class Cumulative(NamedTuple):
    """Energy and unmeasured time from the first usable reading up to some instants.

    Attributes:
        energy_J: shape (m,), joules. Only differences between instants are meaningful.
        missing_s: shape (m,), seconds up to each instant in which nothing was measured.
    """

    energy_J: FloatArray
    missing_s: FloatArray


def cumulative_energy(
    time_s: ArrayLike,
    power_W: ArrayLike,
    at_s: ArrayLike,
    *,
    counter_J: ArrayLike | None = None,
    counter_s: ArrayLike | None = None,
    max_gap_s: float = math.inf,
    max_power_W: float = math.inf,
    has_instant_power: bool = False,
    now_s: float = -math.inf,
) -> Cumulative:
    """Compute the energy drawn up to each instant, from an energy counter or else from power.

    Between two counter readings the energy is their difference. Power determines how this energy
    is spread over the time between them; if the readings are close together, or power was not read
    throughout, it is spread evenly. Power is integrated instead (trapezoid rule, with the power at
    an edge interpolated) before the counter's first and after its last reading, and where the
    counter is not credible. That is where it falls (it wrapped or restarted), rises faster than
    `max_power_W`, stands still for seconds (unless power was read as 0 meanwhile), or contradicts
    the power.

    Args:
        time_s: shape (n,), seconds on any clock, not decreasing.
        power_W: shape (n,), watts; NaN where a reading failed.
        at_s: shape (m,), the instants.
        counter_J: shape (n,), a cumulative energy counter; NaN where it was not read.
        counter_s: shape (n,), when the counter was updated to the value read, if known: a counter
            is updated about ten times a second. NaN, or omitted: when it was read.
        max_gap_s: power readings further apart than this leave a gap, whose time is counted as
            missing and adds no energy. After the last reading, the last power is assumed to
            continue for at most this long. A gap that the counter covers is not missing.
        max_power_W: the most that the device can draw.
        has_instant_power: whether each power reading is instantaneous. If not, it may be a mean
            over seconds, or modelled, and is not used to contradict the counter.
        now_s: the time up to which readings could have arrived. If there was no power reading for
            longer than `max_gap_s` before it, the last power is not assumed to continue: this is
            a gap.

    Returns:
        Energy in joules and missing time in seconds at each instant.
    """
    time = np.asarray(time_s, dtype=np.float64)
    power = np.asarray(power_W, dtype=np.float64)
    at = np.asarray(at_s, dtype=np.float64)
    by_power = _from_power(time, power, at, max_gap_s, now_s)
    if counter_J is None:
        return by_power
    counter = np.asarray(counter_J, dtype=np.float64)
    read = np.isfinite(counter)
    if np.count_nonzero(read) < 2:
        return by_power

    tick_s, tick_J = time[read], counter[read]
    if counter_s is not None:
        shown_s = np.asarray(counter_s, dtype=np.float64)[read]
        tick_s = np.maximum.accumulate(np.where(np.isnan(shown_s), tick_s, shown_s))
    at_ticks = _from_power(time, power, tick_s, max_gap_s, now_s)
    rise_J = np.diff(tick_J)
    usable = _believable(tick_s, tick_J, at_ticks, max_power_W)
    if has_instant_power:
        owed_J = np.diff(at_ticks.energy_J)
        differ = contradict(rise_J, owed_J, np.diff(tick_s), _highest(time, power, tick_s))
        usable &= ~(differ & (np.diff(at_ticks.missing_s) == 0))
    segment_J = np.where(usable, rise_J, np.diff(at_ticks.energy_J))
    segment_missing_s = np.where(usable, 0.0, np.diff(at_ticks.missing_s))
    ticks_J = np.concatenate([[0.0], np.cumsum(segment_J)])
    ticks_missing_s = np.concatenate([[0.0], np.cumsum(segment_missing_s)])

    # Start from the tick before each instant and follow the power curve to the instant, unless
    # the instant lies inside a usable segment of the counter.
    before = np.clip(np.searchsorted(tick_s, at, side="right") - 1, 0, len(tick_s) - 1)
    energy = ticks_J[before] + by_power.energy_J - at_ticks.energy_J[before]
    missing = ticks_missing_s[before] + by_power.missing_s - at_ticks.missing_s[before]
    segment = np.minimum(before, len(rise_J) - 1)
    inside = (at >= tick_s[0]) & (at <= tick_s[-1]) & usable[segment] & (before == segment)
    # Spread by power where it was read throughout, else by time.
    span_s, span_J = np.diff(tick_s)[segment], np.diff(at_ticks.energy_J)[segment]
    is_shaped = (span_s > _SPREAD_EVENLY_S) & (span_J > 0)
    is_shaped &= np.diff(at_ticks.missing_s)[segment] == 0
    part = np.where(is_shaped, by_power.energy_J - at_ticks.energy_J[segment], at - tick_s[segment])
    whole = np.where(is_shaped, span_J, span_s)
    share = np.divide(part, whole, out=np.ones_like(part), where=whole > 0)
    energy = np.where(inside, ticks_J[segment] + share * rise_J[segment], energy)
    missing = np.where(inside, ticks_missing_s[segment], missing)
    return Cumulative(energy, missing)


def _believable(
    tick_s: FloatArray, tick_J: FloatArray, by_power: Cumulative, max_power_W: float
) -> NDArray[np.bool_]:
    """For each pair of neighbouring counter readings, whether their difference is credible."""
    rise_J = np.diff(tick_J)
    usable = (rise_J >= 0) & (rise_J <= max_power_W * (np.diff(tick_s) + COUNTER_SLACK_S))
    # Neighbouring readings are often equal, because counters are updated about as often as they
    # are read: the step that ends a standstill makes up for it. A long standstill is a fault,
    # unless no power was drawn. So is a shorter one that no step makes up for: one that has not
    # ended, or that ended in a step that is not credible or far too small. A faulty standstill
    # also discards the step that ends it and the step before it, during which it may have begun.
    # The step before is kept if it is long, or makes up for another standstill, as with a counter
    # that is updated once a second: its energy has been counted already.
    first = np.flatnonzero(np.append(True, rise_J != 0))
    last = np.append(first[1:], len(tick_s)) - 1
    without_power = (by_power.energy_J[last] <= by_power.energy_J[first]) & (
        by_power.missing_s[last] <= by_power.missing_s[first]
    )
    still_s = np.where(without_power, 0.0, tick_s[last] - tick_s[first])
    for i in np.flatnonzero(still_s > COUNTER_SLACK_S):
        end = last[i] + 1
        is_made_up_for = end < len(tick_s) and usable[last[i]]
        if is_made_up_for:
            owed_J = by_power.energy_J[end] - by_power.energy_J[first[i]]
            is_made_up_for = rise_J[last[i]] >= _LEAST_MADE_UP * owed_J
        if still_s[i] > COUNTER_STALL_S or not is_made_up_for:
            before_s = tick_s[first[i]] - tick_s[first[i - 1]] if i > 0 else math.inf
            usable[first[i] - (before_s <= COUNTER_SLACK_S) : last[i] + 1] = False
    return usable


def contradict(
    rise_J: FloatArray | float,
    owed_J: FloatArray | float,
    span_s: FloatArray | float,
    most_W: FloatArray | float,
) -> NDArray[np.bool_]:
    """Whether a counter and instantaneous power contradict each other.

    Each argument is one number or an array.

    Args:
        rise_J: the rise of the counter.
        owed_J: energy over the same span, integrated from power.
        span_s: length of the span.
        most_W: the highest power in the span, including the last reading before it.
    """
    slack_J = np.multiply(_DIFFERENCE_S, most_W)
    differs = np.abs(np.subtract(rise_J, owed_J)) > np.multiply(_MOST_DIFFERENCE, owed_J) + slack_J
    return np.logical_and(np.greater(span_s, _COMPARED_S), differs)


def _highest(time: FloatArray, power: FloatArray, tick_s: FloatArray) -> FloatArray:
    """The highest power between neighbouring counter readings, including the last one before them.

    The last one before counts because the counter may lag. No other reading outside the span does:
    whether a difference is credible must not depend on later readings, or on forgotten ones.
    """
    read = np.isfinite(power)
    # One value more, so that each span has an end.
    read_s, read_W = time[read], np.append(power[read], 0.0)
    first = np.maximum(np.searchsorted(read_s, tick_s[:-1], side="left") - 1, 0)
    end = np.minimum(np.searchsorted(read_s, tick_s[1:], side="left") + 1, len(read_s))
    highest_W: FloatArray = np.maximum.reduceat(read_W, np.column_stack([first, end]).ravel())[::2]
    return highest_W


def energy_between(
    time_s: ArrayLike,
    power_W: ArrayLike,
    start_s: float,
    end_s: float,
    *,
    counter_J: ArrayLike | None = None,
    max_gap_s: float = math.inf,
    max_power_W: float = math.inf,
) -> float:
    """Joules between two instants; NaN if part of the time was not measured.

    Arguments as for `cumulative_energy`.
    """
    energy_J, missing_s = cumulative_energy(
        time_s,
        power_W,
        [start_s, end_s],
        counter_J=counter_J,
        max_gap_s=max_gap_s,
        max_power_W=max_power_W,
    )
    return float(energy_J[1] - energy_J[0]) if missing_s[1] <= missing_s[0] else math.nan


def _from_power(
    time: FloatArray, power: FloatArray, at: FloatArray, max_gap_s: float, now_s: float
) -> Cumulative:
    read = np.isfinite(power)
    if not read.any():
        return Cumulative(np.zeros_like(at), at - (time[0] if len(time) else 0.0))
    t, p = time[read], power[read]
    dt = np.diff(t)
    measured = dt <= max_gap_s
    knots_J = np.concatenate([[0.0], np.cumsum(np.where(measured, dt * (p[1:] + p[:-1]) / 2, 0))])
    knots_missing_s = np.concatenate([[0.0], np.cumsum(np.where(measured, 0.0, dt))])

    i = np.clip(np.searchsorted(t, at, side="right") - 1, 0, len(t) - 1)
    since_s = at - t[i]
    slope = np.append(np.divide(np.diff(p), dt, out=np.zeros_like(dt), where=dt > 0), 0.0)[i]
    bridged = np.append(measured, True)[i]
    longest_s = max_gap_s if now_s - t[-1] <= max_gap_s else 0.0
    held_s = np.where(i == len(t) - 1, np.clip(since_s, 0.0, longest_s), since_s)
    held_s = np.where(bridged & (since_s >= 0), held_s, 0.0)
    energy = knots_J[i] + p[i] * held_s + slope * held_s**2 / 2
    # Time that was not integrated is missing. Before the first reading the difference is negative,
    # so the time from an early instant to the first reading comes out as missing too.
    return Cumulative(energy, knots_missing_s[i] + since_s - held_s)


def energy_outside(
    devices: Iterable[Sequence[FloatArray]],
    starts_s: FloatArray,
    ends_s: FloatArray,
) -> tuple[float, float]:
    """What devices used before, between and after the epochs of a run.

    Args:
        devices: of each device, the `time_s`, `power_W` and counter (joules) of its readings.
        starts_s: shape (epochs,), when the epochs began, finite.
        ends_s: shape (epochs,), when they ended.

    Returns:
        The energy in joules, NaN if a device was never read; and the longest time covered, in s.
    """
    outside_J, longest_s = 0.0, 0.0
    for time_s, power_W, counter_J in devices:
        first_s = min([time_s[0], *starts_s[:1]])
        last_s = max([time_s[-1], *ends_s[-1:]])
        longest_s = max(longest_s, last_s - first_s)
        energy_J, missing_s = cumulative_energy(
            time_s,
            power_W,
            np.concatenate([[first_s, last_s], starts_s, ends_s]),
            counter_J=counter_J,
        )
        n = len(starts_s)
        inside_J = energy_J[2 + n :].sum() - energy_J[2 : 2 + n].sum()
        outside_J += float(energy_J[1] - energy_J[0] - inside_J)
        if np.isnan(power_W).all() and missing_s[1] > missing_s[0]:
            outside_J = math.nan
    return outside_J, longest_s
