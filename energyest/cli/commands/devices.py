"""`energyest devices`: the sensors of this machine."""

from __future__ import annotations

import click

from energyest.cli import options
from energyest.cli.device_table import device_rows, print_device_table
from energyest.cli.output import print_json, say_line


@click.command("devices")
@options.as_json
def command(as_json: bool) -> None:
    """What can be measured on this machine, and how.

    One row a device: measured, modelled from its load, or not measured. What
    is missing, and how to get it, `energyest doctor` says.

    \b
    Examples:
      energyest devices
      energyest devices --json
    """
    from energyest.measure.sensors import detect

    found = detect()
    rows = device_rows(found)
    found.close()
    if as_json:
        print_json({"devices": rows, "notes": found.notes})
        return
    print_device_table(rows)
    for text in found.notes:
        say_line(f"note: {text}")
