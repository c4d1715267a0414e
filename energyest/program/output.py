"""A program's output: passed on unchanged to where it would go, with a copy for reading."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import termios
import threading
import time
from collections.abc import Callable, Sequence

_CHUNK = 65536
# How long a process left behind by the program may hold the output after the program's end.
_LEFT_BEHIND_S = 2.0


class Tap:
    """One output stream of a program: a pseudo-terminal if ours is a terminal, else a pipe.

    The pseudo-terminal is not a controlling terminal: keys, and signals by keys, reach the program
    from the real terminal, whose process group it shares.

    Args:
        outlet: our file descriptor, to which the bytes go.
        descriptors: the program's file descriptors that are this stream.
    """

    def __init__(self, outlet: int, descriptors: Sequence[int]) -> None:
        self.descriptors = tuple(descriptors)
        self.is_terminal = os.isatty(outlet)
        #: Whether the last byte written left the cursor within a line.
        self.is_in_line = False
        self._outlet = outlet
        self._reads_since_s = time.monotonic()
        self._is_reading = False
        if self.is_terminal:
            self._source, self.program_end = pty.openpty()
            self._set_up_terminal()
        else:
            self._source, self.program_end = os.pipe()
        self._thread: threading.Thread | None = None

    def start(self, copy: Callable[[bytes], None]) -> None:
        """Pass on what the program writes, now that it holds its end of the stream.

        Args:
            copy: called with each piece after it was passed on; must neither wait nor raise.
        """
        os.close(self.program_end)
        self._thread = threading.Thread(
            target=self._pass_on, args=(copy,), name="energyest-output", daemon=True
        )
        self._thread.start()

    def resize(self) -> None:
        """Adopt a new size of the terminal's window."""
        if self.is_terminal:
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(self._outlet, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self._source, termios.TIOCSWINSZ, size)

    def finish(self, ended_s: float) -> bool:
        """Wait for the last output of the program, which has ended.

        Args:
            ended_s: when it ended, on the monotonic clock.

        Returns:
            False if another process still holds the stream, and writes nothing.
        """
        assert self._thread is not None
        while self._thread.is_alive():
            self._thread.join(0.02)
            silent_s = time.monotonic() - max(ended_s, self._reads_since_s)
            if self._is_reading and silent_s > _LEFT_BEHIND_S:
                return not self._thread.is_alive()
        return True

    def _set_up_terminal(self) -> None:
        """Copy the real terminal's settings, and leave the conversion of line ends to that one."""
        with contextlib.suppress(termios.error, OSError):
            settings = termios.tcgetattr(self._outlet)
            settings[1] &= ~termios.OPOST
            settings[3] &= ~termios.ECHO
            termios.tcsetattr(self.program_end, termios.TCSANOW, settings)
        self.resize()

    def _pass_on(self, copy: Callable[[bytes], None]) -> None:
        try:
            while True:
                self._reads_since_s, self._is_reading = time.monotonic(), True
                data = os.read(self._source, _CHUNK)
                self._is_reading = False
                if not data:
                    break
                self._write(data)
                self.is_in_line = data[-1:] not in b"\r\n"
                copy(data)
        except OSError:
            pass  # the pseudo-terminal's last user is gone, or nobody reads our output any more
        finally:
            # Now the program sees the same error: its next write fails.
            os.close(self._source)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._outlet, rest) :]
            except BlockingIOError:
                select.select([], [self._outlet], [])


def make_taps() -> list[Tap]:
    """Make the taps for a program that writes where this process does; none for closed streams."""
    places: dict[tuple[int, int], list[int]] = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            status = os.fstat(descriptor)
            places.setdefault((status.st_dev, status.st_ino), []).append(descriptor)
    # If both go to the same place, a single stream keeps their order.
    return [Tap(descriptors[0], descriptors) for descriptors in places.values()]
