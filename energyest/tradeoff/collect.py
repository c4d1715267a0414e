"""`collect_runs`: a folder of traces as a table, one row a run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import RunsError
from energyest.estimators.baselines import mean_utilization
from energyest.estimators.checks import is_number
from energyest.records.devices import accelerators_of
from energyest.records.load_many import Source, load_traces
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace
from energyest.tradeoff.table import Mode, direction

if TYPE_CHECKING:
    import pandas as pd

#: What a table of runs has in any case; hyperparameters and metrics follow.
COLUMNS = (
    *("run", "model", "gpu", "gpus", "batch_size", "precision", "epochs"),
    *("energy_J", "gpu_energy_J", "duration_s", "mean_power_W", "gpu_power_W", "power_limit_W"),
    *("utilization", "samples", "energy_per_sample_J", "flops_per_sample", "parameters"),
    *("status", "started"),
)


def collect_runs(
    source: Source,
    *,
    model: str | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
    unfinished: bool = False,
) -> pd.DataFrame:
    """Finished trainings as a table for the functions of `energyest.tradeoff`.

    Args:
        source: a folder that holds traces at any depth, such as `lightning_logs`; or see
            `load_traces`.
        model: hyperparameter that names the model; by default the name of its class is taken,
            which is the same for all where one LightningModule wraps many networks.
        monitor: a metric: all metrics are those of the epoch where it is best. By default each
            metric is the last that was logged.
        mode: whether more of `monitor` is better, "max", or less, "min"; by default as its name
            says (a loss or an error is better when it is less).
        unfinished: take runs that were interrupted or still go on, too; their energy is what they
            have used so far.

    Returns:
        One row a run, sorted by start: `run` (its folder within `source`, or its name), `model`,
        `gpu` (the name of its GPU, with their number before it if there are several, or of its
        processor if it has none), `gpus`, `batch_size`, `precision`, `epochs`, `energy_J` (of the
        whole run), `gpu_energy_J` (of its epochs), `duration_s`, `mean_power_W`, `gpu_power_W`,
        `power_limit_W` (of its GPUs), `utilization` (share of time that they were busy), `samples`
        (trained), `energy_per_sample_J` (of the epochs, validation included),
        `flops_per_sample` (forward, a multiply and an add as two), `parameters`, `status`,
        `started`; then its hyperparameters and its metrics. NaN is what was not recorded.

    Raises:
        RunsError: there is no trace, no finished one, or none has the metric or hyperparameter.
        TraceError: a folder that was named as a trace is none.

    Warns:
        UserWarning: a trace was left out: it cannot be read, or has not finished. Models of
            different sizes have one name: `model` is needed.
    """
    import pandas as pd  # noqa: PLC0415  (keeps `import energyest` fast)

    traces = load_traces(source)
    superseded = {
        str(part["run_id"])
        for trace in traces.values()
        for part in _list(trace.meta.get("earlier_parts"))
        if isinstance(part, dict) and "run_id" in part
    }
    rows, left_out = [], []
    seen: dict[str, str] = {}
    for name, trace in traces.items():
        run_id = trace.meta.get("run_id")
        # A run that was resumed is there as a whole in the trace of its last part.
        if str(run_id) in superseded:
            continue
        if isinstance(run_id, str) and seen.setdefault(run_id, name) != name:
            left_out.append(f"{name} (a copy of {seen[run_id]})")
            continue
        if not unfinished and trace.meta.get("status", "finished") != "finished":
            left_out.append(f"{name} ({trace.meta['status']})")
            continue
        rows.append(_row(name, trace, model, monitor, mode))
    if left_out:
        warnings.warn(
            f"left out, as they have not finished or are copies: {', '.join(left_out)}; "
            "unfinished=True takes what runs that have not finished have used so far",
            UserWarning,
            stacklevel=2,
        )
    if not rows:
        raise RunsError(f"none of the {len(traces)} traces is of a finished run")
    table = pd.DataFrame(rows)
    others = ", ".join(str(column) for column in table.columns if column not in COLUMNS) or "none"
    if model is not None and table["model"].isna().all():
        raise RunsError(f"no run has the hyperparameter {model!r}: there is {others}")
    if monitor is not None and (monitor in COLUMNS or monitor not in table):
        raise RunsError(f"no run has the metric {monitor!r}: there is {others}")
    if model is None:
        _warn_of_one_name_for_many(table, others)
    in_order: pd.DataFrame = table.sort_values(["started", "run"], ignore_index=True)
    return in_order


def _warn_of_one_name_for_many(table: pd.DataFrame, others: str) -> None:
    sizes = table.groupby("model")["parameters"].nunique()
    several = sizes[sizes > 1]
    if len(several):
        warnings.warn(
            f"runs named {several.index[0]!r} are of {several.iloc[0]} different numbers of "
            f"parameters: name the hyperparameter that tells them apart in model= (there is "
            f"{others})",
            UserWarning,
            stacklevel=3,
        )


def _row(
    name: str, trace: EnergyTrace, model: str | None, monitor: str | None, mode: Mode | None
) -> dict[str, Any]:
    meta, energy_J = trace.meta, trace.column("energy_J")
    total_J, gpu_J, epochs_s = trace.total_J, _sum(trace, "gpu_energy_J"), _sum(trace, "duration_s")
    duration_s = _number(meta.get("duration_s"), epochs_s)
    samples = _sum(trace, "samples")
    gpus = accelerators_of(trace.devices)
    limits_W = [_number(gpu.get("power_limit_W")) for gpu in gpus]
    utilization = mean_utilization(trace)
    facts = meta.get("model")
    facts = facts if isinstance(facts, Mapping) else {}
    hparams = meta.get("hparams")
    hparams = hparams if isinstance(hparams, Mapping) else {}
    hparams = {str(name): value for name, value in hparams.items() if _is_plain(value)}
    row: dict[str, Any] = {
        "run": name,
        "model": model_name(trace, model) or None,
        "gpu": gpu_names(trace) or None,
        "gpus": len(gpus),
        "batch_size": _number(meta.get("batch_size")),
        "precision": _text(meta.get("precision")),
        "epochs": len(trace),
        "energy_J": total_J,
        "gpu_energy_J": gpu_J,
        "duration_s": duration_s,
        "mean_power_W": total_J / duration_s if duration_s > 0 else math.nan,
        "gpu_power_W": gpu_J / epochs_s if epochs_s > 0 else math.nan,
        "power_limit_W": sum(limits_W) if limits_W else math.nan,
        "utilization": math.nan if utilization is None else utilization,
        "samples": samples,
        "energy_per_sample_J": float(np.sum(energy_J)) / samples if samples > 0 else math.nan,
        "flops_per_sample": _number(meta.get("forward_flops_per_sample")),
        "parameters": _number(facts.get("parameters")),
        "status": _text(meta.get("status")),
        "started": str(meta.get("start_time") or ""),
    }
    others = hparams | _metrics(trace, monitor, mode)
    return row | {name: value for name, value in others.items() if name not in row}


def _metrics(trace: EnergyTrace, monitor: str | None, mode: Mode | None) -> dict[str, float]:
    if monitor is not None and monitor in trace.metrics:
        values = trace.column(monitor)
        if np.isfinite(values).any():
            find = np.nanargmax if direction(monitor, mode) == "max" else np.nanargmin
            best = int(find(values))
            return {name: float(trace.column(name)[best]) for name in trace.metrics}
    return {name: _last(trace.column(name)) for name in trace.metrics}


def _last(values: Any) -> float:
    known = np.flatnonzero(np.isfinite(values))
    return float(values[known[-1]]) if len(known) else math.nan


def _sum(trace: EnergyTrace, name: str) -> float:
    values = trace.column(name)
    return float(np.sum(values)) if len(values) else math.nan


def _number(value: object, otherwise: float = math.nan) -> float:
    return float(value) if is_number(value) else otherwise


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_plain(value: object) -> bool:
    return isinstance(value, str | bool) or is_number(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
