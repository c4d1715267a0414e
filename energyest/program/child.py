"""A program as a child: each signal reaches it once, and its end becomes ours."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import psutil

from energyest.program.output import Tap

# What others send to a program, and the end of a child.
_PASSED = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH),
}
_WAITED_FOR = _PASSED | {signal.SIGCHLD}
# How often is looked for the child's end, should its signal have been lost.
_LOOK_S = 1.0
# What Python ignores, and a program must not inherit.
_IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]


def hold_signals() -> set[signal.Signals]:
    """From now on, signals wait for `Child.wait`, in all threads that begin later.

    Returns:
        What was held before, for the child.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored, nothing is told of an end
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    return {signal.Signals(number) for number in held}


class Child:
    """A program that runs, in our process group: a terminal's signals reach it as they reach us.

    Args:
        command: the program and its arguments.
        environment: its environment.
        taps: what it writes.
        held: signals that it is to hold.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        taps: Sequence[Tap],
        held: set[signal.Signals],
    ) -> None:
        ends = [(os.POSIX_SPAWN_DUP2, t.program_end, fd) for t in taps for fd in t.descriptors]
        # Not fork: nothing of Python runs in the child, whatever our threads hold.
        self.pid = os.posix_spawnp(
            command[0],
            command,
            environment,
            file_actions=ends,
            setsigmask=held,
            setsigdef=_IGNORED_BY_PYTHON,
        )
        self._taps = taps

    def wait(self, pause: Callable[[], AbstractContextManager[None]]) -> int:
        """Pass signals on until the program ends.

        Args:
            pause: what runs within it is not the program's work.

        Returns:
            Its exit status; of one that a signal has ended, the signal's number, negative.
        """
        while True:
            info = signal.sigtimedwait(_WAITED_FOR, _LOOK_S)
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._pass_on(info, pause)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)

    def _pass_on(
        self, info: signal.struct_siginfo, pause: Callable[[], AbstractContextManager[None]]
    ) -> None:
        number = info.si_signo
        if number == signal.SIGWINCH:
            for tap in self._taps:
                tap.resize()
        # The kernel's, as of a key, go to the whole group.
        is_known = info.si_code > 0 or self._is_within(info.si_pid)
        if number == signal.SIGCONT:  # a shell's goes to the group, too
            is_known = not self._is_stopped()
        if not is_known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
        if number == signal.SIGTSTP:
            with pause():
                _stop()

    def _is_within(self, pid: int) -> bool:
        """Whether a process is one of the program's."""
        try:
            return pid == self.pid or any(p.pid == self.pid for p in psutil.Process(pid).parents())
        except (psutil.Error, OSError, ValueError):
            return False

    def _is_stopped(self) -> bool:
        try:
            return psutil.Process(self.pid).status() == psutil.STATUS_STOPPED
        except (psutil.Error, OSError):
            return False


def _stop() -> None:
    """Stop, as the program does; returns when somebody lets us go on."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def end_as(status: int) -> int:
    """End as the program did: of a signal, if a signal has ended it.

    Args:
        status: as `Child.wait` gave it.

    Returns:
        The exit status, where this process still lives: 128 + n for a signal n.
    """
    if status >= 0:
        return status
    number = -status
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has left its core
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    return 128 + number
