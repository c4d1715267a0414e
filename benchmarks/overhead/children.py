"""Measurements in processes of their own, so that none is affected by another.

The processes come from a fork server that has imported torch but never used a GPU: each starts
quickly and in a clean state. If CUDA does not work in such a process, new ones are spawned instead.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# The end of the pipe that leads to the parent, in a child.
_parent: Connection | None = None


class ChildError(RuntimeError):
    """A measurement that ended without a result; the message says why."""


class Child:
    """A function that runs in a process of its own.

    Attributes:
        process: the process.
        told: the facts that it has told so far, see `tell`.
    """

    def __init__(self, process: Any, connection: Connection, log: Path) -> None:
        self.process, self._connection, self._log = process, connection, log
        self.told: list[dict[str, Any]] = []
        self._answer: tuple[str, Any] | None = None

    def has_ended(self, timeout_s: float) -> bool:
        """Wait for news for up to this time; return whether the function has ended."""
        if self._answer is None:
            wait([self._connection, self.process.sentinel], max(timeout_s, 0.0))
            try:
                while self._answer is None and self._connection.poll():
                    self._hear(self._connection.recv())
            except (EOFError, OSError):
                self._died()
            if self._answer is None and not self.process.is_alive():
                self._died()
        return self._answer is not None

    def fact(self, name: str, timeout_s: float) -> Any:
        """The newest value that it tells by this name; None if it does not tell one in time."""
        ends_s = time.monotonic() + timeout_s
        while True:
            left_s = ends_s - time.monotonic()
            has_ended = self.has_ended(min(left_s, 0.2))
            found = [facts[name] for facts in self.told if name in facts]
            if found or has_ended or left_s < 0:
                return found[-1] if found else None

    def result(self, timeout_s: float) -> Any:
        """What the function returned.

        Raises:
            ChildError: it raised an error, died, or takes longer.
        """
        ends_s = time.monotonic() + timeout_s
        while not self.has_ended(ends_s - time.monotonic()):
            if time.monotonic() > ends_s:
                raise ChildError(f"no result after the time allowed; {_tail(self._log)}")
        assert self._answer is not None
        said, value = self._answer
        if said == "failed":
            raise ChildError(f"{value}; {_tail(self._log)}")
        self.process.join(20)
        return value

    def signal(self, number: int) -> None:
        """Send a signal to the process, but not to what it has started."""
        with contextlib.suppress(OSError):
            os.kill(self.process.pid, number)

    def end(self) -> None:
        """End the process and everything it has started."""
        if self.process.pid is None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()
        self.process.join(5)

    def _hear(self, message: tuple[str, Any]) -> None:
        if message[0] == "told":
            self.told.append(message[1])
        else:
            self._answer = message

    def _died(self) -> None:
        self.process.join(5)
        self._answer = ("failed", f"it ended with status {self.process.exitcode}")


class Children:
    """Runs functions of modules in child processes.

    Args:
        folder: holds a folder for each child, and its output.
        raw: a file to which every result is appended as a line of JSON; None for no file.
        preload: modules that are imported once for all children; none may use a GPU.
    """

    def __init__(
        self, folder: Path, raw: Path | None = None, preload: Sequence[str] = ("torch", "numpy")
    ) -> None:
        self._folder, self._raw = folder, raw
        self._count = 0
        self._context: Any = mp.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))

    def probe(self) -> None:
        """Start a first child to check whether CUDA works; if not, use another start method."""
        try:
            self.run(touch_device, timeout_s=180)
        except ChildError as error:
            print(f"children of a fork server fail ({error}): started afresh instead", flush=True)
            self._context = mp.get_context("spawn")
            self.run(touch_device, timeout_s=180)

    def run(
        self, function: Callable[..., Any], /, *arguments: Any, timeout_s: float, **options: Any
    ) -> Any:
        """Call a function in a process of its own, on one GPU, and return its result.

        Args:
            function: a module-level function; it also gets `folder`, if it takes that.
            arguments: its arguments.
            timeout_s: after this time, the process and everything it has started are ended.
            options: its keyword arguments.

        Raises:
            ChildError: it raised an error, died, or took longer.
        """
        (result,) = self.run_together(
            function, [(arguments, options, one_gpu())], timeout_s=timeout_s
        )
        return result

    def run_together(
        self,
        function: Callable[..., Any],
        calls: list[tuple[tuple[Any, ...], dict[str, Any], dict[str, str]]],
        *,
        timeout_s: float,
    ) -> list[Any]:
        """Like `run`, for several processes at once, each with its arguments and environment."""
        started = [
            self.start(function, *arguments, environment=environment, **options)
            for arguments, options, environment in calls
        ]
        ends_s = time.monotonic() + timeout_s
        try:
            results = []
            for child, call in zip(started, calls, strict=True):
                results.append(child.result(ends_s - time.monotonic()))
                self.keep(function, call[0], results[-1])
            return results
        finally:
            for child in started:
                child.end()

    @contextlib.contextmanager
    def beside(self, function: Callable[..., Any], /, *arguments: Any) -> Iterator[None]:
        """Run a function in parallel within the context.

        Args:
            function: its first two arguments are events: one to set when it is ready, and one
                that tells it to end.
            arguments: its further arguments.

        Raises:
            ChildError: it ended before it was ready, or was not ready after three minutes.
        """
        is_ready, stop = self._context.Event(), self._context.Event()
        child = self.start(function, is_ready, stop, *arguments, environment=one_gpu())
        try:
            ends_s = time.monotonic() + 180
            while not is_ready.wait(0.2):
                if not child.process.is_alive() or time.monotonic() > ends_s:
                    raise ChildError(f"{function.__name__} is not ready; {_tail(child._log)}")
            yield
        finally:
            stop.set()
            child.process.join(5)
            child.end()

    def start(
        self,
        function: Callable[..., Any],
        /,
        *arguments: Any,
        environment: Mapping[str, str],
        **options: Any,
    ) -> Child:
        """Start a function in a process of its own; the caller has to `end` it.

        Args:
            function: a module-level function.
            arguments: its arguments.
            environment: added to that of this process.
            options: its keyword arguments.
        """
        self._count += 1
        folder = self._folder / f"{self._count:03d}-{function.__name__}"
        folder.mkdir(parents=True)
        log = folder / "output"
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_child, args=(theirs, function, arguments, options, environment, log)
        )
        process.start()
        theirs.close()
        return Child(process, ours, log)

    def keep(self, function: Callable[..., Any], arguments: Sequence[Any], result: Any) -> None:
        """Append a result to the raw file, if there is one."""
        if self._raw is not None:
            line = {"part": function.__name__, "arguments": [*map(str, arguments)]}
            line["result"] = result
            with self._raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def one_gpu() -> dict[str, str]:
    """The environment in which a process sees one GPU, so that every tool measures the same."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"CUDA_VISIBLE_DEVICES": visible or "0"}


