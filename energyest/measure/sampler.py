"""The background thread that asks the sensors."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from energyest.measure.sensors.base import Reading, Sensor
from energyest.measure.signals import SharedLock

log = logging.getLogger("energyest")

# A reading that took longer is dropped: its values may be as old as its beginning.
_LONGEST_READ_S = 0.25
# The end of a run waits for the next round only if that is less than this away.
_SLOW_BEAT_S = 0.2

Clock = Callable[[], float]
# Called by the sampler's thread after each round: when it began, and a reading of each sensor.
OnRound = Callable[[float, list[Reading]], None]


class Alarm:
    """A `threading.Event` without a lock that whoever waits or sets would hold."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """Wake whoever waits, or whoever will wait next."""
        self._calls.put(None)

    def wait(self, timeout_s: float) -> None:
        """Wait until it is set, or for so long."""
        with contextlib.suppress(queue.Empty):
            self._calls.get(timeout=max(timeout_s, 0.0))

    def clear(self) -> None:
        """Forget that it was set."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()


class Sampler:
    """Reads all sensors at a steady rate in a daemon thread, off the training's path.

    Args:
        sensors: the sensors; they belong to the thread, which closes them at its end.
        on_round: receives the readings of each round, in the thread.
        interval_s: seconds between the beginnings of two rounds.
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
        self._sensors = list(sensors)
        self._on_round = on_round
        self._interval_s = interval_s
        self._clock = clock
        # No locks between the two threads: a signal handler may come, and raise, at any step.
        self._wake = Alarm()
        self._stopping = False
        self._started = 0
        self._completed = 0
        self._waiting: deque[tuple[int, Alarm]] = deque()
        self._reported: set[str] = set()
        self._sensors_change = SharedLock()
        self._has_closed = False
        self._thread = threading.Thread(target=self._run, name="energyest-sampler", daemon=True)
        #: Seconds that a round takes when nothing holds it up.
        self.round_cost_s = math.inf

    def start(self, timeout_s: float = 2.0) -> None:
        """Begin, and wait for the first round, but no longer than `timeout_s`."""
        self._thread.start()
        self._wait_for(1, timeout_s)

    def sample_now(self, timeout_s: float) -> bool:
        """Ask for a round at once; returns whether one that began after this call is done."""
        if not self._thread.is_alive():
            return False  # as in a forked process, whose copies of locks nobody releases
        # The round under way may have read a sensor before this call; the next has not.
        target = self._started + 1
        self._wake.set()
        return self._wait_for(target, timeout_s)

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Make a last round and end the thread; returns whether it ended in time.

        The last round keeps to the beat, unless that is slow: GPUs renew their counters at the
        same rate, so that a reading off the beat would see another part of their last 0.1 s, and
        the last epoch would be longer or shorter than the others by so much.

        A thread that hangs in a driver call is left behind: it is a daemon and holds up nothing.
        """
        self._stopping = True
        if self._interval_s > _SLOW_BEAT_S:
            self._wake.set()
        if self._thread.ident is None:  # never started
            self.close_sensors()
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def add(self, sensors: Sequence[Sensor]) -> bool:
        """Read these as well, from the next round on; False if it has ended by now."""
        with self._sensors_change:
            if self._has_closed:
                return False
            self._sensors = [*self._sensors, *sensors]
        return True

    @property
    def reported(self) -> frozenset[str]:
        """The devices of which it was said that they cannot be read."""
        return frozenset(self._reported)

    def read_round(self) -> float:
        """Read every sensor once and hand the readings on; returns when that began."""
        self._started += 1
        began_s = self._clock()
        readings = [self._read(sensor) for sensor in self._sensors]
        try:
            self._on_round(began_s, readings)
        except Exception:
            self._report_once("round", "a round of readings could not be recorded")
        self._track_cost(self._clock() - began_s)
        self._completed = self._started
        for _ in range(len(self._waiting)):
            target, alarm = self._waiting.popleft()
            if self._completed >= target:
                alarm.set()
            else:
                self._waiting.append((target, alarm))
        return began_s

    def _wait_for(self, target: int, timeout_s: float) -> bool:
        """Wait until so many rounds are done."""
        alarm = Alarm()
        self._waiting.append((target, alarm))
        if self._completed < target:  # a round that is done now has perhaps not seen the alarm
            alarm.wait(timeout_s)
        return self._completed >= target

    def _run(self) -> None:
        try:
            self._sample_until_stopped()
        finally:
            self.close_sensors()

    def close_sensors(self) -> None:
        """Release the sensors: at the thread's end, or where there was none."""
        with self._sensors_change:
            self._has_closed = True
            sensors, self._sensors = self._sensors, []
        for sensor in sensors:
            with contextlib.suppress(Exception):
                sensor.close()

    def _sample_until_stopped(self) -> None:
        next_s = self._clock()
        while True:
            last = self._stopping
            self._wake.clear()
            began_s = self.read_round()
            if last:
                return
            now_s = self._clock()
            if began_s >= next_s:
                # Keep to the beat, but do not catch up on rounds that a hanging call has cost.
                next_s = max(next_s + self._interval_s, now_s)
            if not self._stopping or self._interval_s <= _SLOW_BEAT_S:
                self._wake.wait(next_s - now_s)

    def _read(self, sensor: Sensor) -> Reading:
        before_s = self._clock()
        name = sensor.device.device
        try:
            reading = sensor.read(before_s)
            after_s = self._clock()
            if after_s - before_s > max(_LONGEST_READ_S, self._interval_s):
                return Reading(before_s, name)  # nobody knows when its values held
            if not 0 <= reading.power_W < math.inf:
                reading = reading._replace(power_W=math.nan)
            if not 0 <= reading.energy_J < math.inf:
                reading = reading._replace(energy_J=math.nan)
            # A counter takes milliseconds to read: the middle is the best guess of its time.
            return Reading((before_s + after_s) / 2, name, *reading[2:])
        except Exception:
            self._report_once(name, f"{name} could not be read; its readings are missing")
            return Reading(before_s, name)

    def _track_cost(self, cost_s: float) -> None:
        # The least of the recent ones: a busy training thread makes this one wait for the
        # interpreter, but not while the training itself waits for a round.
        self.round_cost_s = min(cost_s, 1.05 * self.round_cost_s)

    def _report_once(self, key: str, message: str) -> None:
        if key not in self._reported:
            self._reported.add(key)
            log.warning("energyest: %s", message, exc_info=True)
