"""What a table of runs needs to know of one trace, as plain JSON values, and the row it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from energyest.carbon.basis import EmissionBasis
from energyest.carbon.emissions import constant_g_per_kWh
from energyest.checks import is_number, number_or_nan
from energyest.estimators.baselines import mean_utilization
from energyest.records.devices import Device, accelerators_of, name_of
from energyest.records.meta import read_number, read_object, read_objects, read_text
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace
from energyest.tradeoff.metrics import Mode, direction

#: The facts of a run that do not depend on what is asked: text, and numbers, which may be NaN.
TEXTS = (
    *("model", "gpu", "precision", "status", "started", "user", "host", "project"),
    *("scheduler", "job_id", "gpu_name", "run_id"),
)
NUMBERS = (
    *("gpus", "batch_size", "epochs", "energy_J", "gpu_energy_J", "duration_s", "mean_power_W"),
    *("gpu_power_W", "power_limit_W", "utilization", "samples", "energy_per_sample_J"),
    *("flops_per_sample", "parameters", "part_energy_J", "carbon_g_per_kWh", "pue"),
)
WHOLE_NUMBERS = ("gpus", "epochs")
Plain = str | float | None


@dataclass(frozen=True)
class Question:
    """Which of a run's values a table shows.

    Attributes:
        model: the hyperparameter that names the model; None for its class.
        monitor: the metric in whose best epoch all metrics are taken; None for the last values.
        mode: whether a higher or a lower value of it is better; None to infer it from its name.
    """

    model: str | None = None
    monitor: str | None = None
    mode: Mode | None = None

    @property
    def of_metrics(self) -> str:
        """Names the part of the question that decides which metrics are taken."""
        return f"{self.mode or ''} {self.monitor}" if self.monitor is not None else ""


@dataclass(frozen=True)
class RunRecord:
    """The facts of a run; NaN is None in it.

    Attributes:
        facts: by the names in `TEXTS` and `NUMBERS`.
        hparams: all hyperparameters.
        metrics: for each `Question.of_metrics` asked so far, the values of the metrics.
        earlier: for each earlier part of a resumed run, oldest first, its id and what the run had
            cost, in joules, at the checkpoint from which it was resumed.
    """

    facts: Mapping[str, Plain]
    hparams: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float | None]]
    earlier: Sequence[tuple[str, float | None]]

    @property
    def run_id(self) -> str | None:
        """The id of the run, the same in copies of it."""
        found = self.facts["run_id"]
        return found if isinstance(found, str) else None

    @property
    def status(self) -> str:
        """How the run ended; "finished" if nothing is recorded."""
        return str(self.facts["status"] or "finished")

    def number(self, name: str) -> float:
        """A number; NaN if it is not known."""
        return number_or_nan(self.facts[name])

    def row(self, question: Question) -> dict[str, Any]:
        """The columns of the table, hyperparameters and metrics last."""
        row: dict[str, Any] = {name: self.facts[name] for name in TEXTS}
        row |= {name: number_or_nan(self.facts[name]) for name in NUMBERS}
        row |= {name: int(row[name]) for name in WHOLE_NUMBERS}
        row["started"] = row["started"] or ""
        if question.model is not None:
            named = self.hparams.get(question.model)
            row["model"] = None if named is None else str(named)
        metrics = self.metrics[question.of_metrics]
        others = {name: value for name, value in self.hparams.items() if _fits_a_cell(value)}
        others |= {name: number_or_nan(value) for name, value in metrics.items()}
        return row | {name: value for name, value in others.items() if name not in row}


def record_of(trace: EnergyTrace, question: Question) -> RunRecord:
    """The facts of a run.

    Args:
        trace: the run; its readings are needed only where its meta does not tell its utilisation.
        question: which metrics are asked for.
    """
    meta, gpus = trace.meta, accelerators_of(trace.devices)
    job = read_object(meta, "job")
    facts: dict[str, Plain] = {
        "model": model_name(trace) or None,
        "gpu": gpu_names(trace) or None,
        "gpu_name": " + ".join(dict.fromkeys(map(name_of, gpus))) or None,
        **{
            name: read_text(meta, name)
            for name in ("precision", "status", "user", "host", "project", "run_id")
        },
        "started": read_text(meta, "start_time"),
        "scheduler": read_text(job, "scheduler"),
        "job_id": read_text(job, "id"),
    }
    earlier = [
        (str(part["run_id"]), read_number(part, "total_J"))
        for part in read_objects(meta, "earlier_parts")
        if "run_id" in part
    ]
    numbers = {
        "gpus": len(gpus),
        "epochs": len(trace),
        "batch_size": number_or_nan(meta.get("batch_size")),
        "flops_per_sample": number_or_nan(meta.get("forward_flops_per_sample")),
        "parameters": number_or_nan(read_object(meta, "model").get("parameters")),
        **_costs(trace, gpus),
        **_carbon(meta),
    }
    before_J = number_or_nan(earlier[-1][1]) if earlier else 0.0
    numbers["part_energy_J"] = numbers["energy_J"] - before_J
    facts |= {name: _or_none(value) for name, value in numbers.items()}
    hparams = {str(name): value for name, value in read_object(meta, "hparams").items()}
    metrics = {question.of_metrics: metrics_of(trace, question)}
    return RunRecord(facts, hparams, metrics, earlier)


def _carbon(meta: Mapping[str, Any]) -> dict[str, float]:
    """The carbon intensity and PUE that were recorded with the run."""
    basis = EmissionBasis.recorded(meta)
    if basis.intensity is None:
        return {"carbon_g_per_kWh": math.nan, "pue": math.nan}
    return {"carbon_g_per_kWh": constant_g_per_kWh(basis.intensity), "pue": basis.pue}


def metrics_of(trace: EnergyTrace, question: Question) -> dict[str, float | None]:
    """The metrics in the best epoch, or their last values."""
    monitor = question.monitor
    if monitor is not None and monitor in trace.metrics:
        values = trace.column(monitor)
        if np.isfinite(values).any():
            find = np.nanargmax if direction(monitor, question.mode) == "max" else np.nanargmin
            best = int(find(values))
            return {name: _or_none(float(trace.column(name)[best])) for name in trace.metrics}
    return {name: _or_none(_last(trace.column(name))) for name in trace.metrics}


def _costs(trace: EnergyTrace, gpus: Sequence[Device]) -> dict[str, float]:
    """Energy, time and power of the whole run, and energy per sample; NaN if unknown."""
    limits_W = [number_or_nan(gpu.get("power_limit_W")) for gpu in gpus]
    gpu_J, epochs_s, samples = (
        _sum(trace, name) for name in ("gpu_energy_J", "duration_s", "samples")
    )
    recorded_s = read_number(trace.meta, "duration_s")
    duration_s = epochs_s if recorded_s is None else recorded_s
    total_J, utilization = trace.total_J, mean_utilization(trace)
    return {
        "energy_J": total_J,
        "gpu_energy_J": gpu_J,
        "duration_s": duration_s,
        "mean_power_W": _quotient(total_J, duration_s),
        "gpu_power_W": _quotient(gpu_J, epochs_s),
        "power_limit_W": sum(limits_W) if limits_W else math.nan,
        "utilization": math.nan if utilization is None else utilization,
        "samples": samples,
        "energy_per_sample_J": _quotient(float(np.sum(trace.column("energy_J"))), samples),
    }


def _fits_a_cell(value: object) -> bool:
    """Whether a cell of a table can hold a hyperparameter."""
    return isinstance(value, str | bool) or is_number(value)


def _last(values: Any) -> float:
    known = np.flatnonzero(np.isfinite(values))
    return float(values[known[-1]]) if len(known) else math.nan


def _sum(trace: EnergyTrace, name: str) -> float:
    values = trace.column(name)
    return float(np.sum(values)) if len(values) else math.nan


def _quotient(amount: float, of: float) -> float:
    return amount / of if of > 0 else math.nan


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
