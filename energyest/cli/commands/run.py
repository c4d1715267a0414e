"""`energyest run -- PROGRAM`: any program under measurement.

Nothing here or above may import numpy, whose threads would take signals that are the program's.
"""

from __future__ import annotations

from typing import Any

import click

from energyest.cli.exits import Exit
from energyest.cli.output import say
from energyest.errors import EnergyestError


@click.command("run", context_settings={"allow_interspersed_args": False})
@click.option("--folder", default="energy", show_default=True, help="Where the trace goes.")
@click.option("--epochs", type=int, help="Epochs planned, if the output does not tell.")
@click.option(
    "--epoch-pattern",
    metavar="REGEX",
    help="Regular expression of a line that names an epoch, with a group (?P<epoch>...) and, if "
    "you like, (?P<epochs>...), how many there will be.",
)
@click.option(
    "--epoch-edge",
    type=click.Choice(["begins", "ends"]),
    default="ends",
    show_default=True,
    help="Whether an epoch begins or ends where --epoch-pattern first finds its number.",
)
@click.option("--gpus", help="GPUs to measure, as 0,1. Default: those that CUDA shows.")
@click.option(
    "--components",
    default="gpu,cpu,ram",
    show_default=True,
    help="Kinds of devices to measure; also module, system.",
)
@click.option("--verbose", is_flag=True, help="Print each epoch and its projection.")
@click.option("--quiet", is_flag=True, help="No summary at the end.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED, metavar="-- PROGRAM [ARGUMENTS]...")
def command(**given: Any) -> int:
    """Run a program, and measure it from outside.

    Its output, its input, its signals and its exit status stay what they are.
    Epochs are recognised in the output of Lightning, Keras, Hugging Face,
    Ultralytics and others; --epoch-pattern names those of your own. Options
    of energyest come before the program. `energyest show FOLDER --json` has
    the result for scripts.

    \b
    Examples:
      energyest run -- python train.py --lr 0.1
      energyest run --folder runs/1 --epochs 90 -- torchrun train.py
      energyest run --epoch-pattern 'ep (?P<epoch>\\d+)' -- ./train
    """
    from energyest.program.command import RunOptions, run_program

    try:
        return run_program(RunOptions(**given))
    except EnergyestError as error:
        say(f"energyest: {error}", error=True)
        return Exit.USAGE  # nothing has run
