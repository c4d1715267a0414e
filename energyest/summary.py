"""The summary of a run: its cost in a few lines, for a log or the command line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from energyest.carbon import CarbonIntensity, CarbonSeries, Intensity, carbon_intensity
from energyest.display import format_both, format_duration, format_energy, format_mass
from energyest.errors import EstimateError
from energyest.records.devices import Device, counted_devices, gpus_of
from energyest.records.loading import missing_text
from energyest.records.meta import (
    read_list,
    read_number,
    read_object,
    read_objects,
    read_text,
)
from energyest.records.trace import EnergyTrace

# Shorter gaps are not reported.
_GAP_S = 0.1


def summary_of(
    trace: EnergyTrace,
    *,
    intensity: Intensity | None = None,
    pue: float = 1.0,
    folder: Path | None = None,
) -> str:
    """Summarise the cost of a run in a few lines.

    Args:
        trace: trace of the run.
        intensity: carbon intensity of the electricity; None leaves emissions out.
        pue: power usage effectiveness of the data centre, for emissions only.
        folder: where the trace is stored; None if it is only in memory.

    Raises:
        EstimateError: the intensity or the PUE is invalid.
    """
    lines = [_cost(trace), *_parts(trace)]
    if intensity is not None and math.isfinite(trace.total_J):
        lines.append(emissions_text(trace, intensity, pue))
    stopped = read_text(read_object(trace.meta, "budget"), "stopped")
    if stopped:
        lines.append(f"ended early: {stopped}")
    if folder is not None:
        lines.append(f"trace: {folder}")
    return "\n  ".join(lines)


def per_sample_J(trace: EnergyTrace) -> float:
    """Joules of the epochs divided by their samples; NaN if either is unknown."""
    samples = trace.column("samples") if "samples" in trace.epoch_columns else np.zeros(0)
    count = float(np.sum(samples))
    return float(np.sum(trace.column("energy_J"))) / count if count > 0 else math.nan


def status_of(trace: EnergyTrace) -> str:
    """How a run ended, in a few words."""
    tool = read_text(read_object(trace.meta, "log"), "tool")
    status = read_text(trace.meta, "status") or (f"from {tool}" if tool else "status unknown")
    return "running, or killed" if status == "running" else status


def notes_of(trace: EnergyTrace) -> Iterator[str]:
    """Gaps, notes and other findings of a trace, one line each."""
    if missing_text(trace.meta):
        yield missing_text(trace.meta)
    for device in trace.devices:
        missing_s = read_number(device, "missing_s") or 0.0
        if missing_s >= _GAP_S:
            yield f"{device.get('device')} was not measured for {missing_s:.4g} s"
    yield from map(str, read_list(trace.meta, "notes"))
    for name in ("workload_note", "first_projection_note"):
        why = read_text(trace.meta, name)
        if why:
            yield f"no projection before the first {trace.unit}: {why}"
    for finding in read_objects(read_object(trace.meta, "budget"), "findings"):
        yield read_text(finding, "reason") or "a budget was exceeded"
    cut = read_object(trace.meta, "interrupted_epoch")
    so_far_J = read_number(cut, "energy_J")
    if so_far_J is not None:
        number = read_number(cut, "epoch")
        which = "the last" if number is None else f"{number:g}"
        yield f"{trace.unit} {which} was under way: {format_energy(so_far_J)} so far"


def duration_s_of(trace: EnergyTrace) -> float | None:
    """How long a run took, as recorded or as its epochs did; None if neither is known."""
    recorded = read_number(trace.meta, "duration_s")
    if recorded is not None or not len(trace):
        return recorded
    return float(np.sum(trace.column("duration_s")))


def tells_sources(trace: EnergyTrace) -> bool:
    """Whether a trace says of each device if it was measured or modelled."""
    sources = [read_text(device, "source") for device in trace.devices]
    return bool(sources) and all(source in ("measured", "modelled") for source in sources)


def modelled_devices(trace: EnergyTrace) -> list[Device]:
    """The devices in the total whose power was modelled and not measured."""
    counted = counted_devices(trace.devices)
    return [device for device in counted if device.get("source") == "modelled"]


def energy_of(devices: list[Device]) -> float:
    """Joules of all these devices; NaN if those of one are unknown."""
    return sum(math.nan if (e := read_number(d, "energy_J")) is None else e for d in devices)


def since_checkpoint(trace: EnergyTrace) -> str:
    """What limits a statement on the devices of a resumed run; empty if it was not resumed."""
    return "since the checkpoint" if read_objects(trace.meta, "earlier_parts") else ""


def energy_text(trace: EnergyTrace) -> str:
    """The total energy of a run, and how it divides into energy in and outside its epochs."""
    total_J = trace.total_J
    if not math.isfinite(total_J):
        return "total unknown"
    rows_J = float(np.sum(trace.column("energy_J")))
    between_J = total_J - rows_J
    text = format_both(total_J)
    # Omit a split that does not show in the digits of the total.
    if not len(trace) or not math.isfinite(rows_J) or text.startswith(f"{format_energy(rows_J)} "):
        return text
    unit = f"{trace.unit}s"
    return f"{text}: {format_energy(rows_J)} in {unit}, {format_energy(between_J)} outside of them"


def _cost(trace: EnergyTrace) -> str:
    duration_s = duration_s_of(trace)
    number = trace.epochs_done
    rows = f"{number:.6g} {trace.unit}{'s' * (number != 1)}"
    time = "" if duration_s is None else f" in {format_duration(duration_s)}"
    return f"{rows}{time}, {energy_text(trace)}"


def _parts(trace: EnergyTrace) -> Iterator[str]:
    """The GPUs' share of the energy, the modelled share, and the energy per sample."""
    total_J, parts = trace.total_J, []
    if total_J > 0:
        gpus_J = read_number(read_object(trace.meta, "components"), "gpu_energy_J")
        if gpus_J is not None and gpus_of(trace.devices):
            parts.append(f"GPU {_percent(gpus_J / total_J)}")
        modelled = modelled_devices(trace)
        # Of the devices, which know nothing of an earlier part of the run: its total would hide it.
        share = energy_of(modelled) / (energy_of(counted_devices(trace.devices)) or math.nan)
        if modelled and math.isfinite(share) and tells_sources(trace):
            since = since_checkpoint(trace)
            parts.append(f"modelled {_percent(share)}{since and f' {since}'}")
    sample_J = per_sample_J(trace)
    if math.isfinite(sample_J):
        parts.append(f"{format_energy(sample_J)} per sample")
    if parts:
        yield ", ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def emissions_text(trace: EnergyTrace, intensity: Intensity, pue: float) -> str:
    """The emissions of a run, and how they were counted, in one line.

    Raises:
        EstimateError: the intensity is invalid. If a series does not cover the run, the line says
            so.
    """
    try:
        kg = trace.co2e_kg(intensity, pue=pue)
    except EstimateError as error:
        if not isinstance(intensity, CarbonSeries):
            raise
        return f"CO2e not known: {error}"
    return f"{format_mass(kg)} CO2e at {_words_of(intensity)}, PUE {pue:g}"


def _words_of(intensity: Intensity) -> str:
    known = carbon_intensity(intensity) if isinstance(intensity, str) else intensity
    if isinstance(known, CarbonIntensity):
        return f"{known.g_per_kWh:g} g/kWh ({known.country}, {known.year})"
    return str(known) if isinstance(known, CarbonSeries) else f"{known:g} g/kWh"
