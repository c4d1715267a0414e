"""`energyest devices`: the sensors of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.output import print_json, print_table, say_line

if TYPE_CHECKING:
    from energyest.measure.sensors import Detection


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


def device_rows(found: Detection) -> list[dict[str, Any]]:
    """What is known of each device, and whether it is measured."""
    unread = set(found.unread)
    return [
        {
            "device": device.device,
            "kind": device.kind,
            "name": device.name,
            "source": "not measured" if device.device in unread else device.source,
            "method": device.method,
            "power_limit_W": device.power_limit_W,
            "memory_bytes": device.memory_bytes,
            "details": device.details,
        }
        for device in found.devices
    ]


def print_device_table(rows: list[dict[str, Any]]) -> None:
    """Print which devices there are, and how each is measured."""
    shown = {name: [row[key] for row in rows] for name, key in _SHOWN.items()}
    if rows:
        print_table(shown)


_SHOWN = {"device": "device", "name": "name", "power": "source", "method": "method"}
