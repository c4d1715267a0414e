"""System metrics of trackio, from its database or the Parquet file that it exports."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from energyest.checks import is_number, short
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
from energyest.readers.tables import read_any_table
from energyest.records.trace import EnergyTrace

_POWER = re.compile(r"(?P<node>)gpu/(?P<number>\d+)/power")
_SYSTEM = "system_metrics"

# A row: its time, run, metrics and line.
Row = tuple[str, str, dict[str, Any], int]


def is_trackio(path: Path, head: str) -> bool:
    """Whether a file is a trackio database, or its export of system metrics."""
    if head.startswith("SQLite format 3"):
        return _SYSTEM in tables_of(path)
    return head.startswith("PAR1") and path.name.endswith(
        ("_system.parquet", "system_metrics.parquet")
    )


def read_trackio(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    run: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from the system metrics of trackio, logged every 10 s.

    Args:
        path: the project's database (`~/.cache/huggingface/trackio/<project>.db`), or the export
            of its system metrics (`<project>_system.parquet`), also as JSON lines or CSV.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`.
        epoch_marks: for a database, regular expression of the metric that is logged at the end of
            each epoch; if `epoch_end_s` is a file, of lines in it.
        run: the beginning of the run's name, if there are several runs.
        gpu: index of the GPU to count, or a list of them; by default, all are summed.
        timezone: the time zone of epoch ends that state none.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: there are no such metrics, or they belong to several runs.
        MissingDependencyError: it is a Parquet file and pyarrow is not installed.

    Examples:
        >>> from energyest.readers import read_trackio
        >>> read_trackio('project.db', epoch_marks='val_loss').column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    path = Path(path)
    system, others = _of_database(path) if _is_database(path) else (_of_table(path), [])
    chosen = one_run(path, [of for _, of, _, _ in system], run)
    metrics = _series(path, system, chosen)
    found = devices_of_names(list(metrics), _POWER, path)
    readings, epochs = readings_of_series(
        path,
        "trackio",
        {device: metrics[name] for device, name in found.items()},
        _series(path, others, chosen),
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        timezone=timezone,
        facts={"power_column": ", ".join(found.values()), "run": chosen},
    )
    return trace_of_readings(readings, **epochs, gpu=gpu, max_gap_s=max_gap_s)


def _is_database(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(15) == b"SQLite format 3"
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def _of_database(path: Path) -> tuple[list[Row], list[Row]]:
    """The rows of system metrics, and the rows of the training's own metrics."""

    def rows(database: sqlite3.Connection, table: str) -> list[Row]:
        found = database.execute(f"SELECT timestamp, run_name, metrics, id FROM {table}").fetchall()
        return [
            (str(time), str(run), _metrics(path, text, number), 0)
            for time, run, text, number in found
        ]

    with open_database(path) as database:
        try:
            system = rows(database, _SYSTEM)
            others = rows(database, "metrics") if "metrics" in tables_of(path) else []
        except sqlite3.Error as error:
            raise TraceError(f"{path} is not a database of trackio: {error}") from error
    return system, others


def _metrics(path: Path, text: Any, number: int) -> dict[str, Any]:
    try:
        metrics = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise TraceError(f"{path}, row {number}: its metrics are not JSON: {error}") from error
    return metrics if isinstance(metrics, dict) else {}


def _of_table(path: Path) -> list[Row]:
    table = read_any_table(path)
    if "timestamp" not in table.names:
        raise TraceError(f"{path} has no column timestamp, which trackio's exports have")
    return [
        (
            str(row.get("timestamp", "")),
            str(row.get("run_name") or row.get("run_id") or ""),
            row,
            line,
        )
        for row, line in zip(table.rows, table.lines, strict=True)
    ]


def _series(path: Path, rows: list[Row], run: str) -> dict[str, Series]:
    """The metrics of a run, by name."""
    points: dict[str, list[tuple[float, float, int]]] = {}
    for time, of, metrics, line in rows:
        if of != run:
            continue
        try:
            when = datetime.fromisoformat(time.replace("Z", "+00:00"))
        except ValueError as error:
            where = f", line {line}" if line else ""
            raise TraceError(f"{path}{where}: {short(time)} is not a time of trackio") from error
        # trackio writes UTC; old versions do not say so.
        unix_s = (when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp()
        for name, value in metrics.items():
            number = _number(value)
            if number is not None:
                points.setdefault(str(name), []).append((unix_s, number, line))
    return {name: series_of(of_name) for name, of_name in points.items()}


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) and not math.isnan(value) else None
