"""`energyest plot TRACE`: a picture of a training."""

from __future__ import annotations

from typing import Any

import click

from energyest.cli import options
from energyest.cli.files import check_output, write
from energyest.cli.output import print_json, say
from energyest.cli.traces import open_trace
from energyest.errors import ConfigurationError

_FORMATS = ("png", "svg", "pdf")


@click.command("plot")
@options.trace
@options.output
@click.option("-n", "--epochs", type=float, help="Project to so many epochs.")
@click.option("--observed", type=int, help="Project from the first epochs alone.")
@options.as_json
def command(
    trace: str,
    output: str | None,
    force: bool,
    epochs: float | None,
    observed: int | None,
    as_json: bool,
    **log: Any,
) -> None:
    """Draw power, energy of each epoch, and the projection.

    FILE ends with .png, .svg or .pdf. It needs matplotlib: pip install
    matplotlib.

    \b
    Examples:
      energyest plot energy --output energy.png
      energyest plot energy --epochs 100 --output projection.pdf
    """
    if output is None:
        raise click.UsageError("--output FILE is missing", click.get_current_context())
    ending = output.rpartition(".")[2].lower()
    if ending not in _FORMATS or "." not in output:
        raise ConfigurationError(f"--output {output} must end with .png, .svg or .pdf")
    target = check_output(output, force)
    found = open_trace(trace, **log)
    from energyest.plots import plot_trace

    figure = plot_trace(found, epochs=epochs, observed=observed)
    write(target, lambda file: figure.savefig(file, format=ending, dpi=150))
    if as_json:
        print_json({"file": output})
    else:
        say(f"written: {output}")
