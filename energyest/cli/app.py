"""`energyest`: finds the command, runs it, and turns errors into a line and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from energyest import __version__
from energyest.cli.exits import EXIT_HELP, Exit
from energyest.cli.output import notes_of_library, say
from energyest.display import reason_of
from energyest.errors import EnergyestError

_PROGRAM = "energyest"
# Set by the shell while it completes a command line; the name is click's.
_COMPLETION = "_ENERGYEST_COMPLETE"
# In the order in which they are needed: before, during and after a training.
_COMMANDS = (
    *("doctor", "devices", "pre", "advise", "run", "watch", "show", "project"),
    *("compare", "runs", "report", "plot", "export", "metrics"),
)


class _Commands(click.Group):
    """Commands that are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = import_module(f"energyest.cli.commands.{cmd_name}").command
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            alike = difflib.get_close_matches(name, _COMMANDS, n=2)
            meant = f" Did you mean {' or '.join(alike)}?" if alike else ""
            ctx.fail(f"there is no command {name!r}.{meant}")
        return super().resolve_command(ctx, args)


@click.command(
    cls=_Commands,
    epilog=EXIT_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Measure, project and estimate the energy of deep-learning training.

    A TRACE is a folder that energyest wrote, or a log of another tool. Every
    command has examples in its --help, and --json for scripts.

    \b
    Examples:
      energyest doctor                       what is measured on this machine?
      energyest run -- python train.py       measure any program
      energyest show energy                  what did it cost?
      energyest project energy --epochs 100  what will 100 epochs cost?

    Shell completion: eval "$(_ENERGYEST_COMPLETE=bash_source energyest)", or
    zsh_source or fish_source.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; by default those of this process.

    Returns:
        The exit status; see `energyest.cli.exits.Exit`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if _COMPLETION in os.environ:
        cli.main(given, _PROGRAM)  # answers the shell, and exits
    try:
        status = _invoke(given)
        if sys.stdout is not None:  # as of `energyest run ... >&-`
            sys.stdout.flush()
    except BrokenPipeError:  # as of `energyest show FOLDER | head`
        _drop_output()
        return Exit.ERROR
    except OSError as error:  # the disk is full
        say(f"energyest: stdout cannot be written: {error.strerror}", error=True)
        _drop_output()
        return Exit.ERROR
    return status


def _invoke(arguments: list[str]) -> int:
    if not arguments:
        say(cli.get_help(click.Context(cli, info_name=_PROGRAM)), error=True)
        return Exit.USAGE
    try:
        # `run` has a log of its own, and another program's output beside it.
        is_run = arguments[:1] == ["run"]
        notes = contextlib.nullcontext() if is_run else notes_of_library()
        with cli.make_context(_PROGRAM, arguments) as context, notes:
            return int(cli.invoke(context) or Exit.OK)
    except click.exceptions.Exit as exit_:  # --help, --version
        return exit_.exit_code
    except click.UsageError as error:
        _explain(error)
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise
    except (EnergyestError, OSError) as error:
        say(f"energyest: {reason_of(error)}", error=True)
        return Exit.ERROR


def _explain(error: click.UsageError) -> None:
    command = _PROGRAM if error.ctx is None else error.ctx.command_path
    say(f"energyest: {error.format_message()}\n{command} --help says more", error=True)


def _drop_output() -> None:
    """Nobody reads it any more, and Python must not stumble over that at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
