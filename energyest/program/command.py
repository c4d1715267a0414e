"""`energyest run -- PROGRAM`: measures a program from outside, unnoticed by it.

Nothing here may harm the program: if measuring fails, a message says so, and the program runs on.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from energyest.errors import ConfigurationError
from energyest.program.child import Child, end_as, hold_signals
from energyest.program.epoch_patterns import (
    BUILT_IN,
    Edge,
    EpochPattern,
    EpochReader,
    LineReader,
    users_pattern,
)
from energyest.program.output import Tap, make_taps

if TYPE_CHECKING:
    from energyest.measure.sensors import Kind
    from energyest.program.program_run import ProgramRun
    from energyest.tracking.session import Session

log = logging.getLogger("energyest")

# Exit statuses of shells.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
# The number of this copy among several on a machine, by launcher.
_LOCAL_RANKS = ("SLURM_LOCALID", "LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
# The most pieces of output that wait to be read for epochs; further ones are dropped.
_MOST_PIECES = 1000
# How long to wait, after the program's end, until its last lines were read.
_LAST_LINES_S = 5.0


@dataclass(frozen=True)
class RunOptions:
    """How a program is to be run and measured.

    Attributes:
        program: the program and its arguments.
        folder: where the trace goes.
        epochs: epochs planned, if the output does not tell.
        epoch_pattern: regular expression of a line that names an epoch; see `users_pattern`.
        epoch_edge: whether an epoch begins or ends where `epoch_pattern` first finds its number.
        gpus: GPUs to measure, as "0,1"; None for those that CUDA shows.
        components: kinds of devices to measure, as "gpu,cpu,ram"; also "module" and "system".
        verbose: whether each epoch and its projection is said.
        quiet: whether the summary at the end is left out.
    """

    program: tuple[str, ...]
    folder: str = "energy"
    epochs: int | None = None
    epoch_pattern: str | None = None
    epoch_edge: Edge = "ends"
    gpus: str | None = None
    components: str = "gpu,cpu,ram"
    verbose: bool = False
    quiet: bool = False


def run_program(options: RunOptions) -> int:
    """Run a program under measurement.

    Returns:
        The program's exit status; 127 if there is no such program, 126 if it cannot be run.

    Raises:
        ConfigurationError: an option is invalid; the program was not run.
    """
    command = list(options.program)
    if not command:
        raise ConfigurationError("energyest run needs a program: energyest run -- python train.py")
    if options.epochs is not None and options.epochs < 1:
        raise ConfigurationError(f"--epochs {options.epochs}: must be 1 or more")
    patterns: Sequence[EpochPattern] = BUILT_IN
    if options.epoch_pattern is not None:
        patterns = (users_pattern(options.epoch_pattern, options.epoch_edge),)
    logging.basicConfig(format="%(message)s", level=logging.INFO if options.verbose else None)
    for name in _LOCAL_RANKS:
        if os.environ.get(name, "0") != "0":
            log.debug("energyest: %s=%s: the first copy measures", name, os.environ[name])
            return _become(command)
    held = hold_signals()  # before any library starts a thread
    return _Measured(options, EpochReader(patterns)).run(command, held)


def _become(command: list[str]) -> int:
    """Replace this process by the program, without measuring."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # signals that Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return _not_started(command, error)


def _not_started(command: list[str], error: OSError) -> int:
    _say(f"{command[0]}: {error.strerror or error}")
    return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr may be closed
        sys.stderr.write(f"energyest: {text}\n")
        sys.stderr.flush()


