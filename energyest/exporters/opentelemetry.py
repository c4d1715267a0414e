"""`observe_runs`: the measurements of runs as OpenTelemetry metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from energyest.errors import MissingDependencyError
from energyest.exporters.live_runs import LiveRuns
from energyest.exporters.metrics import METRICS, Metric, metrics_of

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

# Instruments are asked one after another; within this time, they share one look at the runs.
_SAME_LOOK_S = 0.5


def observe_runs(runs: LiveRuns, meter: Meter | None = None) -> None:
    """Register observable instruments for the runs, named `energyest.run_energy_joules` and so on.

    The SDK of your program decides how often they are read and where they are sent.

    Args:
        runs: the runs.
        meter: creates the instruments; by default one of the global meter provider.

    Raises:
        MissingDependencyError: `opentelemetry-api` is not installed (extra `opentelemetry`).

    Examples:
        >>> from energyest.exporters import LiveRuns, observe_runs
        >>> observe_runs(LiveRuns('runs'))
    """
    try:
        from opentelemetry import metrics  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "OpenTelemetry needs opentelemetry-api: pip install 'energyest[opentelemetry]'"
        ) from error
    chosen = metrics.get_meter("energyest") if meter is None else meter
    look = _Look(runs)
    for metric in METRICS:
        create = (
            chosen.create_observable_counter
            if metric.kind == "counter"
            else chosen.create_observable_gauge
        )
        create(
            f"energyest.{metric.name}",
            callbacks=[_callback(look, metric.name)],
            unit=metric.unit,
            description=metric.help,
        )


class _Look:
    """The metrics of the runs, looked at once for all instruments."""

    def __init__(self, runs: LiveRuns) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._at_s = -float("inf")
        self._found: dict[str, Metric] = {}

    def __call__(self) -> dict[str, Metric]:
        with self._lock:
            if time.monotonic() - self._at_s > _SAME_LOOK_S:
                self._found = {m.name: m for m in metrics_of(self._runs.views())}
                self._at_s = time.monotonic()
            return self._found


def _callback(look: _Look, name: str) -> Callable[[Any], Iterable[Any]]:
    def observe(_: Any) -> Iterable[Any]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415

        return [Observation(s.value, dict(s.labels)) for s in look()[name].samples]

    return observe
