"""Trainings beside a driver and a disk that fail at random, and what is checked all along.

Run for an hour by `benchmarks/endurance/soak.py`, whose description says what is judged and how,
and for some seconds by `tests/test_faults.py`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import random
import shutil
import tempfile
import threading
import time
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytorch_lightning as pl
import torch

from energyest import EnergyMonitor, EnergyTrace, load_trace
from energyest.integration import COUNTER_SLACK_S
from energyest.measure.sensors import detect
from simulation.busy import all_waited_s
from simulation.fake_nvml import FakeNvml, build
from simulation.scene import Scene
from simulation.trainers import quiet_trainer
from simulation.world import GPUS, HIGHEST_W, World

BATCHES, STEP_S = 8, 0.05
# Some trainings have few long epochs of steady power, in which readings become fewer.
SLOW_SHARE, SLOW_EPOCHS, SLOW_STEP_S = 0.4, 6, 1.25
# So long after the end of what keeps a GPU from being read, it is read again at the latest; later,
# by as much as the threads have to wait for others that are busy. What is not longer than this, to
# the next reading, is bridged.
AFTER_S, BRIDGED_S = 1.0, 5.0
# So long after a training, calls that hung have come back, on any machine.
LEAK_S = 60.0
# So many trainings it takes to judge the files that are open, and the memory.
RUNS_FOR_FILES, SETTLED_RUNS_FOR_MEMORY = 3, 15
# What memory gains in less time is noise, and not to be extrapolated to an hour.
SETTLED_S_FOR_MEMORY = 1200.0
# Growth of memory per hour that passes for noise of the allocator, in bytes.
NOISE_BYTES = 20e6


class AccidentError(Exception):
    """What breaks a training off."""


class Net(pl.LightningModule):
    """A small net, with dropout, so that a monitor that draws random numbers shows."""

    def __init__(self, losses: list[float], step_s: float) -> None:
        super().__init__()
        self.losses, self.step_s = losses, step_s
        self.net = torch.nn.Sequential(
            torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 1)
        )

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(self.step_s)
        loss = self.net(batch[0]).square().mean()
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.step_s)
        self.log("val_loss", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def fit(folder: Path, epochs: int, *callbacks: Any, step_s: float) -> tuple[list[float], Any]:
    """Train from the same beginning each time; returns the losses so far, whatever happens."""
    losses: list[float] = []
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(8 * BATCHES, 16))
    trainer = quiet_trainer(pl, folder, *callbacks, max_epochs=epochs)
    train = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    validation = torch.utils.data.DataLoader(data[:16][0].split(1), batch_size=8)
    model = Net(losses, step_s)
    try:
        trainer.fit(model, train, validation)
        trainer.validate(model, validation, verbose=False)
    except AccidentError:
        pass
    return losses, trainer


class Watch(pl.Callback):
    """Lets the world rage while training runs, looks after the thread, and may break off."""

    def __init__(self, soak: Soak, monitor: EnergyMonitor, accident: int | None) -> None:
        self.soak, self.monitor, self.accident = soak, monitor, accident
        self.began_s = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.began_s = all_waited_s()
        if self.soak.runs > 1:
            self.soak.world.rage(self.monitor.folder)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # The first epoch of all is calm: where nothing is measured at all, it has no excuse.
        if self.soak.runs == 1 and trainer.current_epoch == 0:
            self.soak.world.rage(self.monitor.folder)
        self.soak.epochs += 1
        self.soak.busy_s = all_waited_s() - self.began_s
        names = [thread.name for thread in threading.enumerate()]
        for name in ("energyest-sampler", "energyest-writer"):
            if name not in names:
                self.soak.violated(f"{name} is not alive")
        if trainer.current_epoch == self.accident:
            self.soak.world.rest()
            raise AccidentError

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.soak.world.rest()


class Soak:
    """The whole of it."""

    def __init__(self, minutes: float, seed: int, folder: Path, keep: Path | None) -> None:
        self.minutes, self.folder, self.keep = minutes, folder, keep
        self.scene = Scene(FakeNvml(build(folder)))
        self.world = World(self.scene, seed)
        self.dice = random.Random(seed + 1)
        self.epochs = self.rows = self.unknown_rows = self.runs = 0
        self.worst = 0.0
        self.violations: list[str] = []
        self.files: list[int] = []
        self.memory: list[tuple[float, int]] = []
        # The same for Python's objects alone, if they are traced (`tracemalloc`).
        self.objects: list[tuple[float, int]] = []
        #: How long the threads had to wait for others in the training under way.
        self.busy_s = 0.0

    def violated(self, what: str) -> None:
        """Note what is not as it should be."""
        self.violations.append(what)
        print(f"VIOLATED after {self.epochs} epochs: {what}", flush=True)

    def run(self) -> None:
        """Train until the time is up."""
        epochs = 60 if self.minutes >= 5 else 15
        reference, _ = fit(self.folder, epochs, step_s=0)
        until_s = time.monotonic() + 60 * self.minutes
        self.world.start()
        monitor = EnergyMonitor(self.folder / "energy", sensors=(), count_flops=False)
        with self.world.disk():
            while time.monotonic() < until_s:
                self._train(monitor, epochs, reference)
                self._look_for_leaks()
        self.world.stop()
        self._judge_memory()

    def _train(self, monitor: EnergyMonitor, epochs: int, reference: list[float]) -> None:
        self.runs += 1
        is_slow = self.minutes >= 5 and self.dice.random() < SLOW_SHARE
        step_s = STEP_S
        if is_slow:
            epochs, step_s = SLOW_EPOCHS, SLOW_STEP_S
        self.world.begin(is_steady=is_slow)
        # The sensors of the training before were closed with it.
        monitor._sensors = detect(range(GPUS), components=["gpu"])
        accident = self.dice.randrange(1, epochs) if self.dice.random() < 0.25 else None
        callbacks: list[Any] = [monitor]
        if self.dice.random() < 0.3:
            sensors = detect([0], components=["gpu"])
            callbacks.append(
                EnergyMonitor(self.folder / "second", sensors=sensors, count_flops=False)
            )
        callbacks.append(Watch(self, monitor, accident))
        losses, _ = fit(self.folder, epochs, *callbacks, step_s=step_s)
        self.world.rest()
        steps = BATCHES * (epochs if accident is None else accident + 1)
        if losses != reference[:steps]:
            self.violated(f"the losses of run {self.runs} differ, or are {len(losses)} of {steps}")
        rows = epochs if accident is None else accident + 1
        if len(monitor.trace) != rows:
            self.violated(f"run {self.runs} has {len(monitor.trace)} rows, not {rows}")
        assert monitor._session is not None
        self._judge_energy(monitor.trace, monitor._session._recorder._origin_s)
        self._judge_disk(monitor)
        if monitor.folder is not None:
            shutil.rmtree(monitor.folder)
        for left in self.folder.glob("second*"):
            shutil.rmtree(left)

    def _judge_energy(self, trace: EnergyTrace, origin_s: float) -> None:
        columns = (trace.column(name) for name in ("start_s", "end_s", "energy_J"))
        spans = [*zip(*columns, strict=True)]
        for start_s, end_s, energy_J in spans:
            self.rows += 1
            tolerance_J = sum(
                self._unknown_J(trace, g, start_s, end_s, origin_s) for g in range(GPUS)
            )
            if math.isnan(energy_J):
                self.unknown_rows += 1
                if not self._may_be_unknown(start_s, end_s, origin_s):
                    self._violated_by(trace, start_s, end_s, origin_s, "NaN without a long gap")
                continue
            true_J = self._true_J(origin_s + start_s, origin_s + end_s)
            self.worst = max(self.worst, abs(energy_J - true_J) / tolerance_J)
            if abs(energy_J - true_J) > tolerance_J:
                what = f"{energy_J:.1f} J, not {true_J:.1f} J ± {tolerance_J:.1f} J"
                self._violated_by(trace, start_s, end_s, origin_s, what)
        self._judge_total(trace, origin_s)

    def _violated_by(
        self, trace: EnergyTrace, start_s: float, end_s: float, origin_s: float, what: str
    ) -> None:
        faults = [
            f"{name} {gpu} at {at_s - origin_s:.2f} s"
            for at_s, name, gpu in self.world.faults
            if start_s - 15 < at_s - origin_s < end_s
        ]
        where = f"run {self.runs}, epoch at {start_s:.2f} to {end_s:.2f} s"
        self.violated(f"{where}: {what}; before: {', '.join(faults)}")
        if self.keep is not None:
            trace.save(self.keep / f"run-{self.runs}-at-{start_s:.1f}")

    def _judge_total(self, trace: EnergyTrace, origin_s: float) -> None:
        """The run began with its first reading, and had no pauses."""
        end_s = float(trace.power_columns["time_s"].max())
        start_s = end_s - trace.meta["duration_s"]
        if trace.meta.get("total_J") is None:
            if not self._may_be_unknown(start_s, end_s, origin_s):
                self.violated(f"run {self.runs} has no total without fault")
        else:
            tolerance_J = sum(
                self._unknown_J(trace, gpu, start_s, end_s, origin_s) for gpu in range(GPUS)
            )
            # The end is known to a round of readings.
            tolerance_J += 2 * GPUS * 0.1 * HIGHEST_W
            true_J = self._true_J(origin_s + start_s, origin_s + end_s)
            if abs(trace.total_J - true_J) > tolerance_J:
                self.violated(f"run {self.runs} cost {trace.total_J:.0f} J, not {true_J:.0f} J")

    def _may_be_unknown(self, since_s: float, until_s: float, origin_s: float) -> bool:
        """Whether, between two instants, GPUs could not be read for so long that it is a gap."""
        gaps: list[list[float]] = []
        for began_s, ended_s in sorted(self.world.hidden):
            if not gaps or began_s > gaps[-1][1]:
                gaps.append([began_s, began_s])
            gaps[-1][1] = max(gaps[-1][1], ended_s + AFTER_S + self.busy_s)
        return any(
            ended_s - began_s > BRIDGED_S
            and began_s - origin_s <= until_s
            and since_s <= ended_s - origin_s
            for began_s, ended_s in gaps
        )

    def _true_J(self, start_s: float, end_s: float) -> float:
        return sum(self.scene.energy_J(gpu, start_s, end_s) for gpu in range(GPUS))

    def _unknown_J(
        self, trace: EnergyTrace, gpu: int, start_s: float, end_s: float, origin_s: float
    ) -> float:
        """What readings of a GPU leave open of its energy between two instants."""
        columns = trace.power_columns
        own = columns["device"] == f"gpu:{gpu}"
        time_s, power_W, energy_J = (columns[n][own] for n in ("time_s", "power_W", "energy_J"))
        # A counter that stands still, with no power beside it, tells nothing.
        counted = np.flatnonzero(np.isfinite(energy_J))
        moved = counted[np.diff(energy_J[counted], prepend=math.nan) != 0]
        read = np.isfinite(power_W)
        read[moved] = True
        time_s = time_s[read]
        # A GPU that is not read any more is taken to go on as it was, for some seconds.
        time_s = np.append(time_s, max(time_s[-1], columns["time_s"].max()))
        events = np.sort(np.array(self.world.events[gpu])) - origin_s
        since_s, until_s = time_s[:-1], time_s[1:]
        open_s = 0.0
        for a, b in zip(since_s, until_s, strict=True):
            if b > start_s and a < end_s:
                # A counter that stands still is noticed after so long.
                at_edge = a <= start_s or b >= end_s or b > time_s[-1] - COUNTER_SLACK_S
                changed = np.searchsorted(events, b) > np.searchsorted(events, a)
                if at_edge or changed:
                    open_s += b - a
        return open_s * HIGHEST_W

    def _judge_disk(self, monitor: EnergyMonitor) -> None:
        if monitor.folder is None:
            self.violated(f"run {self.runs} is not on the disk")
            return
        on_disk, in_memory = load_trace(monitor.folder), monitor.trace
        for name in ("energy_J", "duration_s", "steps"):
            if not np.allclose(on_disk.column(name), in_memory.column(name), equal_nan=True):
                self.violated(f"run {self.runs}: {name} on the disk is not that in memory")
        if len(on_disk.power) != len(in_memory.power):
            self.violated(
                f"run {self.runs}: {len(on_disk.power)} readings on the disk, "
                f"{len(in_memory.power)} in memory"
            )
        if on_disk.meta.get("total_J") != in_memory.meta.get("total_J"):
            self.violated(f"run {self.runs}: the total on the disk is not that in memory")

    def _look_for_leaks(self) -> None:
        give_up_s = time.monotonic() + LEAK_S
        while left := [t.name for t in threading.enumerate() if t.name.startswith("energyest")]:
            if time.monotonic() > give_up_s:
                self.violated(f"threads are left: {left}")
                break
            time.sleep(0.1)
        self.files.append(len(_files()))
        # The first trainings open some that stay.
        if len(self.files) >= RUNS_FOR_FILES and self.files[-1] > max(self.files[:2]):
            self.violated(f"{self.files[-1]} files are open, {self.files[:2]} at first: {_files()}")
        now_s = time.monotonic()
        self.memory.append((now_s, psutil.Process().memory_info().rss))
        if tracemalloc.is_tracing():
            gc.collect()
            self.objects.append((now_s, tracemalloc.get_traced_memory()[0]))

    @property
    def _settled(self) -> list[tuple[float, int]]:
        """Memory after the first third, in which caches fill."""
        return _settled(self.memory)

    def _judge_memory(self) -> None:
        settled = self._settled
        if len(settled) >= 5:
            slope = _slope(settled)
            print(f"memory grows by {slope * 3600 / 1e6:+.1f} MB an hour")
            span_s = max(3600.0, settled[-1][0] - settled[0][0])
            # Tracing itself takes memory.
            if slope * span_s > NOISE_BYTES and self._judges_memory and not self.objects:
                self.violated("memory grows")
            if self.objects:
                an_hour = 3600 * _slope(_settled(self.objects)) / 1e6
                print(f"Python's objects grow by {an_hour:+.2f} MB an hour")

    @property
    def _judges_memory(self) -> bool:
        settled = self._settled
        return (
            len(settled) >= SETTLED_RUNS_FOR_MEMORY
            and settled[-1][0] - settled[0][0] >= SETTLED_S_FOR_MEMORY
        )

    def report(self) -> None:
        """Say what it came to."""
        faults = ", ".join(f"{name} {n}" for name, n in sorted(self.world.counts.items()))
        print(f"{self.runs} trainings, {self.epochs} epochs; faults: {faults or 'none'}")
        print(
            f"energy of {self.rows} epochs: {self.unknown_rows} NaN, the others within "
            f"{self.worst:.2f} of what the readings leave open"
        )
        left_out = [
            *([] if self.runs >= RUNS_FOR_FILES else ["open files"]),
            *([] if self._judges_memory else ["growth of memory"]),
        ]
        if left_out:
            print(f"not judged in so short a time: {', '.join(left_out)}")
        print(f"violations: {len(self.violations)}")


def _settled(memory: list[tuple[float, int]]) -> list[tuple[float, int]]:
    return memory[len(memory) // 3 :]


def _slope(memory: list[tuple[float, int]]) -> float:
    """Bytes per second."""
    seconds, sizes = zip(*memory, strict=True)
    return float(np.polyfit(np.array(seconds) - seconds[0], sizes, 1)[0])


def _files() -> list[str]:
    """Names of the files that are open, but for those that torch shares between processes."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself is gone
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return [name for name in names if not name.startswith("/dev/shm/torch")]


def soak(minutes: float, seed: int, keep: Path | None = None) -> Soak:
    """Train for so many minutes; needs a C compiler, and the process for itself.

    Args:
        minutes: how long; the last training is brought to its end.
        seed: of all that happens at random.
        keep: a folder for traces that violate something.
    """
    for name in ("pytorch_lightning", "lightning.pytorch", "energyest"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    with tempfile.TemporaryDirectory() as folder:
        made = Soak(minutes, seed, Path(folder), keep)
        made.run()
    made.report()
    return made
