"""`metrics_of`: the measurements of runs as named numbers with labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from energyest.carbon import CarbonSeries
from energyest.checks import finite_or_none
from energyest.display import JOULES_PER_KWH
from energyest.exporters.run_view import RunView
from energyest.records.devices import gpus_of, rows_of_devices
from energyest.records.meta import read_number, read_object, read_text
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace
from energyest.settings import emission_basis
from energyest.summary import duration_s_of


@dataclass(frozen=True)
class Sample:
    """A number and its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Metric:
    """Samples of one kind.

    Attributes:
        name: name without the prefix `energyest_`, with the unit at its end.
        unit: the unit by the Unified Code for Units of Measure, for OpenTelemetry.
        help: what it is, as a sentence.
        kind: "counter" if it never decreases within a run.
        samples: the samples; what was not measured has none.
    """

    name: str
    unit: str
    help: str
    kind: Literal["gauge", "counter"] = "gauge"
    samples: list[Sample] = field(default_factory=list)


#: The metrics, without samples.
METRICS = (
    Metric("run_info", "1", "A run: its model, GPUs, status, user and project. The value is 1."),
    Metric("run_energy_joules", "J", "Energy of the run so far, on all its devices.", "counter"),
    Metric("run_duration_seconds", "s", "Duration of the run so far, without pauses.", "counter"),
    Metric("run_co2e_kilograms", "kg", "Emissions of the run so far, if an intensity is set."),
    Metric("device_energy_joules", "J", "Energy of a device so far.", "counter"),
    Metric("device_power_watts", "W", "Power of a device when it was last read."),
    Metric("device_utilization_ratio", "1", "Share of time in which a device was busy."),
    Metric("device_memory_bytes", "By", "Memory of a device in use when it was last read."),
    Metric("device_temperature_celsius", "Cel", "Temperature of a device when it was last read."),
    Metric("epochs_done", "1", "Epochs (or intervals) that were measured."),
    Metric("epochs_planned", "1", "Epochs (or intervals) of the whole training."),
    Metric("epoch_energy_joules", "J", "Energy of the last epoch (or interval)."),
    Metric("projected_energy_joules", "J", "Energy of all epochs, as projected now."),
    Metric("projected_energy_lower_joules", "J", "Lower end of the interval of the projection."),
    Metric("projected_energy_upper_joules", "J", "Upper end of the interval of the projection."),
    Metric("projected_duration_seconds", "s", "Duration of all epochs, as projected now."),
    Metric("projection_is_stable", "1", "1 if the projection starts from a stable level, else 0."),
    Metric("budget_left", "1", "What is left of a budget, in the unit that its label names."),
)
_SECONDS_PER_HOUR = 3600.0


def metrics_of(views: Mapping[str, RunView]) -> list[Metric]:
    """The measurements of runs.

    Args:
        views: the runs by name, as `LiveRuns.views` returns them.

    Returns:
        One entry for each kind of number, in a fixed order. Each sample is labelled with `run`
        (the name), `run_id`, `node` and `job_id`; those of devices also with `device`, `kind`,
        `name`, `rank` and `source`. What was not measured has no sample.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.exporters import RunView, metrics_of
        >>> view = RunView.of(EnergyTrace.from_epochs([4000.0, 4100.0]), epochs=10)
        >>> found = {metric.name: metric.samples for metric in metrics_of({'mine': view})}
        >>> found['run_energy_joules'][0].value
        8100.0
    """
    metrics = {m.name: Metric(m.name, m.unit, m.help, m.kind) for m in METRICS}
    for name, view in views.items():
        base = _base(name, view.trace)
        for metric, labels, value in (*_of_run(view), *_of_devices(view)):
            if value is not None and math.isfinite(value):
                metrics[metric].samples.append(Sample({**base, **labels}, float(value)))
    return list(metrics.values())


_Found = Iterator[tuple[str, dict[str, str], float | None]]


