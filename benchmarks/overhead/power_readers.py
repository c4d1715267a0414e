"""Readers of a GPU's instantaneous power: a thread of this process, and a separate process.

They do the least that a sampler does, to compare the two. Both can be paused at no cost.
"""

from __future__ import annotations

import ctypes
import multiprocessing as mp
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.overhead.tools import Gate

# Readings that the shared memory holds before it starts over.
_PLACES = 4096


def power_reader() -> Callable[[], float]:
    """A function that reads the first GPU's instantaneous power from the driver, in watts."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    fields = [pynvml.NVML_FI_DEV_POWER_INSTANT]

    def read() -> float:
        return float(pynvml.nvmlDeviceGetFieldValues(handle, fields)[0].value.uiVal) / 1e3

    return read


class ThreadReader:
    """Reads in a thread of this process, into a list; paused at first."""

    def __init__(self, rate_hz: float) -> None:
        self._gate = Gate(1 / rate_hz)
        self.resume, self.suspend = self._gate.open, self._gate.close
        self._stopping = False
        self._rows: list[tuple[float, float]] = []
        self._read, self._rate_hz = power_reader(), rate_hz
        self.suspend()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def count(self) -> int:
        return len(self._rows)

    def stop(self) -> None:
        self._stopping = True
        self.resume()
        self._thread.join(2)

    def _run(self) -> None:
        while not self._stopping:
            self._gate.wait()
            self._rows.append((time.monotonic(), self._read()))
            time.sleep(1 / self._rate_hz)


class ProcessReader:
    """Reads in a separate process, into shared memory; paused at first."""

    def __init__(self, rate_hz: float) -> None:
        context = mp.get_context("spawn")
        self._open, is_ready = context.Event(), context.Event()
        self._numbers = context.Array(ctypes.c_double, 2 * _PLACES + 1, lock=False)
        self.resume, self.suspend = self._open.set, self._open.clear
        self._process = context.Process(
            target=_read_forever, args=(is_ready, self._open, self._numbers, rate_hz), daemon=True
        )
        self._process.start()
        if not is_ready.wait(60):
            raise RuntimeError("the process that reads has not begun")

    @property
    def count(self) -> int:
        return int(self._numbers[0])

    def stop(self) -> None:
        self._process.kill()
        self._process.join(2)


def _read_forever(is_ready: Any, is_open: Any, numbers: Any, rate_hz: float) -> None:
    """Read while the gate is open; store the count first, then time and watts of each reading."""
    read = power_reader()
    is_ready.set()
    while True:
        if not is_open.is_set():
            is_open.wait()
            time.sleep(random.uniform(0.0, 1 / rate_hz))
        place = 1 + 2 * (int(numbers[0]) % _PLACES)
        numbers[place], numbers[place + 1] = time.monotonic(), read()
        numbers[0] += 1
        time.sleep(1 / rate_hz)
