"""GPUs that change their power all the time, beside a driver and a disk that fail at random."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from unittest import mock

import numpy as np
import pynvml

from energyest.records import own_files
from simulation.scene import AVERAGE, COUNTER, EVERYTHING, POWER, Scene

GPUS = 4
LOWEST_W, HIGHEST_W = 100, 600
# A counter that stands still for less than 2 s cannot be told from one that is seldom renewed.
SHORTEST_FREEZE_S = 3.0


class World(threading.Thread):
    """Changes the power of the GPUs, and lets things fail, until it is told to stop."""

    def __init__(self, scene: Scene, seed: int) -> None:
        super().__init__(name="world", daemon=True)
        self.scene = scene
        self.dice = random.Random(seed)
        self.counts: Counter[str] = Counter()
        #: When, what, and to which GPU something was done in the training under way.
        self.faults: list[tuple[float, str, int]] = []
        #: GPU -> instants between which a reading may be off: steps of power, edges of faults.
        self.events: dict[int, list[float]] = {}
        #: Since when and until when a GPU may not be measured.
        self.hidden: list[tuple[float, float]] = []
        #: The folder of the trace that grows; None where it has to be left alone.
        self.folder: Path | None = None
        self.disk_fails = False
        self.calm = True
        #: GPU -> the power about which it varies by a few per cent; empty if it may jump anywhere.
        self.levels_W: dict[int, float] = {}
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._lock = threading.RLock()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Something every tenth of a second, a fault every second or two."""
        while not self._stopping.wait(0.1):
            with self._lock:
                if self.dice.random() < 0.15:
                    self._draw(self.dice.randrange(GPUS))
                now_s = time.monotonic()
                due = [end for at_s, end in self._ends if at_s <= now_s]
                self._ends = [(at_s, end) for at_s, end in self._ends if at_s > now_s]
                for end in due:
                    end()
                if not self.calm and self.dice.random() < 0.07:
                    self._fault()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self.join()

    def begin(self, *, is_steady: bool = False) -> None:
        """A training begins, with everything in order; its power is steady if wanted."""
        with self._lock:
            self._end_all()
            self.scene.driver.reset()
            self.scene.driver.set_device_count(GPUS)
            self.scene.steps, self.events, self.faults, self.hidden = {}, {}, [], []
            self.levels_W = {}
            if is_steady:
                self.levels_W = {
                    g: self.dice.uniform(LOWEST_W, 0.9 * HIGHEST_W) for g in range(GPUS)
                }
            for gpu in range(GPUS):
                self._draw(gpu)

    def rage(self, folder: Path | None) -> None:
        """From now on, things fail."""
        with self._lock:
            self.folder, self.calm = folder, False

    def rest(self) -> None:
        """Nothing new fails, and disk and folder are in order."""
        with self._lock:
            self.folder, self.calm = None, True
            self.disk_fails = False

    @contextmanager
    def disk(self) -> Iterator[None]:
        """Let the disk fail when it is to."""
        write = own_files.write

        def failing(file: FileIO, text: str) -> None:
            if self.disk_fails:
                raise OSError(5, "Input/output error")
            write(file, text)

        with (
            mock.patch.object(own_files, "write", failing),
            mock.patch("energyest.measure.writer._RETRY_S", 1.0),
            mock.patch("energyest.measure.writer._LONGEST_RETRY_S", 1.0),
        ):
            yield

    def _draw(self, gpu: int) -> None:
        level_W = self.levels_W.get(gpu)
        if level_W is None:
            self.scene.draw(gpu, self.dice.uniform(LOWEST_W, HIGHEST_W))
        else:
            self.scene.draw(gpu, level_W * self.dice.uniform(0.96, 1.04))
        self._note(gpu)

    def _note(self, gpu: int) -> None:
        self.events.setdefault(gpu, []).append(time.monotonic())

    def _hide(self, seconds: float) -> None:
        now_s = time.monotonic()
        self.hidden.append((now_s, now_s + seconds))

    def _end_all(self) -> None:
        for _, end in self._ends:
            end()
        self._ends = []

    def _for(self, seconds: float, gpu: int, end: Callable[[], object]) -> None:
        def ended() -> None:
            end()
            self._note(gpu)

        self._ends.append((time.monotonic() + seconds, ended))

    def _fault(self) -> None:
        gpu = self.dice.randrange(GPUS)
        kinds = (
            self._fail_once,
            self._fail_for_a_while,
            self._hang,
            self._freeze,
            self._restart,
            self._jump,
            self._lose,
            self._remove_folder,
            self._fail_disk,
        )
        fault = self.dice.choice(kinds)
        began_s, name = time.monotonic(), fault.__name__.strip("_")
        self.counts[name] += 1
        self._note(gpu)
        details = fault(gpu) or ""
        self.faults.append((began_s, f"{name} {details}".strip(), gpu))

    # Each returns what else is to be said of it.

    def _fail_once(self, gpu: int) -> str:
        function = self.dice.choice(EVERYTHING)
        self.scene.driver.fail(function, code=pynvml.NVML_ERROR_UNKNOWN, device=gpu, times=1)
        return function

    def _fail_for_a_while(self, gpu: int) -> str:
        driver, function = self.scene.driver, self.dice.choice(EVERYTHING)
        driver.fail(function, code=pynvml.NVML_ERROR_UNKNOWN, device=gpu)
        seconds = self.dice.uniform(0.2, 8)
        if function in (POWER, AVERAGE, COUNTER):
            self._hide(seconds)  # if what stands in for it fails too
        self._for(seconds, gpu, lambda: driver.fail(function, code=0, device=gpu))
        return f"{function} for {seconds:.2f} s"

    def _hang(self, gpu: int) -> str:
        function, seconds = self.dice.choice(EVERYTHING), self.dice.uniform(0.1, 2)
        self.scene.driver.delay(function, seconds=seconds, device=gpu, times=1)
        # While one hangs, none of the others is read.
        self._hide(seconds)
        began_s = time.monotonic()
        for other in range(GPUS):
            self.events[other] += list(np.arange(began_s, began_s + seconds + 0.2, 0.05))
        return f"{function} for {seconds:.2f} s"

    def _freeze(self, gpu: int) -> str:
        driver = self.scene.driver
        driver.freeze_counter(gpu)
        seconds = self.dice.uniform(SHORTEST_FREEZE_S, 10)
        self._for(seconds, gpu, lambda: driver.freeze_counter(gpu, False))
        return f"for {seconds:.2f} s"

    def _restart(self, gpu: int) -> None:
        self.scene.driver.set_counter(gpu, joules=0)

    def _jump(self, gpu: int) -> None:
        self.scene.driver.shift_counter(gpu, joules=self.dice.choice([-1e6, 1e6]))

    def _lose(self, gpu: int) -> str:
        driver = self.scene.driver

        def set_all(code: int) -> None:
            for function in EVERYTHING:
                driver.fail(function, code=code, device=gpu)

        set_all(pynvml.NVML_ERROR_GPU_IS_LOST)
        seconds = self.dice.uniform(0.5, 8)
        self._hide(seconds)
        self._for(seconds, gpu, lambda: set_all(pynvml.NVML_SUCCESS))
        return f"for {seconds:.2f} s"

    def _remove_folder(self, gpu: int) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _fail_disk(self, gpu: int) -> None:
        def works() -> None:
            self.disk_fails = False

        if self.folder is not None:
            self.disk_fails = True
            self._for(self.dice.uniform(0.5, 5), gpu, works)
