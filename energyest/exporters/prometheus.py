"""`PrometheusExporter`: serves, pushes or writes the measurements of runs for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.errors import ConfigurationError, EnergyestError, MissingDependencyError
from energyest.exporters.live_runs import LiveRuns
from energyest.exporters.metrics import METRICS, Metric, metrics_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

_PREFIX = "energyest"


class PrometheusExporter:
    """Exports the runs below a folder to Prometheus, in one of three ways.

    Args:
        runs: the runs.

    Raises:
        MissingDependencyError: `prometheus-client` is not installed (extra `prometheus`).

    Examples:
        >>> from energyest.exporters import LiveRuns, PrometheusExporter
        >>> exporter = PrometheusExporter(LiveRuns('runs'))
        >>> 'energyest_run_energy_joules_total' in exporter.text()
        True
    """

    def __init__(self, runs: LiveRuns) -> None:
        try:
            from prometheus_client import CollectorRegistry  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError(
                "Prometheus needs prometheus-client: pip install 'energyest[prometheus]'"
            ) from error
        self._runs = runs
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Family]:
        """The measurements, as `prometheus_client` asks for them at each scrape."""
        for metric in metrics_of(self._runs.views()):
            yield _family(metric)

    def describe(self) -> Iterator[Family]:
        """The names of the measurements, without reading a run."""
        return map(_family, METRICS)

    def text(self) -> str:
        """The measurements in Prometheus's text format."""
        from prometheus_client import generate_latest  # noqa: PLC0415

        return generate_latest(self.registry).decode()

    def serve(self, port: int, host: str = "127.0.0.1") -> Any:
        """Serve `/metrics` over HTTP, in a thread of its own.

        Args:
            port: the port; 0 for any that is free.
            host: the address to listen on; "0.0.0.0" for all of the machine's.

        Returns:
            The server, with `server_port`, `shutdown()` and `server_close()`.

        Raises:
            ConfigurationError: the port is in use, or the address is not the machine's.
        """
        from prometheus_client import start_http_server  # noqa: PLC0415

        try:
            server, _ = start_http_server(port, host, self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"Prometheus's metrics cannot be served on {host}:{port}: {error}. Another "
                "exporter may use the port; pass another one"
            ) from error
        return server

    def push(self, gateway: str, job: str = "energyest") -> None:
        """Push the measurements to a Pushgateway, in place of those pushed before.

        Args:
            gateway: its address, such as "gateway.example:9091".
            job: name of the group of metrics.

        Raises:
            EnergyestError: the gateway cannot be reached or refuses them.
        """
        from prometheus_client import push_to_gateway  # noqa: PLC0415

        try:
            push_to_gateway(gateway, job=job, registry=self.registry)
        except (OSError, ValueError) as error:
            raise EnergyestError(f"the Pushgateway {gateway} cannot be used: {error}") from error

    def write(self, path: str | Path) -> None:
        """Write the measurements for node_exporter's textfile collector, in one step.

        Args:
            path: the file; its name must end in `.prom`.

        Raises:
            ConfigurationError: it does not, or it cannot be written.
        """
        from prometheus_client import write_to_textfile  # noqa: PLC0415

        if Path(path).suffix != ".prom":
            raise ConfigurationError(
                f"{path}: node_exporter's textfile collector reads files that end in .prom"
            )
        try:
            write_to_textfile(str(path), self.registry)
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be written: {error}") from error


def _family(metric: Metric) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    names = list(dict.fromkeys(name for s in metric.samples for name in s.labels))
    family: Any = kind(f"{_PREFIX}_{metric.name}", metric.help, labels=names)
    for sample in metric.samples:
        family.add_metric([sample.labels.get(name, "") for name in names], sample.value)
    found: Family = family
    return found
