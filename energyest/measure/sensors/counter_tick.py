"""`CounterTick`: when a GPU renews its energy counter."""

from __future__ import annotations

import math

# Recent boards renew their counters ten times a second, by a clock of their own that gains or loses
# some microseconds a second: 6 on an H200.
_PERIOD_S = 0.1
# So many readings, spread over a period, show between which two of them the counter is renewed.
_READINGS = 4
_STEP_S = _PERIOD_S / (_READINGS - 1)
# What was found is found anew after so long; where nothing was found, it is tried again.
_HOLDS_S = 600.0
_TRY_AGAIN_S = 60.0
# A reading takes milliseconds, and nobody knows at which of them its value was taken.
_READING_S = 0.008


class CounterTick:
    """Finds the instants at which a counter is renewed, and says when to read it.

    A counter shows what was drawn up to when it was renewed last, up to 0.1 s ago. Read at any
    instant, it is off by the energy of as much. Where no instants are found, as of a counter that
    is always up to date, or renewed more often, it is taken to show what was drawn up to now.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []
        self._search_from_s = -math.inf
        # One of the instants, and how far off it may be.
        self._tick_s, self._margin_s = math.nan, math.nan
        self._is_steady = False

    def see(self, time_s: float, counter_J: float) -> None:
        """Take in a reading of the counter; NaN if it has failed."""
        if self._is_steady or time_s < self._search_from_s:
            return
        if math.isnan(counter_J):
            self._seen = []
            return
        since_s = time_s - self._seen[-1][0] if self._seen else _STEP_S
        if since_s < _STEP_S / 2:
            return
        if since_s > 1.5 * _STEP_S:  # whoever reads it is held up
            self._seen = []
            self._search_from_s = time_s + _TRY_AGAIN_S
            return
        self._seen.append((time_s, counter_J))
        if len(self._seen) == _READINGS:
            self._judge()

    def best_s(self, now_s: float) -> float:
        """When to read the counter best: now, or as soon as it is not just being renewed."""
        into_s = (now_s - self._tick_s) % _PERIOD_S
        if math.isnan(into_s) or self._margin_s <= into_s <= _PERIOD_S - self._margin_s:
            return now_s
        return now_s + (self._margin_s - into_s) % _PERIOD_S

    def again_s(self) -> float:
        """When to read it again, to find the instants; infinite if they are not sought."""
        return self._seen[-1][0] + _STEP_S if self._seen else math.inf

    def renewed_s(self, time_s: float) -> float:
        """When a counter was renewed that was read at an instant; NaN if that is not known."""
        return time_s - (time_s - self._tick_s) % _PERIOD_S

    def _judge(self) -> None:
        pairs = list(zip(self._seen, self._seen[1:], strict=False))
        self._seen = []
        last_s = pairs[-1][1][0]
        changed = [(a_s, b_s) for (a_s, a_J), (b_s, b_J) in pairs if a_J != b_J]
        self._is_steady = len(changed) > 1
        if len(changed) != 1:
            self._tick_s = math.nan
            self._search_from_s = last_s + _TRY_AGAIN_S
            return
        ((after_s, by_s),) = changed
        self._tick_s = (after_s + by_s) / 2
        self._margin_s = (by_s - after_s) / 2 + _READING_S
        self._search_from_s = last_s + _HOLDS_S
