"""Energy counters that wrap or restart, and the sensor that reads a sum of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from energyest.measure.sensors.base import Device, Reading


def read_number(path: Path) -> float:
    """The number in a file of the kernel.

    Raises:
        OSError: the file cannot be read.
        ValueError: it does not hold a number.
    """
    return float(path.read_text(encoding="ascii"))


def number_or_nan(path: Path) -> float:
    """The number in a file of the kernel; NaN if there is none."""
    try:
        return read_number(path)
    except (OSError, ValueError):
        return math.nan


class EnergyCounter:
    """One energy counter, continued beyond its wraps.

    A counter that falls has wrapped, unless more would then have been drawn than the device can
    draw: in that case it has restarted, and what it counted since the last reading is unknown. This
    is also unknown if so much time has passed that it may have wrapped more than once. The sum then
    falls, by which the meter knows that the counter cannot be used across this reading.

    Args:
        ask: reads the counter; raises OSError or ValueError if it cannot be read.
        unit_J: joules of a count.
        range_J: joules after which it starts again from 0; infinite if it does not.
        most_W: the most that the device can draw; infinite if unknown.
    """

    def __init__(
        self,
        ask: Callable[[], float],
        *,
        unit_J: float,
        range_J: float = math.inf,
        most_W: float = math.inf,
    ) -> None:
        self._ask = ask
        self._unit_J = unit_J
        self._range_J = range_J if range_J > 0 else math.inf
        self._most_W = most_W if most_W > 0 else math.inf
        # The last reading: its time, and the counter.
        self._last: tuple[float, float] | None = None
        self._total_J = 0.0
        self.read_J()  # fails now, not later

    def read_J(self) -> float:
        """What the counter shows.

        Raises:
            OSError: it cannot be read.
            ValueError: it shows no number.
        """
        counter_J = self._ask() * self._unit_J
        if not 0 <= counter_J < math.inf:
            raise ValueError(f"an energy counter shows {counter_J}")
        return counter_J

    def total_J(self, time_s: float) -> tuple[float, bool]:
        """Joules so far, and whether those since the last reading are known.

        Raises:
            OSError: it cannot be read; a later reading includes what was missed.
            ValueError: it shows no number.
        """
        now_J = self.read_J()
        last, self._last = self._last, (time_s, now_J)
        if last is None:
            self._total_J = now_J
            return self._total_J, True
        last_s, last_J = last
        step_J = now_J - last_J if now_J >= last_J else now_J - last_J + self._range_J
        # A little more than the time passed: counters are renewed at instants of their own.
        could_J = self._most_W * (time_s - last_s + 1.0)
        has_wrapped_once_at_most = could_J < self._range_J or could_J == math.inf
        if step_J < math.inf and step_J <= could_J and has_wrapped_once_at_most:
            self._total_J += step_J
            return self._total_J, True
        self._total_J = 0.0
        return self._total_J, False


class CounterSensor:
    """A device whose energy is the sum of counters; its power is their mean slope.

    Args:
        device: the device.
        counters: its counters.
    """

    #: Power is a mean since the last reading.
    every_s = 1.0

    def __init__(self, device: Device, counters: Sequence[EnergyCounter]) -> None:
        self.device = device
        self._counters = counters
        self._last: tuple[float, float] | None = None

    def read(self, time_s: float) -> Reading:
        """Read the counters; if one of them fails, the sum is unknown."""
        try:
            read = [counter.total_J(time_s) for counter in self._counters]
        except (OSError, ValueError):
            return Reading(time_s, self.device.device)
        energy_J = math.fsum(total_J for total_J, _ in read)
        power_W = math.nan
        if self._last is not None and time_s > self._last[0] and all(known for _, known in read):
            power_W = (energy_J - self._last[1]) / (time_s - self._last[0])
        self._last = (time_s, energy_J)
        return Reading(time_s, self.device.device, power_W=power_W, energy_J=energy_J)

    def close(self) -> None:
        """Nothing is held."""
