"""What a model card says of energy and emissions, in the fields that the Hub defines.

They are those below `co2_eq_emissions` of https://huggingface.co/docs/hub/model-cards-co2. The Hub
defines none for energy itself: it is told where the emissions' source is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest.carbon import (
    CarbonIntensity,
    Intensity,
    carbon_intensity,
    co2e_kg,
)
from energyest.display import JOULES_PER_KWH
from energyest.records.devices import accelerators_of, names_with_counts
from energyest.records.trace import EnergyTrace
from energyest.versions import versions

if TYPE_CHECKING:
    from transformers import Trainer

_KEY, _WORLD = "co2_eq_emissions", "World"


def emissions_of(
    trace: EnergyTrace, intensity: Intensity | None, *, is_pretrained: bool
) -> dict[str, Any]:
    """The fields for a trace; empty where its energy is not known.

    Args:
        trace: of the training.
        intensity: of its electricity; None for the world's mean.
        is_pretrained: whether the model was trained before.
    """
    energy_J = trace.total_J
    if not math.isfinite(energy_J):
        return {}
    if intensity is None or isinstance(intensity, str):
        intensity = carbon_intensity(intensity or _WORLD)
    told = f"{intensity:g} g CO2e/kWh" if isinstance(intensity, float | int) else str(intensity)
    fields = {
        # The Hub counts in grams.
        "emissions": float(f"{1000 * co2e_kg(energy_J, intensity):.4g}"),
        "source": f"energyest {versions()['energyest']}: {energy_J / JOULES_PER_KWH:.4g} kWh, "
        f"at {told}",
        "training_type": "fine-tuning" if is_pretrained else "pre-training",
        "hardware_used": ", ".join(names_with_counts(accelerators_of(trace.devices))),
    }
    if isinstance(intensity, CarbonIntensity) and intensity.country != _WORLD:
        fields["geographical_location"] = intensity.country
    return fields


def add_emissions(path: Path, fields: dict[str, Any]) -> None:
    """Put the fields into the head of a model card, unless somebody else has.

    Args:
        path: of the card; nothing happens where there is none.
        fields: of `emissions_of`.
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
    """Whether the Trainer's model came with weights, as far as its configuration tells."""
    return bool(getattr(getattr(trainer.model, "config", None), "_name_or_path", ""))
