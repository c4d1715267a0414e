"""`collect_runs` turns a folder of traces into a table of runs; `save_runs` writes it to a file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from energyest.display import as_csv
from energyest.errors import RunsError
from energyest.records.load_many import Source
from energyest.records.own_files import save_file
from energyest.tradeoff.collect.gather import gather
from energyest.tradeoff.collect.parts import Chosen, choose
from energyest.tradeoff.collect.record import Question
from energyest.tradeoff.metrics import Mode, check_mode
from energyest.tradeoff.table import named

_WHAT = (
    *("run", "model", "gpu", "gpus", "batch_size", "precision", "epochs"),
    *("energy_J", "gpu_energy_J", "duration_s", "mean_power_W", "gpu_power_W", "power_limit_W"),
    *("utilization", "samples", "energy_per_sample_J", "flops_per_sample", "parameters"),
    *("status", "started"),
)
_WHOSE = (
    *("user", "host", "project", "scheduler", "job_id", "gpu_name"),
    *("run_id", "earlier_runs", "resumed_as", "part_energy_J", "lost_J"),
    *("carbon_g_per_kWh", "pue"),
)
#: Columns of every table of runs; hyperparameters and metrics follow.
COLUMNS = (*_WHAT, *_WHOSE)
_HEADER = ",".join(_WHAT).encode()
# The command line writes these behind energy_J.
_CONVERTED = (b"energy_kWh,", b"co2e_kg,")


def collect_runs(
    source: Source,
    *,
    model: str | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
    unfinished: bool = False,
    parts: bool = False,
    index: bool | None = None,
) -> pd.DataFrame:
    """Collect finished trainings into a table for the functions of `energyest.tradeoff`.

    Of a folder of many runs, an index is kept in it, the file `.energyest-runs-1.json`: the next
    call reads only what has changed since.

    Args:
        source: a folder that holds traces at any depth, such as `lightning_logs`, or an address
            that fsspec opens, such as `s3://bucket/runs`; for other sources, see `load_traces`.
        model: hyperparameter that names the model. By default, the name of the model's class is
            used, which is the same for all runs if one LightningModule wraps many networks.
        monitor: a metric; all metrics are taken from the epoch in which it is best. By default,
            the last logged value of each metric is used.
        mode: "max" if a higher value of `monitor` is better, "min" if a lower one is; by default
            inferred from its name (lower is better for a loss or an error).
        unfinished: also include runs that were interrupted or are still running, with the energy
            used so far.
        parts: also include the earlier parts of runs that were resumed, as rows of their own.
        index: whether to keep an index in the folder; by default, if it holds a hundred runs.
            False neither reads nor writes it. Where it cannot be written, there is none.

    Returns:
        One row per run, sorted by start. Its columns are `run` (its folder within `source`, or its
        name), `model`, `gpu`, `gpus`, `batch_size`, `precision`, `epochs`, `energy_J`,
        `gpu_energy_J`, `duration_s`, `mean_power_W`, `gpu_power_W`, `power_limit_W` (of the GPUs),
        `utilization`, `samples`, `energy_per_sample_J`, `flops_per_sample`, `parameters`, `status`
        and `started`. Then come `user`, `host`, `project`, `scheduler`, `job_id`, `gpu_name`
        (without the number of GPUs), `run_id`, `earlier_runs`, `resumed_as`, `part_energy_J`,
        `lost_J`, `carbon_g_per_kWh` and `pue`. Hyperparameters and metrics follow.

        `gpu` is the name of the GPU, preceded by the number of GPUs if there are several, or the
        name of the processor if there is none. `energy_J` is that of the whole run; `gpu_energy_J`
        and `energy_per_sample_J` are those of the epochs, validation included. `utilization` is the
        share of time in which the GPUs were busy. `samples` are those of training.
        `flops_per_sample` are forward; a multiply and an add count as two. What was not recorded is
        NaN, or None where it would be text.

        A run that was resumed has one row, that of its last part. Its `earlier_runs` are the ids of
        the parts before it, oldest first, with spaces between them; `resumed_as` is the id of the
        part that continues this one. Its `energy_J` is that of the whole run, and `part_energy_J`
        that of this part alone. `lost_J` was used after the checkpoint from which the run was
        resumed, and is in no other part's `energy_J`; it is NaN if the folder of an earlier part
        is not there. So `energy_J` + `lost_J` is what the run has cost. With `parts`, the sum of
        `part_energy_J` is what all have cost.

    Raises:
        RunsError: there is no trace or no finished one; no trace has the metric or hyperparameter;
            or an argument is invalid.
        TraceError: a folder given as a trace holds no trace.
        MissingDependencyError: an address needs fsspec, or a package that fsspec needs for it.

    Warns:
        UserWarning: a trace was left out because it cannot be read, vanished, is unfinished or
            is a copy; or
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
    question = Question(model, monitor, mode)
    records = gather(source, question, index)
    chosen = choose(records, unfinished=unfinished, parts=parts)
    if chosen.left_out:
        warnings.warn(
            f"left out (unfinished or copies): {named(chosen.left_out)}; pass unfinished=True to "
            "include unfinished runs with the energy used so far",
            UserWarning,
            stacklevel=2,
        )
    if not chosen.runs:
        raise RunsError(f"none of the {len(records)} traces is a finished run")
    table = pd.DataFrame([_row(name, chosen, question) for name in chosen.runs])
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


def _row(name: str, chosen: Chosen, question: Question) -> dict[str, Any]:
    """The row of a run: `COLUMNS`, then its hyperparameters and metrics."""
    record = chosen.runs[name]
    known = {
        "run": name,
        "earlier_runs": " ".join(part for part, _ in record.earlier) or None,
        "resumed_as": chosen.resumed_as.get(record.run_id or ""),
        "lost_J": chosen.lost_J[name],
    }
    row = record.row(question) | known
    return {column: row[column] for column in COLUMNS} | {
        column: value for column, value in row.items() if column not in COLUMNS
    }


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False
    with open(file, "rb") as opened:
        head = opened.read(len(_HEADER) + sum(map(len, _CONVERTED)))
    own = head
    for name in _CONVERTED:
        own = own.replace(name, b"", 1)
    return own.startswith(_HEADER) or head == b""
