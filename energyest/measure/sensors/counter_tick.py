"""`CounterTick`: when a GPU renews its energy counter."""

from __future__ import annotations

import math

# Recent boards renew their counters ten times a second, by a clock of their own. An H200's gains 6
# microseconds a second.
_PERIOD_S = 0.1
# Instants within the period are told apart in cells of 2 ms.
_CELLS = 50
_CELL_S = _PERIOD_S / _CELLS
# It is sought until it is known this well; less well will do where readings take too long for it.
_FINE_S = 0.006
_COARSE_S = 0.03
_MOST_READINGS = 16
# A counter that was renewed at other instants, too, would have changed in so long a time.
_QUIET_S = 0.6 * _PERIOD_S
# When it is tried again where nothing was found, doubled each time; and how long a find holds.
_TRY_AGAIN_S = 60.0
_HOLDS_S = 600.0
# A reading takes milliseconds, and nobody knows at which of them its value was taken.
_READING_S = 0.008
_LONGEST_READING_S = 0.02


class CounterTick:
    """Finds the instants at which a counter is renewed, and says when to read it.

    A counter shows what was drawn up to when it was renewed last, up to 0.1 s ago. Read at any
    instant, it is off by the energy of as much. Where no instants are found, as of a counter that
    is always up to date, or renewed more often, it is taken to show what was drawn up to now.

    Two readings less than a period apart differ if it was renewed between them, and only then. Each
    such pair rules out a part of the period. The next reading is asked for where it rules out the
    most; one that comes at another time rules out something else.
    """

    def __init__(self) -> None:
        # One of the instants, and how far off it may be.
        self._tick_s, self._margin_s = math.nan, math.nan
        self._begin_s = -math.inf
        self._try_again_s = _TRY_AGAIN_S
        self._start_over()

    def _start_over(self) -> None:
        # When the reading before began and ended, and what it showed.
        self._last: tuple[float, float, float] | None = None
        self._next_s = math.inf
        self._readings = 0
        # Cells of the period, counted from 0 s, in which the counter may be renewed.
        self._possible = [True] * _CELLS
        self._changes = 0
        self._longest_quiet_s = 0.0

    def see(self, began_s: float, ended_s: float, counter_J: float) -> None:
        """Take in a reading of the counter, which lasted so long; NaN if it has failed."""
        if began_s < self._begin_s:
            return
        self._readings += 1
        last, self._last = self._last, (began_s, ended_s, counter_J)
        if math.isnan(counter_J):
            self._last = None
        elif last is not None:
            self._compare(last, self._last)
        start_s, width_s = self._arc()
        is_checked = self._changes > 1 and self._longest_quiet_s >= _QUIET_S
        if width_s <= _FINE_S and is_checked:
            self._find(start_s, width_s)
        elif self._readings < _MOST_READINGS and any(self._possible):
            self._next_s = self._best_next_s(began_s, ended_s, start_s, width_s)
        elif 0 < width_s <= _COARSE_S and is_checked:
            self._find(start_s, width_s)
        else:
            self._tick_s = math.nan
            self._rest(ended_s + self._try_again_s)
            self._try_again_s *= 2

    def best_s(self, now_s: float) -> float:
        """When to read the counter best: now, or as soon as it is not just being renewed."""
        into_s = (now_s - self._tick_s) % _PERIOD_S
        if math.isnan(into_s) or self._margin_s <= into_s <= _PERIOD_S - self._margin_s:
            return now_s
        return now_s + (self._margin_s - into_s) % _PERIOD_S

    def again_s(self) -> float:
        """When to read it again, to find the instants; infinite if they are not sought."""
        return self._next_s

    def renewed_s(self, time_s: float) -> float:
        """When a counter was renewed that was read at an instant; NaN if that is not known."""
        return time_s - (time_s - self._tick_s) % _PERIOD_S

    def after_s(self, time_s: float) -> float:
        """When to read it best once it was renewed the next time; NaN if that is not known."""
        return self.renewed_s(time_s) + _PERIOD_S + self._margin_s

    def _compare(
        self, first: tuple[float, float, float], second: tuple[float, float, float]
    ) -> None:
        """Rule out where it cannot be renewed."""
        first_began_s, first_ended_s, first_J = first
        second_began_s, second_ended_s, second_J = second
        if first_J == second_J:
            # Each of the values may be as old as the reading is long.
            quiet_s = second_began_s - first_ended_s
            self._longest_quiet_s = max(self._longest_quiet_s, quiet_s)
            self._rule_out(first_ended_s, quiet_s)
        elif second_ended_s - first_began_s < _PERIOD_S:
            self._changes += 1
            rest_s = _PERIOD_S - (second_ended_s - first_began_s)
            self._rule_out(second_ended_s, rest_s)

    def _rule_out(self, start_s: float, length_s: float) -> None:
        """It is not renewed from `start_s` on, for so long."""
        for cell in range(_CELLS):
            after_s = ((cell + 0.5) * _CELL_S - start_s) % _PERIOD_S
            if after_s < length_s:
                self._possible[cell] = False

    def _arc(self) -> tuple[float, float]:
        """Where the part of the period begins in which it may be renewed, and how long that is."""
        cells = [cell for cell, is_possible in enumerate(self._possible) if is_possible]
        if len(cells) in (0, _CELLS):  # nothing, or anything: from the last reading on
            start_s = self._last[1] if self._last else 0.0
            return start_s, len(cells) * _CELL_S
        # It begins after the longest run of cells that were ruled out.
        before = [cells[-1], *cells[:-1]]
        gaps = [(cell - last - 1) % _CELLS for last, cell in zip(before, cells, strict=True)]
        first = max(range(len(cells)), key=gaps.__getitem__)
        return cells[first] * _CELL_S, (_CELLS - gaps[first]) * _CELL_S

    def _best_next_s(self, began_s: float, ended_s: float, start_s: float, width_s: float) -> float:
        """When the next reading should begin."""
        reading_s = min(ended_s - began_s, _LONGEST_READING_S)
        into_s = (ended_s - start_s) % _PERIOD_S
        if into_s > (_PERIOD_S + width_s) / 2:
            into_s -= _PERIOD_S  # shortly before
        begins_s = ended_s - into_s
        if width_s > _FINE_S and into_s <= width_s / 4:
            wanted_s = begins_s + width_s / 2 - reading_s / 2
        elif width_s <= _FINE_S and into_s <= width_s:
            wanted_s = begins_s + width_s + _CELL_S  # is it renewed between both?
        else:
            wanted_s = begins_s + _PERIOD_S - _CELL_S - reading_s
        return max(wanted_s, ended_s)

    def _find(self, start_s: float, width_s: float) -> None:
        self._tick_s = start_s + width_s / 2
        self._margin_s = width_s / 2 + _READING_S
        self._try_again_s = _TRY_AGAIN_S
        assert self._last is not None
        self._rest(self._last[1] + _HOLDS_S)

    def _rest(self, until_s: float) -> None:
        self._start_over()
        self._begin_s = until_s
