"""System metrics of Weights & Biases: a CSV or JSON export of a run's events."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.clock import Clock, clock_of_texts, clock_of_unix
from energyest.readers.readings import Readings, trace_of_readings, wide_readings
from energyest.readers.tables import Table, read_any_table
from energyest.records.trace import EnergyTrace

# Power of a board; gpu.process.0.powerWatts is the same value, for the run's own processes.
_POWER = re.compile(r"(?:.* - )?(?:system[./])?(gpu|cpu)\.(?:(\d+)\.)?powerWatts(?:/l:(\w+))?")
_LIMIT = re.compile(r"(?:system[./])?gpu\.(\d+)\.enforcedPowerLimitWatts")
_BUSY = re.compile(r"(?:system[./])?gpu\.(\d+)\.gpu")
_RELATIVE = re.compile(r"_runtime|Relative Time \(.*\)")


def is_wandb(path: Path, head: str) -> bool:
    """Whether a file is an export of W&B's system events, or its own binary record of them."""
    return path.suffix == ".wandb" or bool(re.search(r"gpu\.\d+\.powerWatts|system\.gpu\.", head))


def read_wandb(
    path: str | Path,
    *,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from the system metrics of Weights & Biases, logged every 10 or 15 s.

    The export is `run.history(stream="events")`, saved with `.to_csv()` or
    `.to_json(orient="records")`; or `wandb-events.jsonl`; or a power chart that the web page
    exports as CSV.

    Args:
        path: the export.
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`.
        epoch_marks: if `epoch_end_s` is a file, regular expression of the lines that are ends.
        gpu: index of the GPU to count, or a list of them; by default, all are summed.
        timezone: the time zone of epoch ends that state none.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        TraceError: the file is not such an export, is W&B's own binary record, holds no power or no
            times, or is ambiguous. The message names the line.

    Examples:
        >>> from energyest.readers import read_wandb
        >>> read_wandb('events.csv', epoch_end_s=[20, 40, 60]).column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    path = Path(path)
    if path.suffix == ".wandb":
        raise TraceError(
            f"{path} is W&B's own binary record: export the events, as in wandb.Api()"
            '.run("entity/project/id").history(stream="events").to_csv("events.csv")'
        )
    return trace_of_readings(
        _readings(read_any_table(path, separator=None), timezone),
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        gpu=gpu,
        max_gap_s=max_gap_s,
    )


def _readings(table: Table, timezone: str | None) -> Readings:
    columns: dict[str, str] = {}
    for name in table.names:
        if match := _POWER.fullmatch(name):
            device = f"{match[1]}:{match[2] or 0}{f'@{match[3]}' if match[3] else ''}"
            if device in columns:
                raise TraceError(
                    f"{table.path}: {short(columns[device])} and {short(name)} are both the power "
                    f"of {device}: are there several runs? Export one"
                )
            columns[device] = name
    if not columns:
        raise TraceError(
            f"{table.path} has no column such as system.gpu.0.powerWatts; it has "
            f"{', '.join(table.names[:20])}"
        )
    # Rows of other metrics hold no power; they are not failed readings.
    filled = [
        any(text not in ("", "nan", "None") for text in texts)
        for texts in zip(*(table.texts(name) for name in columns.values()), strict=True)
    ]
    table = table.where(filled)
    time_s, clock = _times(table, timezone)
    devices = []
    for device in columns:
        entry: dict[str, Any] = {"device": device, "kind": device[:3], "source": "measured"}
        limit = [n for n in table.names if (m := _LIMIT.fullmatch(n)) and device == f"gpu:{m[1]}"]
        known = table.numbers(limit[0]) if limit else np.empty(0)
        if np.isfinite(known).any():
            entry["power_limit_W"] = float(np.nanmax(known))
        devices.append(entry)
    busy = {f"gpu:{m[1]}": name for name in table.names if (m := _BUSY.fullmatch(name))}
    utilization = None
    if busy:
        unknown = np.full(len(table.rows), np.nan)
        shares = [
            np.minimum(table.numbers(busy[of]) / 100, 1.0) if of in busy else unknown
            for of in columns
        ]
        utilization = np.concatenate(shares)
    notes = list(table.notes)
    powers = {of: table.numbers(name) for of, name in columns.items()}
    for device, power_W in powers.items():
        failed = np.flatnonzero(np.isnan(power_W))
        if len(failed):
            notes.append(
                f"{table.path.name}, line {table.lines[failed[0]]}: the first of {len(failed)} "
                f"reading(s) without {device}"
            )
    return Readings(
        table.path,
        "wandb",
        clock=clock,
        utilization=utilization,
        devices=devices,
        notes=notes,
        facts={"power_column": ", ".join(columns.values())},
        **wide_readings(time_s, powers, table.lines),
    )


def _times(table: Table, timezone: str | None) -> tuple[Any, Clock]:
    """The time of each row: Unix time, or else the run's own clock."""
    for name in ("_timestamp", "timestamp"):
        if name in table.names:
            texts = table.texts(name)
            if any("-" in text[1:] or "/" in text for text in texts):
                return clock_of_texts(texts, table.refusal, timezone)
            unix_s = table.numbers(name)
            if np.isnan(unix_s).any():
                raise table.refusal(int(np.argmax(np.isnan(unix_s))), f"no {name}")
            # Exports of old versions use milliseconds.
            time_s, clock = clock_of_unix(unix_s / 1000 if (unix_s > 1e11).all() else unix_s)
            return time_s, clock._replace(timezone=timezone)
    relative = [name for name in table.names if _RELATIVE.fullmatch(name)]
    if len(relative) != 1:
        raise TraceError(
            f"{table.path} has no times: neither _timestamp nor _runtime (nor Relative Time)"
        )
    time_s = table.numbers(relative[0])
    if np.isnan(time_s).any():
        raise table.refusal(int(np.argmax(np.isnan(time_s))), f"no {relative[0]}")
    return time_s, Clock()
