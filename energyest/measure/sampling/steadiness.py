"""`Steadiness`: whether a device's power has hardly changed for a while."""

from __future__ import annotations

import math

# Readings over which mean and deviation are taken, with weights that fall exponentially.
_READINGS = 20
# The mean absolute deviation of steady power, as a share of its mean. Sixteen readings, as many as
# come between two of the counter, then have a mean that is known to 2.5 %: a fifth of the 12 % by
# which power must differ from a counter to contradict it.
_MOST_DEVIATION = 0.08


class Steadiness:
    """Tells from readings of power whether fewer of them would do."""

    def __init__(self) -> None:
        self._start_over()

    def _start_over(self) -> None:
        self._count = 0
        self._mean_W, self._deviation_W = 0.0, 0.0

    def add(self, power_W: float) -> None:
        """Take in a reading; one that is not finite starts over."""
        if not math.isfinite(power_W):
            self._start_over()
            return
        self._count += 1
        weight = 1 / min(self._count, _READINGS)
        difference_W = power_W - self._mean_W
        self._mean_W += weight * difference_W
        if self._count > 1:
            self._deviation_W += weight * (abs(difference_W) - self._deviation_W)

    def __bool__(self) -> bool:
        is_known = self._count >= _READINGS
        return is_known and self._deviation_W <= _MOST_DEVIATION * self._mean_W
