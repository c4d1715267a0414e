"""`CounterTick`: finds when a GPU updates its energy counter."""

from __future__ import annotations

import math

# Recent boards update their counters ten times a second, by a clock of their own. The clock of an
# H200 gains 6 microseconds a second.
_PERIOD_S = 0.1
# Instants within the period are resolved in cells of 2 ms.
_CELLS = 50
_CELL_S = _PERIOD_S / _CELLS
# The search ends when the instant is known this well; a coarser result is accepted where readings
# take too long.
_FINE_S = 0.006
_COARSE_S = 0.03
_MOST_READINGS = 16
# A counter that is also updated at other instants would have changed within this time.
_QUIET_S = 0.6 * _PERIOD_S
# The pause after a search without result, doubled each time; and how long a result is valid.
_TRY_AGAIN_S = 60.0
_HOLDS_S = 600.0
# A reading takes milliseconds, and the instant of its value within them is unknown.
_READING_S = 0.008
_LONGEST_READING_S = 0.02


class CounterTick:
    """Finds the instants at which a counter is updated, and says when to read it.

    A counter shows the energy up to its last update, up to 0.1 s ago. Read at an arbitrary instant,
    it is off by the energy of that time. If no instants are found, as with a counter that is always
    up to date or is updated more often, it is assumed to show the energy up to now.

    Two readings less than a period apart differ if and only if the counter was updated between
    them. So each such pair rules out a part of the period. The next reading is requested where it
    would rule out the most; a reading at another time rules out something too.
    """

    def __init__(self) -> None:
        # One of the update instants, and its uncertainty.
        self._tick_s, self._margin_s = math.nan, math.nan
        self._begin_s = -math.inf
        self._try_again_s = _TRY_AGAIN_S
        self._start_over()

    def _start_over(self) -> None:
        # Start, end and value of the previous reading.
        self._last: tuple[float, float, float] | None = None
        self._next_s = math.inf
        self._readings = 0
        # Cells of the period, counted from 0 s, in which the counter may be updated.
        self._possible = [True] * _CELLS
        self._changes = 0
        self._longest_quiet_s = 0.0

    def see(self, began_s: float, ended_s: float, counter_J: float) -> None:
        """Take in a counter reading with its start and end; NaN if it failed."""
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
        """The best time to read the counter: now, or as soon as no update is due."""
        into_s = (now_s - self._tick_s) % _PERIOD_S
        if math.isnan(into_s) or self._margin_s <= into_s <= _PERIOD_S - self._margin_s:
            return now_s
        return now_s + (self._margin_s - into_s) % _PERIOD_S

    def again_s(self) -> float:
        """When to read it again for the search; infinite if no search is going on."""
        return self._next_s

    def renewed_s(self, time_s: float) -> float:
        """The last update before an instant; NaN if unknown."""
        return time_s - (time_s - self._tick_s) % _PERIOD_S

    def after_s(self, time_s: float) -> float:
        """The best time to read it after its next update; NaN if unknown."""
        return self.renewed_s(time_s) + _PERIOD_S + self._margin_s

    def _compare(
        self, first: tuple[float, float, float], second: tuple[float, float, float]
    ) -> None:
        """Rule out the parts of the period in which no update can be."""
        first_began_s, first_ended_s, first_J = first
        second_began_s, second_ended_s, second_J = second
        if first_J == second_J:
            # Each value may be as old as its reading took.
            quiet_s = second_began_s - first_ended_s
            self._longest_quiet_s = max(self._longest_quiet_s, quiet_s)
            self._rule_out(first_ended_s, quiet_s)
        elif second_ended_s - first_began_s < _PERIOD_S:
            self._changes += 1
            rest_s = _PERIOD_S - (second_ended_s - first_began_s)
            self._rule_out(second_ended_s, rest_s)

    def _rule_out(self, start_s: float, length_s: float) -> None:
        """Rule out updates from `start_s` on, for `length_s`."""
        for cell in range(_CELLS):
            after_s = ((cell + 0.5) * _CELL_S - start_s) % _PERIOD_S
            if after_s < length_s:
                self._possible[cell] = False

    def _arc(self) -> tuple[float, float]:
        """Start and length of the part of the period in which updates are possible."""
        cells = [cell for cell, is_possible in enumerate(self._possible) if is_possible]
        if len(cells) in (0, _CELLS):  # nothing or everything is possible: from the last reading on
            start_s = self._last[1] if self._last else 0.0
            return start_s, len(cells) * _CELL_S
        # It begins after the longest run of excluded cells.
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
            wanted_s = begins_s + width_s + _CELL_S  # check that it is updated in between
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
