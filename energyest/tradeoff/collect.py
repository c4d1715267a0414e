"""`collect_runs` turns a folder of traces into a table of runs; `save_runs` writes it to a file."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from energyest.checks import is_number, number_or_nan
from energyest.display import as_csv
from energyest.errors import RunsError
from energyest.estimators.baselines import mean_utilization
from energyest.records.devices import accelerators_of
from energyest.records.load_many import Source, load_traces
from energyest.records.meta import read_number, read_object, read_objects, read_text
from energyest.records.own_files import save_file
from energyest.records.run_labels import gpu_names, model_name
from energyest.records.trace import EnergyTrace
from energyest.tradeoff.metrics import Mode, check_mode, direction

#: Columns of every table of runs; hyperparameters and metrics follow.
COLUMNS = (
    *("run", "model", "gpu", "gpus", "batch_size", "precision", "epochs"),
    *("energy_J", "gpu_energy_J", "duration_s", "mean_power_W", "gpu_power_W", "power_limit_W"),
    *("utilization", "samples", "energy_per_sample_J", "flops_per_sample", "parameters"),
    *("status", "started"),
)
_HEADER = ",".join(COLUMNS).encode()
# The command line writes these behind energy_J.
_CONVERTED = (b"energy_kWh,", b"co2e_kg,")


def collect_runs(
    source: Source,
    *,
    model: str | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
    unfinished: bool = False,
) -> pd.DataFrame:
    """Collect finished trainings into a table for the functions of `energyest.tradeoff`.

    Args:
        source: a folder that holds traces at any depth, such as `lightning_logs`; for other
            sources, see `load_traces`.
        model: hyperparameter that names the model. By default, the name of the model's class is
            used, which is the same for all runs if one LightningModule wraps many networks.
        monitor: a metric; all metrics are taken from the epoch in which it is best. By default,
            the last logged value of each metric is used.
        mode: "max" if a higher value of `monitor` is better, "min" if a lower one is; by default
            inferred from its name (lower is better for a loss or an error).
        unfinished: also include runs that were interrupted or are still running, with the energy
            used so far.

    Returns:
        One row per run, sorted by start. Its columns are `run` (its folder within `source`, or its
        name), `model`, `gpu`, `gpus`, `batch_size`, `precision`, `epochs`, `energy_J`,
        `gpu_energy_J`, `duration_s`, `mean_power_W`, `gpu_power_W`, `power_limit_W` (of the GPUs),
        `utilization`, `samples`, `energy_per_sample_J`, `flops_per_sample`, `parameters`, `status`
        and `started`. Hyperparameters and metrics follow. `gpu` is the name of the GPU, preceded
        by the number of GPUs if there are several, or the name of the processor if there is none.
        `energy_J` is that of the whole run, `gpu_energy_J` and `energy_per_sample_J` are those of
        the epochs, validation included. `utilization` is the share of time in which the GPUs were
        busy. `samples` are those of training. `flops_per_sample` are forward; a multiply and an add
        count as two. Values that were not recorded are NaN.

    Raises:
        RunsError: there is no trace or no finished one; no trace has the metric or hyperparameter;
            or an argument is invalid.
        TraceError: a folder given as a trace holds no trace.

    Warns:
        UserWarning: a trace was left out because it cannot be read, is unfinished or is a copy; or
            models of different sizes have the same name, so that `model` is needed.

    Examples:
        >>> from energyest.tradeoff import collect_runs
        >>> runs = collect_runs('lightning_logs/resnet18-h200-0', model='architecture')
        >>> runs[['model', 'gpu', 'epochs']]
              model          gpu  epochs
        0  resnet18  NVIDIA H200      12
    """
    check_mode(mode)
    for argument, value in (("model", model), ("monitor", monitor)):
        if not (value is None or isinstance(value, str)):
            raise RunsError(f"{argument}={value!r} must be a name, or None")
    traces = load_traces(source)
    chosen, left_out = _chosen(traces, unfinished)
    if left_out:
        warnings.warn(
            f"left out (unfinished or copies): {', '.join(left_out)}; pass unfinished=True to "
            "include unfinished runs with the energy used so far",
            UserWarning,
            stacklevel=2,
        )
    if not chosen:
        raise RunsError(f"none of the {len(traces)} traces is a finished run")
    rows = [_row(name, trace, model, monitor, mode) for name, trace in chosen.items()]
    table = pd.DataFrame(rows)
    _check_names(table, model, monitor)
    in_order: pd.DataFrame = table.sort_values(["started", "run"], ignore_index=True)
    return in_order


def save_runs(table: pd.DataFrame, path: str) -> None:
    """Write a table from `collect_runs` to a CSV file.

    Text that a spreadsheet would evaluate, such as `=1+1`, is preceded by an apostrophe.

    Args:
        table: a table of runs.
        path: path of the file; an existing file is replaced only if it is such a table, or empty.

    Raises:
        FileExistsError: the path is another file.
        OSError: the file cannot be written.
    """
    text = as_csv(table)
    target = Path(path)
    # A pipe, as in `--csv >(gzip > runs.gz)`, or the terminal cannot be replaced: write into it.
    if target.is_relative_to("/dev") or target.is_fifo():
        target.write_text(text, encoding="utf-8")
    else:
        save_file(target, text, _is_ours)


def _chosen(
    traces: Mapping[str, EnergyTrace], unfinished: bool
) -> tuple[dict[str, EnergyTrace], list[str]]:
    """Return each run once, and the names of omitted copies and unfinished runs with reasons."""
    superseded = _superseded(traces)
    chosen: dict[str, EnergyTrace] = {}
    left_out: list[str] = []
    first: dict[str, str] = {}  # run ID -> name of the first trace with it
    for name, trace in traces.items():
        run_id = read_text(trace.meta, "run_id")
        status = read_text(trace.meta, "status") or "finished"
        if run_id in superseded:
            continue
        if run_id is not None and first.setdefault(run_id, name) != name:
            left_out.append(f"{name} (a copy of {first[run_id]})")
        elif status != "finished" and not unfinished:
            left_out.append(f"{name} ({status})")
        else:
            chosen[name] = trace
    return chosen, left_out


def _superseded(traces: Mapping[str, EnergyTrace]) -> set[str]:
    """IDs of runs that were resumed later: the trace of the last part contains them."""
    return {
        str(part["run_id"])
        for trace in traces.values()
        for part in read_objects(trace.meta, "earlier_parts")
        if "run_id" in part
    }


def _check_names(table: pd.DataFrame, model: str | None, monitor: str | None) -> None:
    """Check that the hyperparameter and the metric exist and that model names are unambiguous."""
    others = ", ".join(str(column) for column in table.columns if column not in COLUMNS) or "none"
    if model is not None and table["model"].isna().all():
        raise RunsError(f"no run has the hyperparameter {model!r}; available: {others}")
    if monitor is not None and (monitor in COLUMNS or monitor not in table):
        raise RunsError(f"no run has the metric {monitor!r}; available: {others}")
    sizes = table.groupby("model")["parameters"].nunique()
    several = sizes[sizes > 1]
    if model is None and len(several):
        warnings.warn(
            f"runs of the model {several.index[0]!r} have {several.iloc[0]} different numbers of "
            f"parameters: pass the hyperparameter that distinguishes them as model= (available: "
            f"{others})",
            UserWarning,
            stacklevel=3,
        )


def _row(
    name: str, trace: EnergyTrace, model: str | None, monitor: str | None, mode: Mode | None
) -> dict[str, Any]:
    meta, gpus = trace.meta, accelerators_of(trace.devices)
    row: dict[str, Any] = {
        "run": name,
        "model": model_name(trace, model) or None,
        "gpu": gpu_names(trace) or None,
        "gpus": len(gpus),
        "batch_size": number_or_nan(meta.get("batch_size")),
        "precision": read_text(meta, "precision"),
        "epochs": len(trace),
        **_costs(trace, [number_or_nan(gpu.get("power_limit_W")) for gpu in gpus]),
        "flops_per_sample": number_or_nan(meta.get("forward_flops_per_sample")),
        "parameters": number_or_nan(read_object(meta, "model").get("parameters")),
        "status": read_text(meta, "status"),
        "started": read_text(meta, "start_time") or "",
    }
    others = _hyperparameters(trace) | _metrics(trace, monitor, mode)
    return row | {name: value for name, value in others.items() if name not in row}


def _costs(trace: EnergyTrace, limits_W: list[float]) -> dict[str, float]:
    """Energy, time and power of the whole run, and energy per sample; NaN if unknown."""
    gpu_J, epochs_s, samples = (
        _sum(trace, name) for name in ("gpu_energy_J", "duration_s", "samples")
    )
    recorded_s = read_number(trace.meta, "duration_s")
    duration_s = epochs_s if recorded_s is None else recorded_s
    utilization = mean_utilization(trace)
    return {
        "energy_J": trace.total_J,
        "gpu_energy_J": gpu_J,
        "duration_s": duration_s,
        "mean_power_W": _quotient(trace.total_J, duration_s),
        "gpu_power_W": _quotient(gpu_J, epochs_s),
        "power_limit_W": sum(limits_W) if limits_W else math.nan,
        "utilization": math.nan if utilization is None else utilization,
        "samples": samples,
        "energy_per_sample_J": _quotient(float(np.sum(trace.column("energy_J"))), samples),
    }


def _hyperparameters(trace: EnergyTrace) -> dict[str, Any]:
    """Hyperparameters that a cell of a table can hold."""
    hparams = read_object(trace.meta, "hparams")
    return {
        str(name): value
        for name, value in hparams.items()
        if isinstance(value, str | bool) or is_number(value)
    }


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


def _quotient(amount: float, of: float) -> float:
    return amount / of if of > 0 else math.nan


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False
    with open(file, "rb") as opened:
        head = opened.read(len(_HEADER) + sum(map(len, _CONVERTED)))
    own = head
    for name in _CONVERTED:
        own = own.replace(name, b"", 1)
    return own.startswith(_HEADER) or head == b""
