"""`Program`: runs a command for its output, for a limited time and a limited output."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

# An answer is a number or a short table; more is not read.
_MOST_BYTES = 2**16
# How much of an error message is passed on.
_MOST_CHARACTERS = 200
# A program may end while its own children still hold its output: it is looked for this often.
_LOOK_S = 0.1
# A program that has closed its output is about to end.
_ENDING_S = 0.002
# How long a killed program may take to end.
_KILLED_S = 1.0


class ProgramError(OSError):
    """A program could not be run, failed, did not end in time, or said too much."""


class Program:
    """A command that is run again and again for its output.

    It runs without a shell, without input, and in a session of its own: when its time is up, it is
    killed with all that it has started. (Linux starts it by `vfork`, which takes as long in a
    process with much memory, such as a training, as in any other.)

    Args:
        command: the program and its arguments.
        timeout_s: how long it may take.
        environment: variables to set for it, beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self._timeout_s = timeout_s
        self._environment = dict(environment or {})
        self._running: subprocess.Popen[bytes] | None = None
        self._is_closed = False

    def output(self) -> str:
        """Run the command and return what it prints.

        Raises:
            ProgramError: it cannot be run, exits with an error, takes too long, or prints more than
                64 KiB.
        """
        if self._is_closed:
            raise ProgramError("the sensor is closed")
        name = self.command[0]
        try:
            running = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**os.environ, **self._environment},
            )
        except (OSError, ValueError) as error:  # not there, not allowed, or a zero byte in a name
            raise ProgramError(f"{name} cannot be run: {error}") from error
        self._running = running
        try:
            if self._is_closed:  # meanwhile
                raise ProgramError("the sensor is closed")
            said, errors = self._read(running)
        finally:
            self._running = None
            _end(running)
        if running.returncode:
            raise ProgramError(f"{name} failed{_why(running.returncode, errors)}")
        return said.decode("utf-8", "replace")

    def close(self) -> None:
        """Kill the program if it is running, and run it no more."""
        self._is_closed = True
        running = self._running
        if running is not None:
            _kill(running)

    def __getstate__(self) -> dict[str, object]:
        """Without what is running, for another process."""
        return {**self.__dict__, "_running": None}

    def _read(self, running: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        until_s = time.monotonic() + self._timeout_s
        assert running.stdout is not None
        assert running.stderr is not None
        said, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for stream, into in ((running.stdout, said), (running.stderr, errors)):
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, into)
            while selector.get_map() or not _has_ended(running):
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    name = self.command[0]
                    raise ProgramError(f"{name} was killed: it took over {self._timeout_s:g} s")
                # Its end is looked for before its last words are read, not after.
                has_ended = _has_ended(running)
                wait_s = min(left_s, _LOOK_S if selector.get_map() else _ENDING_S)
                ready = selector.select(0 if has_ended else wait_s)
                for key, _ in ready:
                    part = os.read(key.fd, _MOST_BYTES)
                    key.data.extend(part)
                    if not part:
                        selector.unregister(key.fileobj)
                    if len(key.data) > _MOST_BYTES:
                        raise ProgramError(f"{self.command[0]} was killed: it prints too much")
                if has_ended and not ready:
                    break
        return bytes(said), bytes(errors)


def _has_ended(running: subprocess.Popen[bytes]) -> bool:
    """Whether the program has ended; its number stays taken until it is waited for."""
    if running.returncode is not None:
        return True
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return running.poll() is not None
    try:
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, running.pid, options) is not None
    except ChildProcessError:  # somebody else has waited for it
        return running.poll() is not None


def _kill(running: subprocess.Popen[bytes]) -> None:
    """Kill the program and what it has started, unless its number may be another's by now."""
    if running.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)


def _end(running: subprocess.Popen[bytes]) -> None:
    _kill(running)
    with contextlib.suppress(subprocess.TimeoutExpired):  # as one that waits for a dead disk
        running.wait(_KILLED_S)
    for stream in (running.stdout, running.stderr):
        if stream is not None:
            stream.close()


def _why(status: int, errors: bytes) -> str:
    lines = errors.decode("utf-8", "replace").split("\n")
    told = next((line.strip() for line in lines if line.strip()), "")[:_MOST_CHARACTERS]
    how = f" (signal {-status})" if status < 0 else f" (exit status {status})"
    return f"{how}: {told}" if told else how
