"""`energyest report FOLDER`: what a training cost, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from energyest.cli import options
from energyest.cli.facts import emissions
from energyest.cli.output import print_json, say
from energyest.cli.traces import open_trace


@click.command("report")
@options.trace
@click.option("-o", "--output", metavar="FILE", help="The file to write.")
@options.carbon
@options.as_json
def command(
    trace: str,
    output: str | None,
    intensity: str | None,
    pue: float | None,
    as_json: bool,
    **log: Any,
) -> None:
    """Write a report of a training as one HTML file.

    The file needs nothing else: it can be sent, printed, and opened without a
    network. By default it is report.html in the folder. An earlier report is
    replaced, and no other file.

    \b
    Examples:
      energyest report energy
      energyest report energy --output report.html
      energyest report nvidia-smi.csv --epoch-ends ends.txt --output smi.html
    """
    from energyest.report import write_report

    if output is None and not Path(trace).is_dir():
        raise click.UsageError(
            "--output FILE is missing: TRACE is no folder", click.get_current_context()
        )
    emissions(intensity, pue)  # fails for what is out of its range, before the trace is read
    found = open_trace(trace, **log)
    written = write_report(found, output or trace, carbon_intensity=intensity, pue=pue)
    if as_json:
        print_json({"file": str(written)})
    else:
        say(f"written: {written}")