class _Measured:
    """One program under measurement."""

    def __init__(self, options: RunOptions, epochs: EpochReader) -> None:
        self._options = options
        self._epochs = epochs
        self._run: ProgramRun | None = None
        self._session: Session | None = None
        self._pieces: queue.Queue[tuple[int, bytes] | None] = queue.Queue(_MOST_PIECES)
        self._has_lost_lines = False

    def run(self, command: list[str], held: set[signal.Signals]) -> int:
        if shutil.which(command[0]) is not None:  # else there is nothing to measure
            self._attempt(self._begin)
        taps = make_taps()
        # When writing to a pipe, Python would show an epoch only when its buffer is full.
        environment = {"PYTHONUNBUFFERED": "1", **os.environ}
        try:
            child = Child(command, environment, taps, held)
        except OSError as error:
            self._attempt(lambda: self._end("not started"))
            return _not_started(command, error)
        for number, tap in enumerate(taps):
            tap.start(self._copier(number))
        reader = threading.Thread(target=self._read, name="energyest-lines", daemon=True)
        reader.start()
        status = child.wait(self._pause)
        self._finish(taps, reader, status)
        return end_as(status)

    def _begin(self) -> None:
        # Imported here because they are slow to import, and start threads.
        from energyest.program.program_run import ProgramRun  # noqa: PLC0415
        from energyest.settings import settings  # noqa: PLC0415
        from energyest.tracking.checks import check_folder, check_settings  # noqa: PLC0415
        from energyest.tracking.session import Session  # noqa: PLC0415
        from energyest.tracking.track import find_sensors  # noqa: PLC0415

        options = self._options
        # What is no kind is refused in the next line.
        components = cast("list[Kind]", options.components.split(","))
        check_settings(0.9, 0.1, components, None)
        gpus = [int(g) if g.isdigit() else g for g in (options.gpus or "").split(",") if g]
        session = Session(
            find_sensors(gpus or None, components, None),
            folder=check_folder(options.folder),
            interval_s=0.1,
            confidence=0.9,
        )
        session.describe(**settings().basis.as_meta())
        tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
        if tasks != "1":
            session.note(
                f"{tasks} tasks run on this machine: only the GPUs seen by the first are measured"
            )
        self._session, self._run = session, ProgramRun(session, options.epochs)
        self._run.start()

    def _pause(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self._session is None else self._session.pause()

    def _copier(self, number: int) -> Callable[[bytes], None]:
        def copy(data: bytes) -> None:
            try:
                self._pieces.put_nowait((number, data))
            except queue.Full:
                self._has_lost_lines = True

        return copy

    def _read(self) -> None:
        """In a thread of its own, find epochs in the program's output."""
        lines: dict[int, LineReader] = {}
        while (piece := self._pieces.get()) is not None:
            number, data = piece
            for line in lines.setdefault(number, LineReader()).feed(data):
                self._attempt(partial(self._see, line))

    def _see(self, line: str) -> None:
        seen = self._epochs.read(line)
        if seen is not None and self._run is not None:
            self._run.see(seen)

    def _finish(self, taps: Sequence[Tap], reader: threading.Thread, status: int) -> None:
        ended_s = time.monotonic()
        is_over = [tap.finish(ended_s) for tap in taps]
        with contextlib.suppress(queue.Full):
            self._pieces.put(None, timeout=_LAST_LINES_S)
        reader.join(_LAST_LINES_S)
        text = "finished"
        if status:
            what = f"exit status {status}" if status > 0 else signal.Signals(-status).name
            text = f"interrupted by {what}"
        self._attempt(lambda: self._end(text))
        if any(tap.is_terminal and tap.is_in_line for tap in taps) and not self._options.quiet:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write("\n")
        if not all(is_over):
            _say("a process that the program left behind still holds its output, which ends here")
        if self._run is not None and not self._options.quiet:
            self._attempt(lambda: _say(self._run.summary if self._run else ""))

    def _end(self, status: str) -> None:
        if self._session is not None and self._has_lost_lines:
            self._session.note("epochs: the output came too fast, so that not all of it was read")
        if self._run is not None:
            self._run.finish(status)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Run an action whose failure must not affect the program."""
        try:
            action()
        except Exception as error:
            log.warning(
                "energyest: not measured, but the program runs: %s: %s",
                type(error).__name__,
                error,
            )
