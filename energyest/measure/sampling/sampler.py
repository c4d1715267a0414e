"""The background thread that reads the sensors."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from energyest.measure.sampling.source import SOON_S, Source
from energyest.measure.sensors.base import Reading, Sensor
from energyest.measure.signals import Alarm, SharedLock

log = logging.getLogger("energyest")

# A reading that took longer is dropped: its values may date from its start.
_LONGEST_READ_S = 0.25
# The end of a run waits for the next round only if that is less than this away.
_SLOW_BEAT_S = 0.2
# In calm, the cheap quantities are read this often. It is calm if there was no edge of an epoch for
# a while, and no device needs more: energies are then those of the counters.
_CALM_INTERVAL_S = 0.5
_CALM_AFTER_S = 5.0
# Costly quantities are read at least this often, and at edges of epochs; but readings for edges
# alone may take at most this share of a CPU core, or this time at once. Each reading counts as long
# as the quickest one took, because slower ones waited for another process.
_WHOLE_EVERY_S = 4.0
_WHOLE_EVERY_IN_CALM_S = 8.0
_EDGES_SHARE = 0.02
_EDGES_AT_ONCE_S = 0.05
# An edge is handled this long after it came.
_LET_GO_S = 0.003
_LONGEST_WAIT_S = 0.1
# A clock of whole nanoseconds may be this much early.
_ROUNDING_S = 1e-6

Clock = Callable[[], float]


class Round(NamedTuple):
    """One round of readings.

    Attributes:
        began_s: when the round began.
        readings: readings of the sensors that were due.
        counters_s: device -> when its counter was updated to the value read, where known.
        is_whole: whether costly quantities were read of at least one device, or were put off only
            to a better moment.
        is_calm: whether rounds are fewer than usual, because nothing is lost by it.
    """

    began_s: float
    readings: list[Reading]
    counters_s: dict[str, float]
    is_whole: bool
    is_calm: bool = False

    @property
    def has_failed(self) -> bool:
        """Whether a device gave neither power nor energy."""
        for reading in self.readings:
            if reading.power_W != reading.power_W and reading.energy_J != reading.energy_J:
                return True  # both NaN
        return False


# Called by the sampler's thread after each round.
OnRound = Callable[[Round], None]


class Sampler:
    """Reads all sensors at a steady rate in a daemon thread, off the training's path.

    Cheap quantities are read in each round. The others, which can cost a hundred times as much,
    are read in the first and last round, in the round after an edge of an epoch, and every few
    seconds. Rounds become fewer while nothing is lost by it (`Source.allows`).

    Args:
        sensors: the sensors; the thread owns them and closes them at its end.
        on_round: receives the readings of each round, in the thread.
        interval_s: seconds between the starts of two rounds.
        clock: monotonic clock in seconds.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        on_round: OnRound,
        *,
        interval_s: float = 0.1,
        clock: Clock = time.monotonic,
    ) -> None:
        self._sources = [Source(sensor) for sensor in sensors]
        self._on_round = on_round
        self._interval_s = interval_s
        self._clock = clock
        # No locks between the two threads: a signal handler may run, and raise, at any step.
        self._wake = Alarm()
        self._stopping = False
        self._started = 0
        self._first_s = math.inf  # of the first round
        self._completed = 0
        self._waiting: deque[tuple[int, Alarm]] = deque()
        self._reported: set[str] = set()
        self._sensors_change = SharedLock()
        self._has_closed = False
        self._edge_came = False
        self._edge_at_s = math.inf  # in the first round: the start of the run
        self._whole_at_s = -math.inf
        # Seconds of CPU time that readings for edges may use now.
        self._spare_s, self._spare_at_s = 0.0, math.inf
        self._thread = threading.Thread(target=self._run, name="energyest-sampler", daemon=True)
        #: Until then, each round reads everything.
        self.whole_until_s = -math.inf

    def start(self, timeout_s: float = 2.0) -> None:
        """Start the thread and wait for the first round, for at most `timeout_s`."""
        self._thread.start()
        self._wait_for(1, timeout_s)

    def sample_now(self, timeout_s: float) -> bool:
        """Request a round now; return whether a round that began after this call was completed."""
        if not self._thread.is_alive():
            return False  # as in a forked process, where nobody releases the copied locks
        # The round under way may have read a sensor before this call; the next one has not.
        target = self._started + 1
        self._wake.set()
        return self._wait_for(target, timeout_s)

    def expect_edge(self) -> None:
        """Announce an edge of an epoch, so that the energy up to it is read soon.

        Does not wait for the reading.
        """
        if not self._edge_came:
            self._edge_came = True
            self._wake.set()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Make a last round and end the thread; return whether it ended in time.

        The last round keeps to the beat, unless the beat is slow. GPUs update their counters at the
        same rate: a reading off the beat would see a different part of the last 0.1 s, which would
        make the last epoch longer or shorter than the others by that much.

        A thread that hangs in a driver call is left behind: it is a daemon and blocks nothing.
        """
        self._stopping = True
        self._wake.set()
        if self._thread.ident is None:  # never started
            self.close_sensors()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def add(self, sensors: Sequence[Sensor]) -> bool:
        """Read further sensors from the next round on; return False if the sampler has ended."""
        with self._sensors_change:
            if self._has_closed:
                return False
            self._sources = [*self._sources, *map(Source, sensors)]
        return True

    @property
    def reported(self) -> frozenset[str]:
        """The devices that were reported as unreadable."""
        return frozenset(self._reported)

    def read_round(self, *, is_between: bool = False) -> float:
        """Read what is due and pass the readings on; return when the round began.

        Args:
            is_between: read only what is due between two beats.
        """
        self._started += 1
        self._first_s = min(self._first_s, self._clock())
        # In this order: an edge that comes from now on belongs to the next round.
        had_edge, self._edge_came = self._edge_came, False
        began_s = self._clock()
        if had_edge or self._edge_at_s == math.inf:
            self._edge_at_s = began_s
        is_between = is_between and not self._is_urgent()  # a waiting caller needs all sensors
        was_due = self._is_whole_due(began_s)
        is_whole = not is_between and (was_due or (had_edge and self._affords_edge(began_s)))
        self._edge_came = self._edge_came or (had_edge and not is_whole)
        readings: list[Reading] = []
        counters_s: dict[str, float] = {}
        for source in self._sources:
            if is_whole and had_edge:
                source.edge_s = began_s
                if source.least_s < math.inf and not was_due:
                    self._spare_s -= 2 * source.least_s  # before and after the next update
            if source.is_due(began_s, is_whole=is_whole, is_between=is_between):
                readings.append(self._read(source, is_whole=is_whole))
                if source.counter_s > -math.inf:
                    counters_s[source.name] = source.counter_s
        if is_whole:
            self._whole_at_s = began_s
        try:
            is_telling, is_calm = is_whole or is_between, self._is_calm(began_s)
            self._on_round(Round(began_s, readings, counters_s, is_telling, is_calm))
        except Exception:
            self._report_once("round", "a round of readings could not be recorded")
        self._completed = self._started
        for _ in range(len(self._waiting)):
            target, alarm = self._waiting.popleft()
            if self._completed >= target:
                alarm.set()
            else:
                self._waiting.append((target, alarm))
        return began_s

    def _is_calm(self, now_s: float) -> bool:
        """Whether fewer rounds than usual lose nothing."""
        # Where power has contradicted a counter, it may again: the longer the time between two
        # readings of the counter, the more energy would then be that by power.
        has_been_in_doubt = self.whole_until_s > -math.inf
        if now_s - self._edge_at_s < _CALM_AFTER_S or has_been_in_doubt:
            return False
        return all(source.allows(_CALM_INTERVAL_S) for source in self._sources)

    def next_beat_s(self, due_s: float, began_s: float) -> float:
        """When the next round is due.

        Args:
            due_s: when the last beat was due.
            began_s: when the last round began; earlier if it was requested or had an edge.
        """
        is_calm = self._interval_s < _CALM_INTERVAL_S and self._is_calm(began_s)
        every_s = _CALM_INTERVAL_S if is_calm else self._interval_s
        if began_s >= due_s - _ROUNDING_S:
            # Keep to the beat, but do not catch up on rounds missed during a hanging call.
            return max(due_s + every_s, self._clock())
        # If an edge has ended the calm, the next round comes earlier, but on the same beat.
        return due_s if due_s - began_s <= every_s else began_s + (due_s - began_s) % every_s

    def _is_whole_due(self, now_s: float) -> bool:
        """Whether to read everything in this round, even without an edge."""
        if self._is_urgent() or now_s < self.whole_until_s:
            return True
        late_s = now_s - self._whole_at_s + self._interval_s / 2
        if late_s <= _WHOLE_EVERY_S:
            return False
        return late_s > _WHOLE_EVERY_IN_CALM_S or not self._is_calm(now_s)

    def _affords_edge(self, now_s: float) -> bool:
        """Whether everything may be read for an edge."""
        earned_s = max(0.0, now_s - self._spare_at_s) * _EDGES_SHARE
        # With many GPUs one edge may cost more than that: limit the debt, lest it last for minutes.
        spare_s = max(self._spare_s, -_EDGES_AT_ONCE_S) + earned_s
        self._spare_s, self._spare_at_s = min(spare_s, _EDGES_AT_ONCE_S), now_s
        return self._spare_s >= 0

    def _wait_for(self, target: int, timeout_s: float) -> bool:
        """Wait until `target` rounds are done; return whether they are."""
        alarm = Alarm()
        self._waiting.append((target, alarm))
        if self._completed < target:  # a round that was just done may have missed the alarm
            alarm.wait(timeout_s)
        return self._completed >= target

    def _run(self) -> None:
        try:
            self._sample_until_stopped()
        finally:
            self.close_sensors()

    def close_sensors(self) -> None:
        """Release the sensors: at the thread's end, or if there was no thread."""
        with self._sensors_change:
            self._has_closed = True
            sources, self._sources = self._sources, []
        for source in sources:
            with contextlib.suppress(Exception):
                source.sensor.close()

    def _sample_until_stopped(self) -> None:
        next_s = self._clock()
        is_between = False
        while True:
            last = self._stopping
            if last:
                time.sleep(self._wait_for_counters_s())
            self._wake.clear()
            began_s = self.read_round(is_between=is_between)
            if last:
                return
            next_s = self.next_beat_s(next_s, began_s)
            is_between = self._wait_for_round(next_s)

    def _wait_for_round(self, next_s: float) -> bool:
        """Wait for the next beat, or for a reading due before it; return whether it is that."""
        while True:
            now_s = self._clock()
            if self._stopping:
                if self._interval_s <= _SLOW_BEAT_S:
                    time.sleep(max(0.0, next_s - now_s) % self._interval_s)
                return False
            if now_s >= next_s or self._waiting:
                return False
            if self._edge_came and (self._is_whole_due(now_s) or self._affords_edge(now_s)):
                # Without this pause, this thread would compete with the training's within a hook.
                time.sleep(_LET_GO_S)
                return False
            soonest_s = min((source.whole_s for source in self._sources), default=math.inf)
            if soonest_s <= now_s + SOON_S / 2:
                return True
            self._wake.wait(min(next_s, soonest_s) - now_s)
            self._wake.clear()

    def _wait_for_counters_s(self) -> float:
        """How long until each counter can be read unambiguously."""
        now_s = self._clock()
        best_s = [source.tick.best_s(now_s) for source in self._sources]
        return min(max((at_s - now_s for at_s in best_s), default=0.0), _LONGEST_WAIT_S)

    def _read(self, source: Source, *, is_whole: bool) -> Reading:
        before_s = self._clock()
        name, read = source.name, source.sensor.read
        source.counter_s = math.nan
        try:
            if source.often is not None and source.whole_s > before_s + SOON_S:
                best_s = source.tick.best_s(before_s) if is_whole else math.inf
                if best_s > before_s + SOON_S and not (is_whole and self._is_urgent()):
                    read = source.often.read_often
                    source.due_s = min(source.due_s, best_s)
            reading = read(before_s)
            after_s = self._clock()
            if source.late is None:
                reading = self._as_read(reading, name, before_s, after_s)
            source.gave(reading.power_W)
            if read == source.sensor.read:
                source.took(before_s, after_s, reading.energy_J)
            if source.late is not None:
                return reading._replace(time_s=source.time_of(reading, before_s, self._first_s))
            return reading
        except Exception:
            self._report_once(name, f"{name} could not be read; its readings are missing")
            source.gave(math.nan)
            source.took(before_s, self._clock(), math.nan)  # else it would stay due forever
            return Reading(before_s, name)

    def _as_read(self, reading: Reading, name: str, before_s: float, after_s: float) -> Reading:
        """A reading with its time, without values that are impossible or of an unknown time."""
        if after_s - before_s > max(_LONGEST_READ_S, self._interval_s):
            return Reading(before_s, name)  # the time of its values is unknown
        _, _, power_W, energy_J, utilization, memory_bytes, temperature_C = reading
        # A counter takes milliseconds to read: the midpoint is the best guess of its time.
        return Reading(
            (before_s + after_s) / 2,
            name,
            power_W if 0 <= power_W < math.inf else math.nan,
            energy_J if 0 <= energy_J < math.inf else math.nan,
            utilization,
            memory_bytes,
            temperature_C,
        )

    def _is_urgent(self) -> bool:
        """Whether a caller is waiting for this round."""
        return self._stopping or bool(self._waiting)

    def _report_once(self, key: str, message: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            log.warning("energyest: %s", message, exc_info=True)