def _base(name: str, trace: EnergyTrace) -> dict[str, str]:
    meta = trace.meta
    return {
        "run": name,
        "run_id": read_text(meta, "run_id") or "",
        "node": read_text(meta, "host") or "",
        # Not `job`: Prometheus gives that name to what it reads from.
        "job_id": read_text(read_object(meta, "job"), "id") or "",
    }


def _of_run(view: RunView) -> _Found:
    trace, estimate = view.trace, view.estimate
    total_J, duration_s = trace.total_J, duration_s_of(trace)
    yield "run_info", _info(view), 1.0
    yield "run_energy_joules", {}, total_J
    yield "run_duration_seconds", {}, duration_s
    yield "run_co2e_kilograms", {}, _co2e_kg(trace)
    yield "epochs_done", {"unit": trace.unit}, trace.epochs_done
    if len(trace):
        yield "epoch_energy_joules", {"unit": trace.unit}, float(trace.column("energy_J")[-1])
    if estimate is not None:
        yield "epochs_planned", {"unit": trace.unit}, estimate.epochs
        yield "projected_energy_joules", {}, estimate.energy_J
        yield "projected_energy_lower_joules", {}, estimate.lower_J
        yield "projected_energy_upper_joules", {}, estimate.upper_J
        yield "projected_duration_seconds", {}, estimate.duration_s
        yield "projection_is_stable", {}, float(not view.reason)
    for unit, most in read_object(read_object(trace.meta, "budget"), "limits").items():
        amount = finite_or_none(most)
        spent = _spent(unit, trace, total_J, duration_s)
        if amount is not None and spent is not None:
            yield "budget_left", {"unit": str(unit)}, amount - spent


def _info(view: RunView) -> dict[str, str]:
    trace = view.trace
    return {
        "model": model_name(trace),
        "gpus": gpu_names(trace) if gpus_of(trace.devices) else "",
        "status": view.status,
        "user": read_text(trace.meta, "user") or "",
        "project": read_text(trace.meta, "project") or "",
    }


def _spent(
    unit: object, trace: EnergyTrace, total_J: float, duration_s: float | None
) -> float | None:
    """What was spent, in the unit of a budget's limit."""
    if unit == "kWh":
        return total_J / JOULES_PER_KWH
    if unit == "hours":
        return None if duration_s is None else duration_s / _SECONDS_PER_HOUR
    return _co2e_kg(trace) if unit == "kg CO2e" else None


def _co2e_kg(trace: EnergyTrace) -> float | None:
    basis = emission_basis(trace.meta)
    if basis.intensity is None or isinstance(basis.intensity, CarbonSeries):
        return None
    return trace.co2e_kg(basis.intensity, pue=basis.pue)


def _of_devices(view: RunView) -> _Found:
    trace = view.trace
    columns = trace.power_columns
    # What a device drew last says nothing once the run has ended.
    rows_of = rows_of_devices(columns["device"]) if view.status == "running" else {}
    for device in trace.devices:
        name = str(device.get("device", ""))
        labels = {
            "device": name,
            "kind": str(device.get("kind", "")),
            "name": str(device.get("name", "")),
            "rank": str(device.get("rank", "")),
            "source": str(device.get("source", "")),
        }
        yield "device_energy_joules", labels, read_number(device, "energy_J")
        rows = rows_of.get(name)
        if rows is None:
            continue
        yield "device_power_watts", labels, _last(columns["power_W"][rows])
        yield "device_utilization_ratio", labels, _last(columns["utilization"][rows])
        yield "device_memory_bytes", labels, _last(columns["memory_bytes"][rows])
        yield "device_temperature_celsius", labels, _last(columns["temperature_C"][rows])


def _last(values: Any) -> float | None:
    """The last value that is known."""
    known = np.flatnonzero(np.isfinite(values[-100:]))
    return float(values[-100:][known[-1]]) if len(known) else None