def tell(**facts: Any) -> None:
    """Tell the process that started this one some facts while a function still runs."""
    if _parent is not None:
        _parent.send(("told", facts))


def touch_device() -> str:
    """The device that torch computes on here, once it has."""
    import torch

    from benchmarks.overhead.work import device

    return str(torch.zeros(1, device=device()).device)


def _child(
    connection: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    environment: Mapping[str, str],
    log: Path,
) -> None:
    global _parent  # noqa: PLW0603 - one per process
    _parent = connection
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # so that what it starts can be ended with it
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    os.environ.update(environment)
    os.chdir(log.parent)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    refuse_network()
    try:
        answer: tuple[str, Any] = ("done", function(*arguments, **options))
    except BaseException:
        text = traceback.format_exc()
        answer = ("failed", text.strip().splitlines()[-1])
        print(text, file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()


def _end_with_parent() -> None:
    """End this process and all that it has started once the parent is gone, however it ended."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(os.getpid(), signal.SIGKILL)


def refuse_network() -> None:
    """Make look-ups of other hosts fail at once, so that no tool waits for a network."""
    import socket

    find = socket.getaddrinfo
    here = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()}

    def refuse(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in here:
            raise socket.gaierror(socket.EAI_FAIL, "no network in this benchmark")
        return find(host, *arguments, **options)

    socket.getaddrinfo = refuse


def _tail(log: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "it said:\n    " + "\n    ".join(said)
    return "it said nothing"


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for all files."""
    return tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True)
