"""The measurements of running trainings for Prometheus and OpenTelemetry.

An exporter reads the folders that monitors write, in a process of its own: it costs the trainings
nothing, needs no change of them, and serves all runs below a folder, of all ranks and nodes that
write there.
"""

from energyest.exporters.live_runs import LiveRuns
from energyest.exporters.metrics import Metric, Sample, metrics_of
from energyest.exporters.opentelemetry import observe_runs
from energyest.exporters.prometheus import PrometheusExporter
from energyest.exporters.run_view import RunView

__all__ = [
    "LiveRuns",
    "Metric",
    "PrometheusExporter",
    "RunView",
    "Sample",
    "metrics_of",
    "observe_runs",
]
