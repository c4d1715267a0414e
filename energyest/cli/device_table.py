"""The devices of this machine as rows: for `devices`, `doctor` and their JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energyest.cli.output import print_table

if TYPE_CHECKING:
    from energyest.measure.sensors import Detection

# Column of the table: key of the row.
_SHOWN = {"device": "device", "name": "name", "power": "source", "method": "method"}


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
