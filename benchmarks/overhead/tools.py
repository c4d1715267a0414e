"""A common interface to energyest and its peers: start, epoch edges, stop.

Each is used as documented, with its defaults, except for the following:

- All see one GPU only (`children.one_gpu`), and are told so if their interface asks for it.
- CodeCarbon: `OfflineEmissionsTracker`, because the other tracker asks a server for the country;
  files go into the measurement's folder, and only errors are logged.
- carbontracker asks a server for the country in its constructor and waits for the answer; here the
  look-up fails at once (`children.refuse_network`), and it uses the world's mean.
- If a tool's own thread has to rest between blocks (`Gate`), it waits before a round. CodeCarbon,
  which measures every second, is then set to every two seconds, as it rests half of the time.
"""

from __future__ import annotations

import importlib.util
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

J_PER_KWH = 3.6e6


class Gate:
    """Lets a thread's rounds pass, or makes them wait until it is opened.

    Args:
        interval_s: time between two rounds. After a wait, at most this time passes before the next
            round, so that rounds are as frequent as without a gate.
    """

    def __init__(self, interval_s: float) -> None:
        self._open = threading.Event()
        self._interval_s = interval_s
        self.open, self.close = self._open.set, self._open.clear
        self.open()

    def wait(self) -> None:
        if not self._open.is_set():
            self._open.wait()
            time.sleep(random.uniform(0.0, self._interval_s))

    def guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that it waits for the gate first."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.wait()
            return function(*arguments, **options)

        return call


class Tool:
    """No tool, as the baseline for the others.

    Attributes:
        label: its name in a table.
        package: the distribution that it needs.
        module: the module to import.
        has_edges: whether it is told about epochs.
        energies_J: the GPU energy that it reports for each epoch, in joules; complete after `stop`.
    """

    label = "nothing"
    package = ""
    module = ""
    has_edges = True
    interval_s = 0.1

    def __init__(self) -> None:
        self.energies_J: list[float] = []

    @classmethod
    def is_installed(cls) -> bool:
        return not cls.module or importlib.util.find_spec(cls.module) is not None

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        """Begin to measure.

        Args:
            folder: folder for its files.
            gate: the gate at which its own threads wait before each round.
        """

    def begin(self) -> None:
        """Mark the start of an epoch."""

    def end(self) -> None:
        """Mark the end of an epoch."""

    def edge(self) -> None:
        """Mark the end of an epoch and the start of the next."""
        self.end()
        self.begin()

    def stop(self) -> None:
        """Stop measuring; `energies_J` is then complete."""


class Energyest(Tool):
    """`track()`, with a folder."""

    label = "energyest, all components"
    package = module = "energyest"
    options: ClassVar[dict[str, Any]] = {}

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        from energyest import track

        if gate is not None:
            from energyest.measure.sampling.sampler import Sampler

            Sampler.read_round = gate.guarded(Sampler.read_round)  # type: ignore[method-assign]
        self._run = track(folder / "energy", **self.options)
        self._run.start()
        self.begin, self.end = self._run.start_epoch, self._run.end_epoch  # type: ignore[assignment]

    def stop(self) -> None:
        self._run.stop()
        self.energies_J = [float(joules) for joules in self._run.trace.column("gpu_energy_J")]


class EnergyestGpu(Energyest):
    """The same for the GPU alone."""

    label = "energyest, GPU only"
    options: ClassVar[dict[str, Any]] = {"components": ("gpu",)}


class Zeus(Tool):
    """A window per epoch."""

    label = "Zeus, windows"
    package = module = "zeus"

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        import torch
        from zeus.monitor import ZeusMonitor

        # Without CUDA, to try the script, there is nothing to wait for, and Zeus would not have it.
        self._waits = torch.cuda.is_available()
        self._monitor = ZeusMonitor(gpu_indices=[0])

    def begin(self) -> None:
        self._monitor.begin_window("epoch", sync_execution=self._waits)

    def end(self) -> None:
        measured = self._monitor.end_window("epoch", sync_execution=self._waits)
        self.energies_J.append(float(measured.gpu_energy[0]))


class CodeCarbon(Tool):
    """CodeCarbon, measuring in the background without epochs."""

    label = "CodeCarbon, every 15 s"
    package = module = "codecarbon"
    has_edges = False
    options: ClassVar[dict[str, Any]] = {}

    def _make(self, folder: Path, **options: Any) -> Any:
        from codecarbon import OfflineEmissionsTracker

        return OfflineEmissionsTracker(
            country_iso_code="USA",
            output_dir=str(folder),
            log_level="error",
            gpu_ids=[0],
            **{**self.options, **options},
        )

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        often = {} if gate is None else {"measure_power_secs": 2 * self.interval_s}
        self._tracker = self._make(folder, **often)
        self._tracker.start()
        if gate is not None:
            for scheduler in (self._tracker._scheduler, self._tracker._scheduler_monitor_power):
                scheduler.interval = 2 * self.interval_s
                scheduler.function = gate.guarded(scheduler.function)

    def stop(self) -> None:
        self._tracker.stop()


class CodeCarbonEverySecond(CodeCarbon):
    """The same, more often."""

    label = "CodeCarbon, every 1 s"
    options: ClassVar[dict[str, Any]] = {"measure_power_secs": 1}
    interval_s = 1.0


class CodeCarbonTasks(CodeCarbon):
    """A task per epoch."""

    label = "CodeCarbon, a task per epoch"
    has_edges = True

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        self._tracker = self._make(folder)
        # Once before the first epoch: it looks for its hardware at the first task.
        self._tracker.start_task()
        self._tracker.stop_task()

    def begin(self) -> None:
        self._tracker.start_task()

    def end(self) -> None:
        self.energies_J.append(float(self._tracker.stop_task().gpu_energy) * J_PER_KWH)


class CarbonTracker(Tool):
    """carbontracker, measuring every second, with epochs."""

    label = "carbontracker"
    package = module = "carbontracker"

    def start(self, folder: Path, gate: Gate | None = None) -> None:
        from carbontracker.tracker import CarbonTracker as Tracker

        self._tracker = Tracker(epochs=100_000, log_dir=str(folder))
        time.sleep(2.0)  # its thread looks for its devices

    def begin(self) -> None:
        self._tracker.epoch_start()

    def end(self) -> None:
        self._tracker.epoch_end()

    def stop(self) -> None:
        thread = self._tracker.tracker
        for component in thread.components:
            if component.name == "gpu":
                # What it would add for the building (its PUE) is not in here.
                kWh = component.energy_usage(thread.epoch_times)
                self.energies_J = [float(value) * J_PER_KWH for value in kWh]
        self._tracker.stop()


TOOLS: dict[str, type[Tool]] = {
    "nothing": Tool,
    "energyest": Energyest,
    "energyest-gpu": EnergyestGpu,
    "zeus": Zeus,
    "codecarbon": CodeCarbon,
    "codecarbon-1s": CodeCarbonEverySecond,
    "codecarbon-task": CodeCarbonTasks,
    "carbontracker": CarbonTracker,
}
