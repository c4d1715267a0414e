"""What a run is called in tables: its model and its GPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from energyest.estimators.baselines import accelerators
from energyest.records.trace import EnergyTrace


def model_name(trace: EnergyTrace, hyperparameter: str | None = None) -> str:
    """The model's name; empty if it is not known.

    Args:
        trace: what was recorded.
        hyperparameter: the one that names the model, where a single LightningModule wraps many.
    """
    if hyperparameter is not None:
        hparams = trace.meta.get("hparams")
        value = hparams.get(hyperparameter) if isinstance(hparams, Mapping) else None
        return "" if value is None else str(value)
    for key, field in (("model", "name"), ("workload", "model")):
        facts = trace.meta.get(key)
        name = facts.get(field) if isinstance(facts, Mapping) else facts
        if isinstance(name, str) and name:
            return name
    return ""


def gpu_names(trace: EnergyTrace) -> str:
    """The names of its GPUs, such as "2 x NVIDIA A40", or of its processor; empty without any."""
    names = Counter(str(d.get("name") or d.get("device")) for d in accelerators(trace))
    return " + ".join(name if count == 1 else f"{count} x {name}" for name, count in names.items())
