"""The disk: full, gone, or slow."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from unittest import mock

import numpy as np

from energyest import load_trace, track
from energyest.records import own_files
from simulation.scene import Scene
from tests.faults import (
    Outcome,
    all_epochs_recorded,
    case,
    fact,
    goes_on,
    nothing_missing,
    quiet,
    warns,
    within,
)
from tests.faults.training import train

GOES_ON = "continues, is not delayed"
WRITER = "energyest.measure.writer"
write = own_files.write


class FullDisk:
    """While it is full, a write takes the first bytes of what it is given, and then fails."""

    def __init__(self) -> None:
        self.full = False

    def write(self, file: FileIO, text: str) -> None:
        write(file, text[:20] if self.full else text)
        self.fail_if_full()

    def fail_if_full(self) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill(self) -> None:
        self.full = True

    def clear(self) -> None:
        self.full = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with mock.patch.object(own_files, "write", self.write):
            yield


@case(
    "the disk is full from the second epoch to the end",
    GOES_ON,
    "what fitted on the disk stays readable; in memory, the trace is complete and can be saved "
    "elsewhere",
    goes_on,
    within(1),
    nothing_missing,
    warns("cannot be written"),
    fact("rows on disk can be read", True),
    fact("rows saved elsewhere", 4),
)
def disk_is_full(scene: Scene, folder: Path) -> Outcome:
    disk = FullDisk()
    with disk.in_use():
        outcome = train(scene, folder / "energy", at={1: disk.fill}, load=False)
    # The first row, if it was written before the disk was full: on a busy machine, it may not be.
    on_disk = load_trace(folder / "energy").column("energy_J")
    in_memory = scene.trace.column("energy_J")[: len(on_disk)]
    outcome.facts["rows on disk can be read"] = len(on_disk) <= 1 and np.allclose(
        on_disk, in_memory
    )
    outcome.facts["rows saved elsewhere"] = len(load_trace(scene.trace.save(folder / "saved")))
    return outcome


@case(
    "the disk is full for 3 s",
    GOES_ON,
    "is written again from memory and then complete; one warning, and one line when it works again",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    warns("cannot be written", "whole trace is written again"),
    fact("readings on disk are those in memory", True),
)
def disk_is_full_for_a_while(scene: Scene, folder: Path) -> Outcome:
    disk = FullDisk()
    with disk.in_use(), mock.patch(f"{WRITER}._RETRY_S", 1.0):
        at = {1: disk.fill, 4: disk.clear}
        return compared(scene, train(scene, folder / "energy", at=at, epochs=8))


def compared(scene: Scene, outcome: Outcome) -> Outcome:
    assert scene.folder is not None
    on_disk, in_memory = load_trace(scene.folder), scene.trace
    outcome.facts["readings on disk are those in memory"] = len(on_disk.power) == len(
        in_memory.power
    )
    return outcome


@case(
    "the folder of the trace vanishes",
    GOES_ON,
    "is written again from memory, in the same place",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    warns("was removed"),
    fact("readings on disk are those in memory", True),
)
def folder_vanishes(scene: Scene, folder: Path) -> Outcome:
    at = {1: lambda: shutil.rmtree(folder / "energy")}
    return compared(scene, train(scene, folder / "energy", at=at))


@case(
    "the folder vanishes, and another run takes its name",
    GOES_ON,
    "is written again, beside the other run's; both are complete",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    fact("own folder", "energy-2"),
    fact("rows of the other run", 1),
)
def folder_is_taken(scene: Scene, folder: Path) -> Outcome:
    def another() -> None:
        with track(folder / "other", gpus=[1], components=["gpu"]) as run:
            run.start_epoch()
            run.end_epoch()
        # At once, as readings are written meanwhile, which would make the folder again.
        (folder / "energy").rename(folder / "removed")
        (folder / "other").rename(folder / "energy")
        shutil.rmtree(folder / "removed")

    outcome = train(scene, folder / "energy", at={1: another})
    assert scene.folder is not None
    outcome.facts["own folder"] = scene.folder.name
    outcome.facts["rows of the other run"] = len(load_trace(folder / "energy"))
    return outcome


@case(
    "the folder is moved, and the training changes its working directory",
    GOES_ON,
    "is written again where it was meant to be; what was moved stays as it was",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    fact("moved trace can be read", True),
)
def folder_is_moved(scene: Scene, folder: Path) -> Outcome:
    os.chdir(folder)

    def move() -> None:
        (folder / "energy").rename(folder / "moved")
        (folder / "elsewhere").mkdir()
        os.chdir(folder / "elsewhere")

    outcome = train(scene, Path("energy"), at={1: move})
    outcome.facts["moved trace can be read"] = len(load_trace(folder / "moved")) >= 1
    assert not any((folder / "elsewhere").iterdir())
    return outcome


def exchange(folder: Path, take_place: Callable[[Path, Path], None]) -> Callable[[], None]:
    """Moves the trace's folder away and puts something of the user's in its place."""

    def move() -> None:
        (folder / "energy").rename(folder / "moved")
        (folder / "mine").mkdir()
        (folder / "mine/meta.json").write_text("mine")
        take_place(folder / "mine", folder / "energy")

    return move


def kept_in_memory(scene: Scene, folder: Path, outcome: Outcome) -> Outcome:
    outcome.facts["rows saved elsewhere"] = len(load_trace(scene.trace.save(folder / "saved")))
    held = {path.name: path.read_text() for path in (folder / "energy").iterdir()}
    outcome.facts["what took its place is as it was"] = held == {"meta.json": "mine"}
    outcome.facts["a note says so"] = "taken the place" in scene.trace.meta["notes"][-1]
    return outcome


# A folder that is exchanged is not written through.
stays_in_memory = (
    goes_on,
    within(1),
    nothing_missing,
    warns("taken the place"),
    fact("rows saved elsewhere", 4),
    fact("what took its place is as it was", True),
    fact("a note says so", True),
)


@case(
    "the folder is moved, and a link to a folder of the user takes its place",
    GOES_ON,
    "is complete in memory; nothing is written through the link; one warning and a note",
    *stays_in_memory,
)
def folder_is_exchanged_for_a_link(scene: Scene, folder: Path) -> Outcome:
    at = {1: exchange(folder, lambda mine, energy: energy.symlink_to(mine))}
    return kept_in_memory(scene, folder, train(scene, folder / "energy", at=at, load=False))


@case(
    "the folder is moved, and another folder of the user takes its place",
    GOES_ON,
    "is complete in memory; nothing is written to that folder; one warning and a note",
    *stays_in_memory,
)
def folder_is_exchanged_for_another(scene: Scene, folder: Path) -> Outcome:
    at = {1: exchange(folder, lambda mine, energy: mine.rename(energy))}
    return kept_in_memory(scene, folder, train(scene, folder / "energy", at=at, load=False))


@case(
    "the folder contains files of the user with the names of a trace's files, and links with those "
    "of drafts",
    GOES_ON,
    "is complete, beside it; the files stay as they were; one warning says where it went",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    warns("which is not part of a trace"),
    fact("own folder", "energy-2"),
    fact("what was there is as it was", True),
)
def folder_holds_files(scene: Scene, folder: Path) -> Outcome:
    (folder / "energy").mkdir()
    (folder / "victim").write_text("mine")
    for name in ("meta.json", "power.csv"):
        (folder / "energy" / name).write_text("mine")
        (folder / "energy" / f"{name}.new").symlink_to(folder / "victim")
    outcome = train(scene, folder / "energy")
    assert scene.folder is not None
    outcome.facts["own folder"] = scene.folder.name
    held = [path.read_text() for path in (folder / "energy").iterdir()]
    outcome.facts["what was there is as it was"] = held == 4 * ["mine"]
    return outcome


def slow_disk(seconds: float) -> tuple[Callable[[], None], Callable[..., None]]:
    """Something that lets the next write hang for so long, and what to patch the writing with."""
    hangs = threading.Event()

    def slowly(file: FileIO, text: str) -> None:
        if hangs.is_set():
            hangs.clear()
            time.sleep(seconds)
        write(file, text)

    return hangs.set, slowly


@case(
    "the disk does not answer for 7 s",
    GOES_ON,
    "nothing is missing: readings and rows wait in memory",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    warns("has not accepted the trace for seconds"),
    fact("readings on disk are those in memory", True),
)
def disk_stalls(scene: Scene, folder: Path) -> Outcome:
    stall, slowly = slow_disk(7)
    with mock.patch.object(own_files, "write", slowly):
        outcome = train(scene, folder / "energy", at={1: stall}, epochs=10)
    return compared(scene, outcome)


@case(
    "the disk does not answer for longer than the queue may grow",
    GOES_ON,
    "nothing is missing: it is written again from memory",
    goes_on,
    all_epochs_recorded,
    within(1),
    nothing_missing,
    quiet,
    fact("readings on disk are those in memory", True),
)
def disk_stalls_too_long(scene: Scene, folder: Path) -> Outcome:
    stall, slowly = slow_disk(3)
    with (
        mock.patch(f"{WRITER}._MOST_WAITING", 25),
        mock.patch.object(own_files, "write", slowly),
    ):
        outcome = train(scene, folder / "energy", at={1: stall}, epochs=6)
    return compared(scene, outcome)


@case(
    "the disk does not answer any more",
    GOES_ON + "; its end takes 2 s longer",
    "complete in memory; on disk, it ends where the disk did; a warning at the end",
    goes_on,
    within(1),
    nothing_missing,
    warns("the disk hangs"),
    fact("its end takes less than 3 s", True),
)
def disk_hangs(scene: Scene, folder: Path) -> Outcome:
    stall, slowly = slow_disk(100)
    with mock.patch.object(own_files, "write", slowly):
        outcome = train(scene, folder / "energy", at={1: stall}, load=False)
    outcome.facts["its end takes less than 3 s"] = scene.end_took_s < 3
    return outcome


@case(
    "there is a file where the folder should be",
    GOES_ON,
    "is in memory; one warning",
    goes_on,
    within(1),
    nothing_missing,
    warns("cannot be written"),
)
def folder_cannot_be_made(scene: Scene, folder: Path) -> Outcome:
    (folder / "file").touch()
    return train(scene, folder / "file" / "energy", epochs=2)
