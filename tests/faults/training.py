"""A training of a few seconds beside the simulated driver, whose every watt is known."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pynvml

from energyest import load_trace, track
from energyest.records.trace import EnergyTrace
from simulation.busy import held_up_s, waited_s
from simulation.scene import COUNTER, Scene
from simulation.stepped import RealClock
from tests.faults import Outcome, relative

# What a GPU draws by the real clock; by a simulated one, a third more in every other epoch.
WATTS, MORE_W = 300.0, 400.0


def draw_exactly(scene: Scene, gpu: int = 0) -> None:
    """Draw always the same, without a counter: energy is exact, whenever the GPU is read."""
    scene.draw(gpu, WATTS)
    scene.driver.fail(COUNTER, code=pynvml.NVML_ERROR_NOT_SUPPORTED, device=gpu)


def train(
    scene: Scene,
    folder: Path | None,
    *,
    epochs: int = 4,
    seconds: float = 1.0,
    gpus: Sequence[int] = (0,),
    at: Mapping[int, Callable[[], object]] | None = None,
    sensors: Sequence[Any] | None = None,
    load: bool = True,
    counter: bool = False,
) -> Outcome:
    """Train, with something happening in the middle of some epochs, and compare with the truth.

    By the simulated clock, the truth is what the GPUs drew between the edges of the epochs. By the
    real one, on which threads may be late, power is constant, and the truth is power × duration.

    Args:
        scene: the simulated GPUs, and the clock.
        folder: of the trace.
        epochs: how many.
        seconds: how long each of them lasts.
        gpus: those that are measured.
        at: epoch -> what happens in the middle of it.
        sensors: in place of those of the GPUs.
        load: compare what is on disk afterwards, and not what is in memory.
        counter: by the real clock, too, GPUs have an energy counter.
    """
    at = at or {}
    clock, simulated = scene.clock, not isinstance(scene.clock, RealClock)
    calls_s = [0.0]
    for gpu in gpus:
        if simulated or counter:
            scene.draw(gpu, WATTS)
        else:
            draw_exactly(scene, gpu)
    with track(folder, gpus=gpus, components=["gpu"], sensors=sensors) as run:
        ends_s = [clock()]
        for epoch in range(epochs):
            calls_s.append(held_up_s(partial(run.start_epoch, epoch, continues=epoch > 0)))
            for gpu in gpus if simulated else ():
                scene.draw(gpu, MORE_W if epoch % 2 else WATTS)
            clock.sleep(seconds / 2)
            at.get(epoch, int)()
            clock.sleep(seconds / 2)
            ends_s.append(clock())
            calls_s.append(held_up_s(run.end_epoch))
        ends_s.append(clock())
        scene.end_took_s = -time.monotonic() + waited_s()
    scene.end_took_s += time.monotonic() - waited_s()
    scene.trace, scene.folder, scene.ends_s = run.trace, run.folder, ends_s
    trace = load_trace(run.folder) if load and run.folder is not None else run.trace
    outcome = of_trace(trace)
    outcome.epochs = outcome.planned = epochs
    outcome.slowest_s = None if simulated else round(max(calls_s), 3)

    def true_J(start_s: float, end_s: float, duration_s: float, of: Sequence[int] = gpus) -> float:
        if simulated:
            return sum(scene.energy_J(gpu, start_s, end_s) for gpu in of)
        return WATTS * len(of) * duration_s

    whole = ends_s[0], ends_s[-1], float(trace.meta.get("duration_s", math.nan))
    outcome.error_percent = relative(trace.total_J, true_J(*whole))
    columns = (trace.column(name).tolist() for name in ("energy_J", "duration_s"))
    outcome.epoch_errors = [
        relative(measured_J, true_J(start_s, end_s, duration_s))
        for start_s, end_s, measured_J, duration_s in zip(
            ends_s, ends_s[1:-1], *columns, strict=False
        )
    ]
    for gpu, device in zip(gpus, trace.devices, strict=True):
        measured = device["energy_J"]
        outcome.device_errors[device["device"]] = (
            None if measured is None else relative(measured, true_J(*whole, of=[gpu]))
        )
    return outcome


def of_trace(trace: EnergyTrace) -> Outcome:
    """What a trace says of its own run."""
    return Outcome(
        recorded=len(trace),
        missing_s={d["device"]: round(d.get("missing_s", 0.0), 3) for d in trace.devices},
        failed={d["device"]: d.get("failed_readings", 0) for d in trace.devices},
        status=str(trace.meta.get("status")),
    )


def in_a_fork(act: Callable[[], object]) -> int:
    """Do something in a forked process; returns its pid. It ends as any Python process does."""
    pid = os.fork()
    if pid == 0:
        act()
        sys.exit(0)
    return pid


def exit_status_of(pid: int) -> int:
    """Wait for a process; -9 if it was killed by signal 9."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def collect_warnings(folder: Path) -> Callable[[], list[str]]:
    """From now on, keep what is logged, also in forked processes; returns how to read it."""
    file, own_pid = folder / "warnings.jsonl", os.getpid()
    kept: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if os.getpid() == own_pid:
                kept.append(record.getMessage())
                return
            with open(file, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(record.getMessage()) + "\n")

    logger = logging.getLogger("energyest")
    logger.handlers = [Keeper(logging.WARNING)]
    logger.propagate = False

    def read() -> list[str]:
        lines = file.read_text().splitlines() if file.exists() else []
        return [*kept, *map(json.loads, lines)]

    return read
