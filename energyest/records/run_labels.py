"""Labels of a run in tables: its model and its GPUs."""

from __future__ import annotations

from energyest.records.devices import accelerators_of, names_with_counts
from energyest.records.meta import read_object, read_text
from energyest.records.trace import EnergyTrace


def model_name(trace: EnergyTrace, hyperparameter: str | None = None) -> str:
    """The model's name; empty if unknown.

    Args:
        trace: the trace of the run.
        hyperparameter: the hyperparameter that names the model, for a LightningModule that wraps
            several models.
    """
    if hyperparameter is not None:
        value = read_object(trace.meta, "hparams").get(hyperparameter)
        return "" if value is None else str(value)
    return (
        read_text(read_object(trace.meta, "model"), "name")
        or read_text(trace.meta, "model")  # as some write it by hand
        or read_text(read_object(trace.meta, "workload"), "model")
        or ""
    )


def gpu_names(trace: EnergyTrace) -> str:
    """The names of a run's GPUs, such as "2 x NVIDIA A40", or else its CPU; empty without any."""
    return " + ".join(names_with_counts(accelerators_of(trace.devices)))
