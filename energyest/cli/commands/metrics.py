"""`energyest metrics`: running trainings for Prometheus."""

from __future__ import annotations

import json
import time
from importlib import resources
from typing import TYPE_CHECKING

import click

from energyest.cli.files import check_output, write
from energyest.cli.output import say
from energyest.errors import ConfigurationError, EnergyestError

if TYPE_CHECKING:
    from energyest.exporters import PrometheusExporter


@click.command("metrics")
@click.argument("folder", metavar="FOLDER", required=False)
@click.option(
    "--listen", metavar="[HOST:]PORT", help="Serve /metrics there, for Prometheus to read."
)
@click.option("--push", metavar="ADDRESS", help="Push to this Pushgateway.")
@click.option("--textfile", metavar="FILE.prom", help="Write FILE.prom for node_exporter.")
@click.option("-n", "--epochs", type=float, help="Epochs of a training. Default: as planned.")
@click.option(
    "--every", type=float, default=15.0, show_default=True, help="Seconds from push to push."
)
@click.option(
    "--keep", type=float, default=300.0, show_default=True, help="Seconds to show an ended run."
)
@click.option("--once", is_flag=True, help="Push or write once; without either, print.")
@click.option("--dashboard", metavar="FILE.json", help="Write the dashboard for Grafana, and end.")
def command(
    folder: str | None,
    listen: str | None,
    push: str | None,
    textfile: str | None,
    epochs: float | None,
    every: float,
    keep: float,
    once: bool,
    dashboard: str | None,
) -> None:
    """Export the runs below FOLDER to Prometheus, while they go on.

    Energy, power and temperature of each device, epochs, the projection with
    its interval, and what is left of a budget. This reads the folders that
    monitors write: it may run on another machine, and costs trainings nothing.
    Ctrl-C ends it.

    \b
    Examples:
      energyest metrics runs --listen 9464
      energyest metrics runs --listen 0.0.0.0:9464
      energyest metrics runs --textfile /var/lib/node_exporter/energyest.prom
      energyest metrics runs --push gateway:9091 --every 30
      energyest metrics runs --once
      energyest metrics --dashboard energyest.json
    """
    if dashboard is not None:
        _write_dashboard(dashboard)
        return
    if folder is None:
        raise click.UsageError("FOLDER is missing", click.get_current_context())
    if not every > 0:
        raise ConfigurationError(f"--every {every:g} must be above 0")
    if not (listen or push or textfile or once):
        raise click.UsageError(
            "pass --listen, --push, --textfile or --once", click.get_current_context()
        )
    from energyest.exporters import LiveRuns, PrometheusExporter

    exporter = PrometheusExporter(LiveRuns(folder, keep_s=keep, epochs=epochs))
    if once and not (push or textfile):
        click.echo(exporter.text(), nl=False)
        return
    if listen is not None and not once:
        host, port = _address(listen)
        served = exporter.serve(port, host)
        say(f"serving http://{host}:{served.server_port}/metrics", error=True)
    while True:
        _send(exporter, push, textfile, fails=once)
        if once:
            return
        time.sleep(every)


def _send(
    exporter: PrometheusExporter, push: str | None, textfile: str | None, *, fails: bool
) -> None:
    """Push and write. A gateway that is away for a while does not end the export."""
    try:
        if push is not None:
            exporter.push(push)
        if textfile is not None:
            exporter.write(textfile)
    except ConfigurationError:
        raise
    except EnergyestError as error:
        if fails:
            raise
        say(f"energyest: {error}", error=True)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"--listen {listen} must be a port, or an address and a port")
    return host.strip("[]") or "127.0.0.1", int(port)


def _write_dashboard(path: str) -> None:
    target = check_output(path, False)
    text = (resources.files("energyest") / "data" / "grafana_dashboard.json").read_text()
    json.loads(text)  # what is written is whole
    write(target, lambda file: file.write(text.encode()))
    say(f"written: {target}")
