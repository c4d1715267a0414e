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
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


class ChildError(RuntimeError):
    """A measurement that ended without a result; the message says why."""


class Children:
    """Runs functions of modules in child processes.

    Args:
        folder: holds a folder for each child, and its output.
        raw: a file to which every result is appended as a line of JSON; None for no file.
    """

    def __init__(self, folder: Path, raw: Path | None = None) -> None:
        self._folder, self._raw = folder, raw
        self._count = 0
        self._context: Any = mp.get_context("forkserver")
        self._context.set_forkserver_preload(["torch", "numpy"])

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
        started = [self._start(function, *call) for call in calls]
        ends_s = time.monotonic() + timeout_s
        try:
            results = []
            for (process, ours, log), call in zip(started, calls, strict=True):
                results.append(_result(process, ours, log, ends_s - time.monotonic()))
                self._keep(function, call, results[-1])
            return results
        finally:
            for process, _, _ in started:
                _end(process)

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
        process, _, log = self._start(function, (is_ready, stop, *arguments), {}, one_gpu())
        try:
            ends_s = time.monotonic() + 180
            while not is_ready.wait(0.2):
                if not process.is_alive() or time.monotonic() > ends_s:
                    raise ChildError(f"{function.__name__} is not ready; {_tail(log)}")
            yield
        finally:
            stop.set()
            process.join(5)
            _end(process)

    def _start(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        environment: dict[str, str],
    ) -> tuple[Any, Connection, Path]:
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
        return process, ours, log

    def _keep(self, function: Callable[..., Any], call: Any, result: Any) -> None:
        if self._raw is not None:
            line = {"part": function.__name__, "arguments": [*map(str, call[0])], "result": result}
            with self._raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def one_gpu() -> dict[str, str]:
    """The environment in which a process sees one GPU, so that every tool measures the same."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {"CUDA_VISIBLE_DEVICES": visible or "0"}


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
    environment: dict[str, str],
    log: Path,
) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # so that what it starts can be ended with it
    os.environ.update(environment)
    os.chdir(log.parent)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    refuse_network()
    try:
        answer: tuple[str, Any] = ("done", function(*arguments, **options))
    except BaseException:
        answer = ("failed", traceback.format_exc())
        print(answer[1], file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):
        connection.send(answer)
    connection.close()


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


def _result(process: Any, ours: Connection, log: Path, timeout_s: float) -> Any:
    if not wait([ours], max(timeout_s, 0.0)):
        raise ChildError(f"no result after the time allowed; {_tail(log)}")
    try:
        said, value = ours.recv()
    except EOFError:
        process.join(5)
        raise ChildError(f"it ended with status {process.exitcode}; {_tail(log)}") from None
    if said == "failed":
        raise ChildError(value.strip().splitlines()[-1] + "; " + _tail(log))
    process.join(20)
    return value


def _end(process: Any) -> None:
    """End a process and everything it has started."""
    if process.pid is None:
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.is_alive():
        process.kill()
    process.join(5)


def _tail(log: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        said = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "it said:\n    " + "\n    ".join(said)
    return "it said nothing"


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder for all files."""
    return tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True)
