"""`energyest doctor`: what is measured here, what is missing, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from energyest.cli import options
from energyest.cli.device_table import device_rows, print_device_table
from energyest.cli.exits import Exit
from energyest.cli.output import print_json, print_table, say, say_line

if TYPE_CHECKING:
    from energyest.measure.sensors import Detection

_SIGNS = {"ok": "+", "note": "*", "missing": "!"}


@click.command("doctor")
@options.as_json
def command(as_json: bool) -> int:
    """What is measured on this machine, what is missing, and how to get it.

    \b
    Exit status, for scripts:
      0  every GPU of this process is measured
      4  there is no GPU to measure: processors and memory alone
      5  a device cannot be measured: the energy of a run would be NaN

    \b
    Examples:
      energyest doctor
      energyest doctor --json | jq .verdict
      energyest doctor > /dev/null || echo "not all GPUs are measured"
    """
    from energyest.cli.findings import (
        findings,
        libraries,
        missing_libraries,
        settings_in_effect,
    )
    from energyest.measure.sensors import detect

    found = detect()
    try:
        rows, (status, verdict) = device_rows(found), _verdict(found)
        seen = [*findings(found), *missing_libraries()]
    finally:
        found.close()
    versions, settings = libraries(), settings_in_effect()
    if as_json:
        print_json(
            {
                "verdict": verdict,
                "exit_status": int(status),
                "devices": rows,
                "findings": [finding._asdict() for finding in seen],
                "versions": versions,
                "settings": settings,
            }
        )
        return status
    say_line(verdict)
    say("")
    print_device_table(rows)
    say("")
    for finding in seen:
        say_line(f"{_SIGNS[finding.state]} {finding.topic}: {finding.text}")
        if finding.remedy:
            for line in finding.remedy.split("\n"):
                say(f"    {line}")
    say("")
    say_line(", ".join(f"{name} {version}" for name, version in versions.items() if version))
    say("")
    print_table(_columns(settings))
    return status


def _verdict(found: Detection) -> tuple[Exit, str]:
    unknown, unread = found.unknown, found.unread
    gpus = [d for d in found.devices if d.kind == "gpu" and d.device not in unread]
    if unknown:
        names = ", ".join(unknown)
        return Exit.UNMEASURED, (
            f"{names} cannot be measured: the energy of a run would not be known (NaN)."
        )
    if gpus:
        number = "The GPU" if len(gpus) == 1 else f"All {len(gpus)} GPUs"
        verb = "is" if len(gpus) == 1 else "are"
        return Exit.OK, f"{number} of this process {verb} measured."
    others = {d.kind: d.source for d in found.devices}
    parts = [
        f"{name} {'is' if name == 'memory' else 'are'} {others[kind]}"
        for kind, name in (("cpu", "processors"), ("ram", "memory"))
        if kind in others
    ]
    return Exit.NO_GPU, f"There is no GPU to measure; {', '.join(parts) or 'nothing else either'}."


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
