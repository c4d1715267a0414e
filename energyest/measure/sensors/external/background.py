"""`BackgroundSensor`: asks for power or energy in a thread of its own, beside the sampler."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, NamedTuple

from energyest.integration import MAX_GAP_S
from energyest.measure.sensors.base import Device, Reading
from energyest.patience import PATIENCE_S

log = logging.getLogger("energyest")


class Answer(NamedTuple):
    """What a source said; NaN for what it does not say.

    Attributes:
        power_W: watts.
        energy_J: a cumulative counter in joules.
    """

    power_W: float = math.nan
    energy_J: float = math.nan


class _Result(NamedTuple):
    made_s: float  # on the monotonic clock
    answer: Answer


class BackgroundSensor(ABC):
    """A sensor whose source takes milliseconds to seconds to answer, or hangs.

    A daemon thread asks the source over and over; it starts with the first reading. Nobody waits
    for it, except the start of a run for up to 1.5 s, if nothing is known yet. An answer is passed
    on once, with the time at which it was made. A source that fails is missing (NaN), and is
    reported once.

    An energy counter may have steps of thousands of joules. It is therefore passed on only when it
    has changed, together with the mean power since its last change.

    Args:
        device: the device; `gap_s` says what to set as its `bridged_s`.
        every_s: seconds from one question to the next.
        first: an answer that was just given, if there is one.
    """

    def __init__(self, device: Device, every_s: float, first: Answer | None = None) -> None:
        self.device = device
        self.every_s = every_s
        # The newest answer, until it is read.
        self._news: deque[_Result] = deque(maxlen=1)
        self._last: _Result | None = None
        self._state: dict[str, Any] = {}
        self._has_failed = self._is_closed = False
        if first is not None:
            self._news.append(_Result(time.monotonic(), first))

    @abstractmethod
    def ask(self) -> Answer:
        """Ask the source, in the sensor's thread; any exception means that it has failed."""

    @abstractmethod
    def interrupt(self) -> None:
        """End a question that is under way, when the sensor is closed."""

    def has_news(self) -> bool:
        """Whether there is an answer that was not read yet; the first call starts the thread."""
        if self._is_closed:
            return False
        if self._state.get("pid") != os.getpid():  # the first call, also after a fork
            self._begin()
        return bool(self._news)

    def read(self, time_s: float) -> Reading:
        """The newest answer, at the time at which it was made; NaN if it is no news."""
        try:
            result = self._news.popleft()
        except IndexError:
            return Reading(time_s, self.device.device)
        made_s = time_s - max(0.0, time.monotonic() - result.made_s)
        power_W, energy_J = result.answer
        if math.isfinite(energy_J):
            last, self._last = self._last, result
            if math.isnan(power_W) and last is not None and result.made_s > last.made_s:
                step_J = energy_J - last.answer.energy_J
                slope_W = step_J / (result.made_s - last.made_s)
                power_W = slope_W if 0 < slope_W <= self.device.most_power_W else math.nan
        return Reading(made_s, self.device.device, power_W=power_W, energy_J=energy_J)

    def close(self) -> None:
        """End the thread; a question that is under way is interrupted."""
        self._is_closed = True
        self.interrupt()
        wake = self._state.get("wake")
        if wake is not None:
            wake.set()

    def __getstate__(self) -> dict[str, Any]:
        """Without the thread, for a process that a monitor is sent to."""
        return {**self.__dict__, "_state": {}, "_news": deque(maxlen=1), "_last": None}

    def _begin(self) -> None:
        first, wake = threading.Event(), threading.Event()
        if self._news and time.monotonic() - self._news[0].made_s > self.device.bridged_s:
            self._news.clear()
        self._state = {"pid": os.getpid(), "wake": wake}
        name = f"energyest-{self.device.device}"
        thread = threading.Thread(target=self._work, args=(first, wake), name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads
            return
        if not self._news:
            first.wait(PATIENCE_S)

    def _work(self, first: threading.Event, wake: threading.Event) -> None:
        next_s = time.monotonic()
        known_J = math.nan
        while not self._is_closed:
            began_s = time.monotonic()
            try:
                answer = self._checked(self.ask())
            except Exception as error:
                answer = Answer()
                if not (self._has_failed or self._is_closed):
                    self._has_failed = True
                    told = f"{self.device.label} could not be read"
                    log.warning("energyest: %s; its readings are missing: %s", told, error)
            ended_s = time.monotonic()
            if not math.isnan(answer.power_W) or answer.energy_J != known_J:
                known_J = answer.energy_J
                self._news.append(_Result((began_s + ended_s) / 2, answer))
            first.set()
            next_s = max(next_s + self.every_s, ended_s)
            wake.wait(next_s - ended_s)

    def _checked(self, answer: Answer) -> Answer:
        """The answer, if a device that answers can draw that.

        Raises:
            ValueError: it is no power or energy.
        """
        power_W, energy_J = answer
        if math.isnan(power_W) and math.isnan(energy_J):
            raise ValueError("it tells neither power nor energy")
        if not math.isnan(power_W) and not 0 < power_W <= self.device.most_power_W:
            most_W = self.device.most_power_W
            limit = "" if math.isinf(most_W) else f", and at most {most_W:g} W"
            raise ValueError(f"its power is {power_W:g} W: it must be above 0{limit}")
        if not math.isnan(energy_J) and not 0 <= energy_J < math.inf:
            raise ValueError(f"its energy is {energy_J:g} J: it must not be negative")
        return answer


def gap_s(every_s: float, timeout_s: float) -> float:
    """The longest time between two answers that is bridged: one may fail."""
    return max(MAX_GAP_S, 2 * every_s + timeout_s)
