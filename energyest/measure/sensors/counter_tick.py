"""`CounterTick`: when a GPU renews its energy counter."""

from __future__ import annotations

import math

# Recent boards renew their counters ten times a second, by a clock of their own that gains or loses
# some microseconds a second: 6 on an H200.
_PERIOD_S = 0.1
# So many readings show between which two of them the counter is renewed: first over a period, then
# over the step that was found.
_READINGS = 4
_STEPS_S = (0.032, 0.011)
# A step may be longer if the reader is held up, but not by more than this share.
_SLACK = 0.4
# How often it is tried, as a renewal can be just missed; and when it is tried again.
_TRIES = 4
_TRY_AGAIN_S = 60.0
# What was found is found anew after so long.
_HOLDS_S = 600.0
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
        # Which of the steps is next, when its readings are to begin, and how often that was tried.
        self._stage = 0
        self._begin_s = -math.inf
        self._tries = 0
        # One of the instants, and how far off it may be.
        self._tick_s, self._margin_s = math.nan, math.nan
        self._is_steady = False

    def see(self, time_s: float, counter_J: float) -> None:
        """Take in a reading of the counter; NaN if it has failed."""
        step_s = _STEPS_S[self._stage]
        due_s = self._seen[-1][0] + step_s if self._seen else self._begin_s
        if self._is_steady or time_s < due_s - _SLACK * step_s:
            return
        is_late = self._is_searching and time_s > due_s + _SLACK * step_s
        if is_late or math.isnan(counter_J):
            self._fail(time_s)
            return
        self._seen.append((time_s, counter_J))
        if len(self._seen) == _READINGS:
            self._judge(time_s)

    def best_s(self, now_s: float) -> float:
        """When to read the counter best: now, or as soon as it is not just being renewed."""
        into_s = (now_s - self._tick_s) % _PERIOD_S
        if math.isnan(into_s) or self._margin_s <= into_s <= _PERIOD_S - self._margin_s:
            return now_s
        return now_s + (self._margin_s - into_s) % _PERIOD_S

    def again_s(self) -> float:
        """When to read it again, to find the instants; infinite if they are not sought."""
        if self._seen:
            return self._seen[-1][0] + _STEPS_S[self._stage]
        return self._begin_s if self._is_searching else math.inf

    def renewed_s(self, time_s: float) -> float:
        """When a counter was renewed that was read at an instant; NaN if that is not known."""
        return time_s - (time_s - self._tick_s) % _PERIOD_S

    @property
    def _is_searching(self) -> bool:
        """Whether readings are asked for, and not just taken as they come."""
        return bool(self._seen) or self._stage > 0 or self._tries > 0

    def _judge(self, now_s: float) -> None:
        pairs = list(zip(self._seen, self._seen[1:], strict=False))
        changed = [(a_s, b_s) for (a_s, a_J), (b_s, b_J) in pairs if a_J != b_J]
        self._is_steady = self._stage == 0 and len(changed) == len(pairs)
        if self._is_steady:
            self._tick_s = math.nan
            self._rest(math.inf)
        elif len(changed) != 1:
            if not changed:  # what was found before was none
                self._stage, self._tick_s = 0, math.nan
            self._fail(now_s)
        else:
            ((after_s, by_s),) = changed
            self._tick_s = (after_s + by_s) / 2
            self._margin_s = (by_s - after_s) / 2 + _READING_S
            if self._stage + 1 == len(_STEPS_S):
                self._rest(now_s + _HOLDS_S)
            else:
                self._stage += 1
                self._seek(now_s)

    def _fail(self, now_s: float) -> None:
        """Try again or, after many times, leave it for a while."""
        self._tries += 1
        if self._tries < _TRIES:
            self._seek(now_s)
        elif self._stage:  # the coarser value is good enough
            self._rest(now_s + _HOLDS_S)
        else:
            self._tick_s = math.nan
            self._rest(now_s + _TRY_AGAIN_S)

    def _seek(self, now_s: float) -> None:
        """Begin soon, and where the step before has shown that it is renewed."""
        self._seen = []
        self._begin_s = now_s + _STEPS_S[self._stage]
        if self._stage:
            half_s = _STEPS_S[self._stage] * (_READINGS - 1) / 2
            self._begin_s += (self._tick_s - half_s - self._begin_s) % _PERIOD_S

    def _rest(self, until_s: float) -> None:
        self._seen, self._stage, self._tries = [], 0, 0
        self._begin_s = until_s
