"""What was trained, where, with what: facts of a trace's meta."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from energyest.carbon import carbon_intensity
from energyest.carbon.basis import EmissionBasis
from energyest.display import format_duration, format_mass
from energyest.errors import EstimateError
from energyest.markup import Markup, facts, paragraph
from energyest.records.devices import gpus_of, names_with_counts
from energyest.records.meta import (
    read_count,
    read_object,
    read_positive,
    read_text,
)
from energyest.records.run_labels import model_name
from energyest.records.trace import EnergyTrace
from energyest.report.tables import energy_cell
from energyest.summary import (
    duration_s_of,
    energy_of,
    modelled_devices,
    since_checkpoint,
    status_of,
)


def run_facts(trace: EnergyTrace) -> dict[str, object]:
    """What was trained where; None for what is not known."""
    meta = trace.meta
    duration_s = duration_s_of(trace)
    planned = read_positive(meta, "planned_epochs")
    parameters = read_count(read_object(meta, "model"), "parameters", most=10**15)
    of = "" if planned is None else f" of {planned:.6g}"
    return {
        "run": read_text(meta, "run_id"),
        "status": status_of(trace),
        "started": read_text(meta, "start_time"),
        "duration": None if duration_s is None else format_duration(duration_s),
        f"{trace.unit}s": f"{len(trace)}{of}",
        "model": model_name(trace) or None,
        "parameters": None if parameters is None else f"{parameters:,}",
        "devices": ", ".join(names_with_counts(trace.devices)) or None,
        "GPUs": len(gpus_of(trace.devices)) or None,
        "machine": read_text(meta, "host"),
        "processes": read_count(meta, "world_size"),
        "precision": read_text(meta, "precision"),
        "optimizer": read_text(meta, "optimizer"),
        "batch size": read_count(meta, "batch_size"),
    }


def carbon_facts(trace: EnergyTrace, basis: EmissionBasis) -> Markup:
    """Emissions, where the electricity's intensity is known; else how to set it."""
    known, pue = basis.intensity, basis.pue
    if known is None:
        return paragraph(
            "The carbon intensity of the electricity is not set. Set it, for example "
            'ENERGYEST_CARBON_INTENSITY=DE, or carbon_intensity = "DE" in [tool.energyest] of '
            "pyproject.toml."
        )
    if isinstance(known, str):
        known = carbon_intensity(known)
    try:
        kg = trace.co2e_kg(known, pue=pue)
        emitted = format_mass(kg) if math.isfinite(kg) else "not known: nor is the energy"
    except EstimateError as error:  # a series that does not cover the run
        emitted = f"not known: {error}"
    shown = {
        "CO2e": emitted,
        "carbon intensity": f"{known:g} g/kWh" if isinstance(known, float | int) else known,
        "PUE": f"{pue:g}",
    }
    return facts(shown, caption="Emissions of the whole run")


def total_facts(trace: EnergyTrace) -> dict[str, object]:
    """The energy of the run, and its parts."""
    rows_J = float(np.sum(trace.column("energy_J")))
    total_J = trace.total_J
    validation_J = float(np.nansum(trace.column("validation_energy_J")))
    modelled, since = modelled_devices(trace), since_checkpoint(trace)
    modelled_J = energy_of(modelled) if modelled else None
    return {
        "whole run": energy_cell(total_J),
        f"in {trace.unit}s": energy_cell(rows_J),
        f"outside of {trace.unit}s": energy_cell(total_J - rows_J),
        "validation": energy_cell(validation_J) if validation_J > 0 else None,
        f"modelled, not measured{since and f', {since}'}": (
            None if modelled_J is None else energy_cell(modelled_J)
        ),
    }


def text_of(values: Any) -> dict[str, object]:
    """An object of the meta, each value as text."""
    return {
        str(name): value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in values.items()
    }
