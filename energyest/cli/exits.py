"""The exit statuses of all commands."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit status of a command means; `run` ends with the status of its program."""

    OK = 0
    #: The question cannot be answered, or a file cannot be read or written; stderr says why.
    ERROR = 1
    #: The command was called in a wrong way; nothing was done.
    USAGE = 2
    #: `show`: the training's budget has ended it.
    OVER_BUDGET = 3
    #: `doctor`: this process has no GPU to measure.
    NO_GPU = 4
    #: `doctor`: a device in use cannot be measured; the energy of a run would be NaN.
    UNMEASURED = 5
    #: Ctrl-C, as shells have it: 128 + SIGINT.
    INTERRUPTED = 130


#: The same for users; at the end of `energyest --help`.
EXIT_HELP = """\b
Exit status:
  0    done; doctor: every GPU of this process is measured
  1    an error, which stderr explains; project: not stable yet;
       watch: the run was interrupted
  2    wrong usage
  3    show: the training's budget ended it
  4    doctor: there is no GPU to measure
  5    doctor: a device cannot be measured
  130  interrupted with Ctrl-C
`energyest run` ends with the exit status of its program (127: there is no
such program; 126: it cannot be run).
"""
