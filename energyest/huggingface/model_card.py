"""Energy and emissions in a model card, in the fields that the Hub defines.

These are the fields under `co2_eq_emissions` of https://huggingface.co/docs/hub/model-cards-co2.
The Hub defines none for energy itself, so the energy is stated in the field `source`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.carbon import CarbonIntensity, Intensity, carbon_intensity
from energyest.display import JOULES_PER_KWH
from energyest.errors import EstimateError
from energyest.records.devices import accelerators_of, names_with_counts
from energyest.records.trace import EnergyTrace
from energyest.versions import versions

if TYPE_CHECKING:
    from transformers import Trainer

_KEY, _WORLD = "co2_eq_emissions", "World"


def emissions_of(
    trace: EnergyTrace, intensity: Intensity | None, *, is_pretrained: bool
) -> dict[str, Any]:
    """The fields for a trace; empty if its energy is unknown.

    Args:
        trace: trace of the training.
        intensity: carbon intensity of the electricity; None for the world mean.
        is_pretrained: whether the model was pretrained.
    """
    energy_J = trace.total_J
    if not math.isfinite(energy_J):
        return {}
    if intensity is None or isinstance(intensity, str):
        intensity = carbon_intensity(intensity or _WORLD)
    told = f"{intensity:g} g CO2e/kWh" if isinstance(intensity, float | int) else str(intensity)
    try:
        kg = trace.co2e_kg(intensity)
    except EstimateError:  # a series that does not cover the training
        return {}
    fields = {
        "emissions": float(f"{1000 * kg:.4g}"),  # the Hub uses grams
        "source": f"energyest {versions()['energyest']}: {energy_J / JOULES_PER_KWH:.4g} kWh, "
        f"at {told}",
        "training_type": "fine-tuning" if is_pretrained else "pre-training",
        "hardware_used": ", ".join(names_with_counts(accelerators_of(trace.devices))),
    }
    if isinstance(intensity, CarbonIntensity) and intensity.country != _WORLD:
        fields["geographical_location"] = intensity.country
    return fields


def add_emissions(path: Path, fields: dict[str, Any]) -> None:
    """Put the fields into the metadata of a model card, unless someone else has set them.

    Args:
        path: path of the card; nothing happens if it does not exist.
        fields: fields from `emissions_of`.
    """
    from huggingface_hub import ModelCard  # noqa: PLC0415  (comes with transformers)

    if not fields or not path.exists():
        return
    card = ModelCard.load(path, ignore_metadata_errors=True)
    there = card.data.get(_KEY)
    is_own = isinstance(there, dict) and str(there.get("source")).startswith("energyest")
    if there is None or is_own:
        card.data[_KEY] = fields
        card.save(path)


def is_pretrained(trainer: Trainer) -> bool:
    """Whether the Trainer's model was pretrained, judging by its configuration."""
    return bool(getattr(getattr(trainer.model, "config", None), "_name_or_path", ""))
