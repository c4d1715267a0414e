"""Processes that are forked from one which has imported what they need, as that takes seconds.

`Forks` starts that one, `python -m tests.support.forks`, and asks it for others.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.source import ROOT

LIGHTNING = ("torch", "pytorch_lightning", "energyest.lightning.monitor")


class Ended(NamedTuple):
    """A process that has ended: its exit status, negative for a signal, and what it printed."""

    status: int
    stdout: str
    stderr: str


class Forks:
    """Starts processes, each of which calls a function and then exits like any Python process.

    Args:
        environment: environment of all of them.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forks"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._folders: list[Path] = []
        self._pids: dict[int, int] = {}
        self._statuses: dict[int, int] = {}

    def start(
        self,
        call: str,
        *arguments: Any,
        folder: Path,
        needs: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> int:
        """Start a process; returns its number.

        Args:
            call: the function, as `module:name`.
            arguments: what JSON can hold.
            folder: for what it prints.
            needs: modules that it has imported, and those that are started later: of a process
                that holds torch, a copy is made and ends more slowly.
            environment: variables of its own.
        """
        number = len(self._folders)
        folder.mkdir(parents=True, exist_ok=True)
        self._folders.append(folder)
        order = {
            "number": number,
            "call": call,
            "arguments": arguments,
            "folder": str(folder),
            "needs": list(needs),
            "environment": environment or {},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return number

    def wait(self, number: int) -> Ended:
        """Wait for the end of a process."""
        while number not in self._statuses:
            self._listen()
        folder = self._folders[number]
        return Ended(
            self._statuses[number],
            (folder / "stdout").read_text(),
            (folder / "stderr").read_text(),
        )

    def kill(self, number: int) -> None:
        """Kill a process, once it has started."""
        while number not in self._pids:
            self._listen()
        os.kill(self._pids[number], signal.SIGKILL)

    def close(self) -> None:
        """End all that run."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that forks others has ended")
        told = json.loads(line)
        known = self._pids if "pid" in told else self._statuses
        known[told["number"]] = told.get("pid", told.get("status"))


def serve() -> None:
    """Fork a process for each line of stdin; print when it has started, and when it has ended."""
    import_module("pandas")  # for the tables of traces
    running: dict[int, int] = {}
    is_open, waiting = True, b""
    while is_open or running:
        if is_open and select.select([0], [], [], 0.02)[0]:
            read = os.read(0, 2**16)
            is_open = bool(read)
            *lines, waiting = (waiting + read).split(b"\n")
            for order in map(json.loads, lines):
                for name in order["needs"]:
                    import_module(name)
                gc.freeze()  # or a copy would write to each object, and so copy it all
                pid = os.fork()
                if pid == 0:
                    obey(order)
                    sys.exit(0)
                running[pid] = order["number"]
                print(json.dumps({"number": order["number"], "pid": pid}), flush=True)
        elif not is_open:
            time.sleep(0.02)
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid:
            exit_status = os.waitstatus_to_exitcode(status)
            print(json.dumps({"number": running.pop(pid), "status": exit_status}), flush=True)


def obey(order: dict[str, Any]) -> None:
    """In the forked process."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        with open(Path(order["folder"]) / name, "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    with open(os.devnull, encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.environ.update(order["environment"])
    module, _, name = order["call"].partition(":")
    getattr(import_module(module), name)(*order["arguments"])


if __name__ == "__main__":
    serve()
