"""`energyest devices`: the sensors of this machine."""

from __future__ import annotations

import click

from energyest.cli import options
from energyest.cli.device_table import device_rows, print_device_table
from energyest.cli.output import print_json, say_line


@click.command("devices")
@click.option("--all", "is_all", is_flag=True, help="Also what is measured only on request.")
@options.as_json
def command(is_all: bool, as_json: bool) -> None:
    """What can be measured on this machine, and how.

    One row a device: measured, modelled from its load, or not measured. What
    is missing, and how to get it, `energyest doctor` says. --all adds the
    whole node, which `energyest run --components` and `components=` ask for.

    \b
    Examples:
      energyest devices
      energyest devices --all
      energyest devices --json
    """
    from energyest.measure.sensors import detect
    from energyest.measure.sensors.base import ON_REQUEST, USUAL

    found = detect(components=(*USUAL, *ON_REQUEST) if is_all else USUAL)
    rows = device_rows(found)
    found.close()
    if as_json:
        print_json({"devices": rows, "notes": found.notes})
        return
    print_device_table(rows)
    for text in found.notes:
        say_line(f"note: {text}")
