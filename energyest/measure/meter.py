"""Joules of one device up to any recent instant, from a stream of counter and power readings."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.integration import COUNTER_STALL_S, contradict, cumulative_energy
from energyest.measure.sensors.base import Device, Reading

log = logging.getLogger("energyest")

# Folding costs more than keeping: it is done once this many readings can be dropped.
_FOLD_AT = 256
# The most readings kept while an earlier instant may still be asked for.
_MOST_READINGS = 4096
# How long the counter is read more often after it first contradicts power; doubled each time.
_DOUBT_S = 10.0
# Readings that show a standstill of the counter are kept this long.
_KEPT_S = 2 * COUNTER_STALL_S
# Modelled power may be read less often: each reading is a mean since the last one.
_MAX_MODELLED_GAP_S = 60.0
# Beyond this share, counter and integrated power of a run contradict each other.
_DISAGREEMENT = 0.05


class MeterValue(NamedTuple):
    """State of a meter at an instant; only differences of two states are meaningful.

    Attributes:
        energy_J: joules since the first reading.
        covered_s: seconds since the first reading in which something was measured.
    """

    energy_J: float
    covered_s: float


class Meter:
    """An energy meter over a stream of readings, in bounded memory.

    Readings that no future query can affect are folded into one base value; the rest are integrated
    by `energyest.integration`.

    Args:
        max_gap_s: longest time between two power readings that is bridged.
        patience_s: how long the next reading of the device is waited for; by default as long.
        max_power_W: the most that the device can draw; a counter that rises faster is not credible.
        has_instant_power: whether each power reading is instantaneous.
    """

    def __init__(
        self,
        max_gap_s: float,
        *,
        patience_s: float | None = None,
        max_power_W: float = math.inf,
        has_instant_power: bool = False,
    ) -> None:
        self._max_gap_s = max_gap_s
        #: How long the next reading of the device is waited for.
        self.patience_s = max_gap_s if patience_s is None else patience_s
        self._max_power_W = max_power_W
        self._has_instant_power = has_instant_power
        # The value up to an instant: the time of the first reading, until readings are folded.
        self._base, self._base_s = MeterValue(0.0, 0.0), math.nan
        self._time = array("d")
        self._power = array("d")
        self._counter = array("d")
        self._counter_s = array("d")
        #: Number of readings without any value.
        self.failed_readings = 0
        #: Up to when the energy is known: by the counter, if there is one, else by power. While a
        #: counter stands still nothing is known: it may be stuck, and power may have to be used.
        self.read_until_s = -math.inf
        #: When the device last gave any value.
        self.heard_s = -math.inf
        #: Until then, the counter is to be read as often as power, because they have differed.
        self.in_doubt_until_s = -math.inf
        self._doubt_s = _DOUBT_S
        self._has_counter = False
        self._moved_s, self._moved_to_J = -math.inf, math.nan
        self._by_power = PowerIntegral(max_gap_s)
        self._busy = MeanShare()
        # The last counter reading: time, joules, and joules by power. The highest power from the
        # power reading before it on. The last two power readings.
        self._counter_at: tuple[float, float, float] | None = None
        self._most_W = 0.0
        self._last_W = (0.0, 0.0)

    def add(self, reading: Reading, counter_s: float = math.nan) -> None:
        """Take in a reading; readings must come in order of time.

        Args:
            reading: the reading.
            counter_s: when its counter was updated to the value read; NaN if unknown.
        """
        time_s, power_W, counter_J = reading.time_s, reading.power_W, reading.energy_J
        self._busy.add(time_s, reading.utilization)
        if math.isfinite(counter_J):
            self._has_counter = True
        elif not math.isfinite(power_W):
            self.failed_readings += 1
            return
        self.heard_s = time_s
        self._by_power.add(reading)
        if math.isfinite(power_W):
            self._last_W = (self._last_W[1], power_W)
            self._most_W = max(self._most_W, power_W)
        if math.isfinite(counter_J):
            self._compare(time_s, counter_J)
            if counter_J != self._moved_to_J:
                self._moved_s, self._moved_to_J = time_s, counter_J
            if time_s == self._moved_s or time_s - self._moved_s > COUNTER_STALL_S or power_W == 0:
                shown_s = counter_s if math.isfinite(counter_s) else time_s
                self.read_until_s = max(self.read_until_s, shown_s)
        elif not self._has_counter:
            self.read_until_s = time_s
        if not self._time:
            self._base_s = time_s
        self._time.append(time_s)
        self._power.append(power_W)
        self._counter.append(counter_J)
        self._counter_s.append(counter_s)
        if len(self._time) > _MOST_READINGS:
            self._fold(len(self._time) - _FOLD_AT)

    @property
    def utilization(self) -> float:
        """Mean share of the time in which the device was busy; NaN if it was not read."""
        return self._busy.mean

    def value_at(self, at_s: float) -> MeterValue:
        """Energy and covered time up to an instant after the last `forget`."""
        energy_J, covered_s = self.values_at([at_s])
        return MeterValue(float(energy_J[0]), float(covered_s[0]))

    def values_at(
        self, at_s: Sequence[float], now_s: float = -math.inf
    ) -> tuple[FloatArray, FloatArray]:
        """Energy and covered time up to each of several instants; cheaper than one by one.

        Args:
            at_s: the instants.
            now_s: the time of the query: power is not assumed to continue for a device that has not
                been read for long.
        """
        at = np.asarray(at_s, dtype=np.float64)
        if not self._time:
            return np.full_like(at, self._base.energy_J), np.full_like(at, self._base.covered_s)
        # Copies: an array cannot grow while a view of it exists.
        energy_J, missing_s = cumulative_energy(
            np.array(self._time),
            np.array(self._power),
            np.append(at, self._base_s),
            counter_J=np.array(self._counter) if self._has_counter else None,
            counter_s=np.array(self._counter_s) if self._has_counter else None,
            max_gap_s=self._max_gap_s,
            max_power_W=self._max_power_W,
            has_instant_power=self._has_instant_power,
            now_s=now_s,
        )
        covered_s = (at - self._base_s) - (missing_s[:-1] - missing_s[-1])
        return (
            self._base.energy_J + energy_J[:-1] - energy_J[-1],
            self._base.covered_s + covered_s,
        )

    def forget(self, before_s: float) -> None:
        """Drop readings that no query from `before_s` on needs."""
        if len(self._time) < _FOLD_AT:
            return
        # The first reading kept must hold all quantities of the device: without the counter, the
        # energy up to the next counter reading would be lost.
        time, counter = np.array(self._time), np.array(self._counter)
        read = [np.isfinite(column) for column in (self._power, counter)]
        whole = np.logical_and.reduce([column for column in read if column.any()])
        if read[1].any():
            whole &= _shows_standstill(time, counter)
        usable = np.flatnonzero(whole & (time <= before_s - _KEPT_S))
        if len(usable) and time[usable[-1]] > self._base_s:
            self._fold(int(usable[-1]))

    def _fold(self, first: int) -> None:
        self._base, self._base_s = self.value_at(self._time[first]), self._time[first]
        # The counter may have been updated a moment earlier: keep power from then on, and the
        # reading before, by which the counter is judged.
        shown_s = self._counter_s[first]
        while first > 0 and self._time[first] > shown_s:
            first -= 1
        first = max(0, first - 1)
        for column in (self._time, self._power, self._counter, self._counter_s):
            del column[:first]

    def _compare(self, time_s: float, counter_J: float) -> None:
        """Check whether power and counter have contradicted each other since the last reading."""
        by_power_J = self._by_power.energy_J
        if self._counter_at is not None and self._has_instant_power:
            since_s, since_J, owed_J = self._counter_at
            if contradict(
                counter_J - since_J,
                by_power_J - owed_J,
                time_s - since_s,
                self._most_W,
            ):
                self.in_doubt_until_s = time_s + self._doubt_s
                self._doubt_s *= 2
        self._counter_at, self._most_W = (time_s, counter_J, by_power_J), max(self._last_W)


def _shows_standstill(time: FloatArray, counter_J: FloatArray) -> NDArray[np.bool_]:
    """For each counter reading, whether the readings from it on still show a standstill as one.

    If only the end of a standstill were kept, the counter would seem up to date, and energy already
    counted from power would be counted as 0.
    """
    shows = np.isfinite(counter_J)
    read_s, read_J = time[shows], counter_J[shows]
    moved = np.append(True, np.diff(read_J) != 0)
    last = np.append(np.flatnonzero(moved)[1:], len(read_s)) - 1
    still_until_s = read_s[last[np.cumsum(moved) - 1]]
    # The readings at the start of a standstill, or well before its end.
    shows[shows] = moved | (still_until_s - read_s > _KEPT_S)
    return shows


class MeanShare:
    """The mean of a share over time, by the trapezoid rule."""

    def __init__(self) -> None:
        self._first_s, self._last_s, self._last = math.nan, math.nan, math.nan
        self._sum_s = 0.0

    def add(self, time_s: float, share: float) -> None:
        """Take in a value; values must come in order of time, and NaN is left out."""
        if not math.isfinite(share):
            return
        if math.isnan(self._first_s):
            self._first_s = time_s
        else:
            self._sum_s += (time_s - self._last_s) * (share + self._last) / 2
        self._last_s, self._last = time_s, share

    @property
    def mean(self) -> float:
        """The mean so far; NaN if there was no value."""
        span_s = self._last_s - self._first_s
        return min(self._sum_s / span_s, 1.0) if span_s > 0 else self._last


class PowerIntegral:
    """Joules of one device from its power alone, by the trapezoid rule.

    Args:
        max_gap_s: longest time between two readings that is bridged.
    """

    def __init__(self, max_gap_s: float) -> None:
        self._max_gap_s = max_gap_s
        # The newest reading: time, watts, joules up to it. One tuple, so that other threads see a
        # consistent state.
        self._newest = -math.inf, math.nan, 0.0
        #: Time of the first reading after the last gap that was not bridged.
        self.unbroken_since_s = -math.inf

    @property
    def energy_J(self) -> float:
        """Joules from the first reading to the last."""
        return self._newest[2]

    def add(self, reading: Reading) -> None:
        """Take in a reading; readings must come in order of time."""
        time_s, power_W = reading.time_s, reading.power_W
        if math.isfinite(power_W):
            before_s, before_W, energy_J = self._newest
            since_s = time_s - before_s
            if since_s <= self._max_gap_s:
                energy_J += since_s * (before_W + power_W) / 2
            else:
                self.unbroken_since_s = time_s
            self._newest = time_s, power_W, energy_J

    def energy_at_J(self, time_s: float) -> float:
        """Joules up to about now, assuming the last power continues; NaN if it is too old."""
        last_s, power_W, energy_J = self._newest
        since_s = time_s - last_s
        return energy_J + since_s * power_W if since_s <= self._max_gap_s else math.nan


def meter_of(device: Device, max_gap_s: float) -> Meter:
    """A meter for a device.

    Args:
        device: the device.
        max_gap_s: the longest time between two power readings that is bridged, if the device does
            not say otherwise.
    """
    patience_s = max(max_gap_s, device.bridged_s) if device.bridged_s > 0 else max_gap_s
    return Meter(
        max(patience_s, _MAX_MODELLED_GAP_S) if device.source == "modelled" else patience_s,
        patience_s=patience_s,
        max_power_W=device.most_power_W,
        has_instant_power=device.has_instant_power,
    )


def report_disagreements(
    meters: Mapping[str, Meter], integrals: Mapping[str, PowerIntegral], at_s: float
) -> None:
    """Warn about devices whose counter and integrated power differ over a whole run.

    Args:
        meters: device name -> its meter.
        integrals: device name -> its integral of power.
        at_s: the end of the run.
    """
    for name, meter in meters.items():
        counter_J, integral_J = meter.value_at(at_s).energy_J, integrals[name].energy_J
        if counter_J > 0 and integral_J > 0:
            difference = integral_J / counter_J - 1
            if abs(difference) > _DISAGREEMENT:
                log.warning(
                    "energyest: over the run, %s integrated from its power differs from its "
                    "energy counter by %+.1f %%; the trace follows the counter",
                    name,
                    100 * difference,
                )
