"""A program as a child process: each signal reaches it once, and we exit as it does."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import psutil

from energyest.program.output import Tap

# Signals that others send to a program, and the signal of a child's end.
_PASSED = {
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    *(signal.SIGUSR2, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH),
}
_WAITED_FOR = _PASSED | {signal.SIGCHLD}
# How often to check for the child's end, in case its signal was lost.
_LOOK_S = 1.0
# Signals that Python ignores, which a program must not inherit.
_IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]


def hold_signals() -> set[signal.Signals]:
    """Block signals from now on, in all threads that start later, until `Child.wait` takes them.

    Returns:
        The signals blocked before, for the child.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, there is no signal of an end
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    return {signal.Signals(number) for number in held}


class Child:
    """A running program in our process group: a terminal's signals reach it as they reach us.

    Args:
        command: the program and its arguments.
        environment: its environment.
        taps: its output streams.
        held: signals that it is to block.

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
        # Not fork: no Python code runs in the child, so locks held by our threads do not matter.
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
            pause: context for time that is not the program's work.

        Returns:
            The program's exit status; if a signal ended it, the negative number of the signal.
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
        # Signals from the kernel, such as those of keys, go to the whole group.
        is_known = info.si_code > 0 or self._is_within(info.si_pid)
        if number == signal.SIGCONT:  # a shell sends it to the group, too
            is_known = not self._is_stopped()
        if not is_known:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
        if number == signal.SIGTSTP:
            with pause():
                _stop()

    def _is_within(self, pid: int) -> bool:
        """Whether a process is the program or a descendant of it."""
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
    """Stop, as the program does; return when continued."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def end_as(status: int) -> int:
    """Exit as the program did: by a signal, if a signal ended it.

    Args:
        status: the result of `Child.wait`.

    Returns:
        The exit status, if this process is still alive: 128 + n for a signal n.
    """
    if status >= 0:
        return status
    number = -status
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the program has dumped its core
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    return 128 + number
