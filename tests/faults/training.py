"""A training of a few seconds beside the simulated driver, whose every watt is known."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from energyest import load_trace, track
from energyest.records.trace import EnergyTrace
from simulation.scene import Scene
from tests.faults import Outcome, relative


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
) -> Outcome:
    """Train, with something happening in the middle of some epochs, and compare with the truth.

    Args:
        scene: the simulated GPUs, which draw 300 W and 400 W in turn.
        folder: of the trace.
        epochs: how many.
        seconds: how long each of them lasts.
        gpus: those that are measured.
        at: epoch -> what happens in the middle of it.
        sensors: in place of those of the GPUs.
        load: compare what is on disk afterwards, and not what is in memory.
    """
    at = at or {}
    ends_s, slowest_s = [], 0.0
    for gpu in gpus:
        scene.draw(gpu, 300)
    with track(folder, gpus=gpus, components=["gpu"], sensors=sensors) as run:
        ends_s.append(time.monotonic())
        for epoch in range(epochs):
            before_s = time.monotonic()
            run.start_epoch(epoch, continues=epoch > 0)
            for gpu in gpus:
                scene.draw(gpu, 300 + 100 * (epoch % 2))
            slowest_s = max(slowest_s, time.monotonic() - before_s)
            time.sleep(seconds / 2)
            at.get(epoch, int)()
            time.sleep(seconds / 2)
            ends_s.append(time.monotonic())
            run.end_epoch()
            slowest_s = max(slowest_s, time.monotonic() - ends_s[-1])
        ends_s.append(time.monotonic())
    scene.end_took_s = time.monotonic() - ends_s[-1]
    scene.trace, scene.folder = run.trace, run.folder
    trace = load_trace(run.folder) if load and run.folder is not None else run.trace
    outcome = of_trace(trace)
    outcome.epochs, outcome.planned, outcome.slowest_s = epochs, epochs, round(slowest_s, 3)

    def true_J(start_s: float, end_s: float, of: Sequence[int] = gpus) -> float:
        return sum(scene.energy_J(gpu, start_s, end_s) for gpu in of)

    outcome.error_percent = relative(trace.total_J, true_J(ends_s[0], ends_s[-1]))
    outcome.epoch_errors = [
        relative(float(measured_J), true_J(start_s, end_s))
        for measured_J, start_s, end_s in zip(
            trace.column("energy_J"), ends_s, ends_s[1:-1], strict=False
        )
    ]
    for gpu, device in zip(gpus, trace.devices, strict=True):
        measured = device["energy_J"]
        outcome.device_errors[device["device"]] = (
            None
            if measured is None
            else relative(measured, true_J(ends_s[0], ends_s[-1], of=[gpu]))
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
