"""The start of a run: what cannot be opened, started or asked then, and what does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import psutil
import pynvml

from energyest import load_trace, track
from energyest.measure.folder import TraceFolder
from simulation.busy import all_waited_s
from simulation.scene import AVERAGE, COUNTER, POWER, Scene
from tests.faults import (
    Check,
    Outcome,
    all_epochs_recorded,
    case,
    fact,
    goes_on,
    nothing_missing,
    quiet,
    status,
    total_unknown,
    unknown,
    warns,
    within,
)
from tests.faults.training import of_trace, train

GOES_ON = "continues, is not delayed"
LOST = pynvml.NVML_ERROR_GPU_IS_LOST
NOT_SUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED
EPOCHS = range(4)
# Nothing is missing, and nothing is said.
whole = (goes_on, all_epochs_recorded, within(1), nothing_missing, quiet)
lost: tuple[Check, ...] = (goes_on, all_epochs_recorded, unknown(*EPOCHS), total_unknown)


@case(
    "one of two GPUs cannot be opened",
    GOES_ON,
    "everything is NaN, because a sum without it would look complete; a warning and a note name it",
    *lost,
    warns("GPU 1"),
    fact("note on it", True),
    simulated=True,
)
def gpu_cannot_be_opened(scene: Scene, folder: Path) -> Outcome:
    scene.driver.fail("nvmlDeviceGetHandleByIndex_v2", device=1, code=LOST)
    outcome = train(scene, folder / "energy", gpus=(0, 1))
    outcome.facts["note on it"] = any("GPU 1" in note for note in scene.trace.meta["notes"])
    return outcome


@case(
    "the board reports neither power nor energy",
    GOES_ON,
    "everything is NaN; one warning",
    *lost,
    warns("neither its power nor its energy"),
    simulated=True,
)
def board_tells_nothing(scene: Scene, folder: Path) -> Outcome:
    for function in (POWER, AVERAGE, COUNTER):
        scene.driver.fail(function, code=NOT_SUPPORTED)
    return train(scene, folder / "energy")


@case(
    "the driver lacks functions, and gives names in another encoding",
    GOES_ON,
    "nothing is missing",
    *whole,
    simulated=True,
)
def old_driver(scene: Scene, folder: Path) -> Outcome:
    for function in ("nvmlDeviceGetMigMode", POWER, "nvmlDeviceGetNumGpuCores"):
        scene.driver.fail(function, code=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    odd = UnicodeDecodeError("utf-8", b"GPU \xff", 4, 5, "invalid start byte")
    with mock.patch.object(pynvml, "nvmlDeviceGetName", side_effect=odd):
        return train(scene, folder / "energy")


@case(
    "the power limit is not known, and the counter jumps ahead by 1 GJ",
    GOES_ON,
    "nothing is missing: three times the data sheet's power is not believed, and power replaces "
    "the counter",
    *whole,
    simulated=True,
)
def limit_is_not_known(scene: Scene, folder: Path) -> Outcome:
    scene.driver.fail("nvmlDeviceGetEnforcedPowerLimit", code=NOT_SUPPORTED)
    at = {1: lambda: scene.driver.shift_counter(0, joules=1e9)}
    return train(scene, folder / "energy", at=at)


@case(
    "there is no /proc",
    GOES_ON,
    "processors and memory are NaN, and so is the total; one warning",
    goes_on,
    fact("epochs NaN", [True, True]),
    fact("GPU known", True),
    warns("cpu:0"),
)
def no_proc(scene: Scene, folder: Path) -> Outcome:
    with (
        mock.patch.object(psutil, "PROCFS_PATH", "/nonexistent"),
        track(folder / "energy", gpus=[0]) as run,
    ):
        for _ in run.epochs(2):
            time.sleep(0.2)
    trace = load_trace(folder / "energy")
    outcome = of_trace(trace)
    outcome.epochs = outcome.planned = len(trace)
    outcome.facts["epochs NaN"] = trace.epochs["energy_J"].isna().tolist()
    outcome.facts["GPU known"] = bool(trace.epochs["gpu_energy_J"].notna().all())
    return outcome


@case(
    "the process cannot start any more threads",
    GOES_ON,
    "everything is NaN, and written when the run ends; one warning",
    *lost,
    warns("can't start new thread"),
)
def no_threads(scene: Scene, folder: Path) -> Outcome:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with mock.patch.object(threading.Thread, "start", refuse):
        return train(scene, folder / "energy", seconds=0.2)


@case(
    "`track()` without `with`, and nobody starts the run",
    "continues",
    "everything is NaN; one warning",
    fact("epochs NaN", [True, True]),
    fact("total is NaN", True),
    status("finished"),
    warns("was not started"),
    simulated=True,
)
def never_started(scene: Scene, folder: Path) -> Outcome:
    run = track(folder / "energy", gpus=[0], components=["gpu"])
    for _ in run.epochs(2):
        scene.clock.sleep(1)
    run.stop()
    trace = load_trace(folder / "energy")
    outcome = of_trace(trace)
    outcome.facts["epochs NaN"] = trace.epochs["energy_J"].isna().tolist()
    outcome.facts["total is NaN"] = trace.total_J != trace.total_J
    return outcome


# ---------------------------------------------------------------------- what does not answer


def begins_soon(scene: Scene, act: Callable[[], Outcome]) -> Outcome:
    """Whether a training begins within 2 s, without the time in which others were busy."""
    before_s = time.monotonic() - all_waited_s()
    outcome = act()
    took_s = scene.ends_s[0] - before_s - all_waited_s()
    outcome.facts["begins within 2 s"] = took_s < 2
    return outcome


@case(
    "`nvmlInit` hangs for 5 s",
    GOES_ON + "; its start takes 1.5 s longer",
    "NaN until NVML answers, and so is the total; from then on, epochs are right; one warning",
    goes_on,
    all_epochs_recorded,
    total_unknown,
    fact("begins within 2 s", True),
    fact("first epochs are NaN, the last one right", True),
    warns("until NVML answers"),
)
def nvml_is_slow(scene: Scene, folder: Path) -> Outcome:
    scene.driver.delay("nvmlInitWithFlags", seconds=5, times=1)
    outcome = begins_soon(scene, lambda: train(scene, folder / "energy", epochs=8))
    first, last = outcome.epoch_errors[0], outcome.epoch_errors[-1]
    is_right = first is None and last is not None and abs(last) < 3
    outcome.facts["first epochs are NaN, the last one right"] = is_right
    return outcome


@case(
    "`nvmlInit` hangs for ever",
    GOES_ON + "; its start takes 1.5 s longer",
    "everything is NaN; one warning; the process ends as it would",
    *lost,
    fact("begins within 2 s", True),
    warns("until NVML answers"),
)
def nvml_hangs(scene: Scene, folder: Path) -> Outcome:
    scene.driver.delay("nvmlInitWithFlags", seconds=600)
    return begins_soon(scene, lambda: train(scene, folder / "energy"))


@case(
    "the disk does not answer for 4 s when the run begins",
    GOES_ON + "; its start takes 1.5 s longer",
    "nothing is missing: it is written from memory once the disk answers; one warning",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    fact("begins within 2 s", True),
    warns("kept in memory"),
)
def disk_is_slow(scene: Scene, folder: Path) -> Outcome:
    claim = TraceFolder.claim

    def slowly(own: TraceFolder, meta: dict[str, object]) -> None:
        time.sleep(4)
        claim(own, meta)

    with mock.patch.object(TraceFolder, "claim", slowly):
        return begins_soon(scene, lambda: train(scene, folder / "energy"))
