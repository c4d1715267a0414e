"""`Source`: a sensor and when to read it."""

from __future__ import annotations

import math

from energyest.measure.sampling.counter_tick import CounterTick
from energyest.measure.sampling.steadiness import Steadiness
from energyest.measure.sensors.base import LateSensor, OftenSensor, Reading, Sensor

# Rounds are at least this far apart, and are put off by at most this.
SOON_S = 0.002
# A sensor that is to be read every so often is read in a round that begins this much too early.
_EARLY_S = 0.05


class Source:
    """A sensor and its schedule.

    Attributes:
        sensor: the sensor.
        name: name of its device.
        often: reads the cheap quantities; None if all are read each time.
        late: tells whether there is a reading, of a sensor that is read elsewhere; else None.
        tick: finds when its counter is updated.
        due_s: when to read all quantities, even between two beats; infinite if never.
        edge_s: the last edge of an epoch for which it is read.
        next_s: the earliest time of the next reading, if reading more often is of no use.
        counter_s: when its counter was updated to the last value read; NaN if unknown.
        least_s: the shortest time that reading all quantities took.
    """

    def __init__(self, sensor: Sensor) -> None:
        self.sensor = sensor
        self.name = sensor.device.device
        self.often = sensor if isinstance(sensor, OftenSensor) else None
        self.late = sensor if isinstance(sensor, LateSensor) else None
        self.tick = CounterTick()
        self.due_s = math.inf
        self.edge_s = -math.inf
        self.next_s = -math.inf
        self.counter_s = math.nan
        self.least_s = math.inf
        self._read_s = -math.inf
        self._every_s = float(getattr(sensor, "every_s", 0.0))
        self._power_is_steady = Steadiness()
        self._has_counter = False

    @property
    def whole_s(self) -> float:
        """Like `due_s`, or earlier, to find when its counter is updated."""
        return min(self.due_s, self.tick.again_s())

    def is_due(self, began_s: float, *, is_whole: bool, is_between: bool) -> bool:
        """Whether it is read in a round that began then."""
        if self.late is not None:
            try:
                return not is_between and self.late.has_news()
            except Exception:
                return True  # reading it will fail, too, and be reported
        is_due = self.next_s <= began_s and not is_between
        return is_due or is_whole or self.whole_s <= began_s + SOON_S

    def allows(self, interval_s: float) -> bool:
        """Whether nothing is lost by reading it this rarely while no epoch begins or ends.

        True where a counter has its energy and power is steady, or where readings are no more
        frequent anyway: a sensor that is read elsewhere holds its newest reading only.
        """
        if self.often is not None:
            return self._has_counter and bool(self._power_is_steady)
        return self._every_s >= interval_s

    def time_of(self, reading: Reading, now_s: float, first_s: float) -> float:
        """When a late reading was made: after the one before, and power within the run.

        A counter that was read before the run is left there: it has grown since.
        """
        least_s = first_s if math.isnan(reading.energy_J) else self._read_s
        self._read_s = min(max(reading.time_s, least_s, self._read_s), now_s)
        return self._read_s

    def gave(self, power_W: float) -> None:
        """Note the power that was read; NaN if that failed."""
        self._power_is_steady.add(power_W)

    def took(self, began_s: float, ended_s: float, counter_J: float) -> None:
        """Note that all quantities were read; the counter is NaN if that failed."""
        self._has_counter = not math.isnan(counter_J)
        if self.often is not None:
            self.least_s = min(self.least_s, ended_s - began_s)
            self.tick.see(began_s, ended_s, counter_J)
            self.counter_s = self.tick.renewed_s(began_s)
            # If its value dates from before the edge, read it again after the next update.
            is_early = self.edge_s > self.counter_s
            self.due_s = self.tick.after_s(began_s) if is_early else math.inf
        if self._every_s:
            self.next_s = began_s + self._every_s - _EARLY_S
