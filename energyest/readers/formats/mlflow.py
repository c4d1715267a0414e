"""System metrics of MLflow: a run's folder, one of its metric files, or the database."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.formats.metric_series import (
    Series,
    devices_of_names,
    one_run,
    readings_of_series,
    series_of,
)
from energyest.readers.readings import trace_of_readings
from energyest.readers.sqlite_files import open_database, tables_of
from energyest.readers.text import read_log_text
from energyest.records.trace import EnergyTrace

_POWER = re.compile(r"system/(?:(?P<node>[^/]+)/)?gpu_(?P<number>\d+)_power_usage_watts")
_FILE = re.compile(r"gpu_\d+_power_usage_watts")
_TABLES = {"metrics", "runs", "latest_metrics"}


def is_mlflow(path: Path, head: str) -> bool:
    """Whether a path belongs to MLflow: a run's folder, one of its metric files, or a database."""
    if path.is_dir():
        return any(path.glob("**/gpu_*_power_usage_watts"))
    if head.startswith("SQLite format 3"):
        return tables_of(path) >= _TABLES
    return bool(_FILE.fullmatch(path.name))


def read_mlflow(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    run: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from the system metrics of MLflow (`log_system_metrics=True`).

    Args:
        path: the folder of a run (`mlruns/<experiment>/<run>`), one of its metric files
            (`system/gpu_0_power_usage_watts`), or a database (`mlflow.db`).
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`.
        epoch_marks: regular expression of the metric that is logged at the end of each epoch, such
            as "val_loss", or, if `epoch_end_s` is a file, of lines in it.
        run: the beginning of the run's id, if there are several runs.
        gpu: index of the GPU to count, or a list of them; by default, all are summed.
        timezone: the time zone of epoch ends that state none.
        max_gap_s: as in `EnergyTrace.from_power`; MLflow logs every 10 s.

    Raises:
        TraceError: there are no such metrics, they belong to several runs, or a line is damaged.

    Examples:
        >>> from energyest.readers import read_mlflow
        >>> read_mlflow('mlruns', epoch_marks='val_loss').column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    path = Path(path)
    metrics = _of_files(path, run) if not _is_database(path) else _of_database(path, run)
    found = devices_of_names(list(metrics), _POWER, path)
    readings, epochs = readings_of_series(
        path,
        "mlflow",
        {device: metrics[name] for device, name in found.items()},
        {name: series for name, series in metrics.items() if not name.startswith("system/")},
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        timezone=timezone,
        facts={"power_column": ", ".join(found.values())},
    )
    return trace_of_readings(readings, **epochs, gpu=gpu, max_gap_s=max_gap_s)


def _is_database(path: Path) -> bool:
    return path.is_file() and not _FILE.fullmatch(path.name)


def _of_files(path: Path, run: str | None) -> dict[str, Series]:
    """All metrics of a run, by name."""
    if path.is_file():
        return {f"system/{path.name}": _series(path)}
    files = sorted(path.glob("**/gpu_*_power_usage_watts"))
    folders = [_metrics_folder(file) for file in files]
    if not folders:
        raise TraceError(f"{path} holds no metric such as system/gpu_0_power_usage_watts")
    ids = {folder.parent.name: folder for folder in folders}
    folder = ids[one_run(path, list(ids), run)]
    return {
        str(file.relative_to(folder).as_posix()): _series(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _metrics_folder(file: Path) -> Path:
    """The folder `metrics` of the run to which a metric file belongs."""
    return next((one for one in file.parents if one.name == "metrics"), file.parent)


def _series(file: Path) -> Series:
    """Read a metric file: each line has a time in milliseconds, a value and a step."""
    log = read_log_text(file)
    points = []
    for number, text in log.lines:
        fields = text.split()
        try:
            points.append((float(fields[0]) / 1000, float(fields[1]), number))
        except (ValueError, IndexError) as error:
            if number == log.lines[-1].number and not log.is_whole:
                break
            raise log.refusal(
                number, f"not a line of time, value and step as in MLflow: {short(text)}"
            ) from error
    return series_of(points)


def _of_database(path: Path, run: str | None) -> dict[str, Series]:
    with open_database(path) as database:
        try:
            runs = database.execute(
                "SELECT DISTINCT run_uuid FROM metrics WHERE key LIKE 'system/%power_usage_watts'"
            ).fetchall()
            chosen = one_run(path, [str(one) for (one,) in runs], run)
            rows = database.execute(
                "SELECT key, timestamp, value FROM metrics WHERE run_uuid = ?", (chosen,)
            ).fetchall()
            points: dict[str, list[tuple[float, float, int]]] = {}
            for key, time_ms, value in rows:
                points.setdefault(str(key), []).append((float(time_ms) / 1000, float(value), 0))
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise TraceError(f"{path} is not a database of MLflow: {error}") from error
    return {key: series_of(of_key) for key, of_key in points.items()}
