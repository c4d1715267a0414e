"""Small logs of each tool that a reader knows, for the examples in docstrings.

One GPU draws 300 W for 60 s, and an epoch takes 20 s: 6 kJ.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.support.markdown import ROOT
from tests.support.snippet_names import codecarbon_file, epoch_ends_file, nvidia_smi_file

_START = datetime(2026, 11, 23, 10, tzinfo=timezone.utc)
_UNIX_S = int(_START.timestamp())
_SECONDS, _WATTS, _EPOCHS = range(61), 300.0, (20, 40, 60)


def write_logs() -> None:
    """Write them all into the working directory."""
    nvidia_smi_file("gpus.csv")
    epoch_ends_file("epoch_ends.txt")
    codecarbon_file("emissions.csv")
    shutil.copy(ROOT / "tests/data/logs/carbontracker_2.4.7.log", "carbontracker.log")
    _write("dcgm.log", "#Entity   POWER", "ID        W", *(f"GPU 0     {_WATTS}" for _ in _SECONDS))
    windows = [f"{_UNIX_S + 20 * n},epoch_{n},20.0,6000.0" for n in range(3)]
    _write("zeus.csv", "start_time,window_name,elapsed_time,gpu0_energy", *windows)
    events = [f"{_UNIX_S + s},{_WATTS}" for s in _SECONDS]
    _write("events.csv", "_timestamp,system.gpu.0.powerWatts", *events)
    _write("power.csv", "time_s,power_W", *(f"{s},{_WATTS}" for s in _SECONDS))
    times = [_START + timedelta(seconds=s) for s in _SECONDS]
    _write("spl.txt", *(f"Time,{at:%m-%d-%Y %H:%M:%S}.000,Watts,{_WATTS}" for at in times))
    _write_mlflow(Path("mlruns/0/run/metrics"))
    _write_trackio("project.db")


def write_tensorboard(folder: str) -> None:
    """The same as scalars of TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        for s in _SECONDS:
            writer.add_scalar("gpu0/power_W", _WATTS, s, walltime=_UNIX_S + s)
            if s in _EPOCHS:
                writer.add_scalar("val_loss", 0.5, s, walltime=_UNIX_S + s)


def _write_mlflow(folder: Path) -> None:
    rows = [f"{1000 * (_UNIX_S + s)} {_WATTS} {s}" for s in _SECONDS]
    _write(str(folder / "system/gpu_0_power_usage_watts"), *rows)
    _write(str(folder / "val_loss"), *(f"{1000 * (_UNIX_S + s)} 0.5 {s}" for s in _EPOCHS))


def _write_trackio(name: str) -> None:
    with sqlite3.connect(name) as database:
        for table in ("system_metrics", "metrics"):
            database.execute(
                f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, run_id TEXT, timestamp TEXT, "
                "run_name TEXT, metrics TEXT)"
            )
        for s in _SECONDS:
            rows = {"system_metrics": {"gpu/0/power": _WATTS}}
            if s in _EPOCHS:
                rows["metrics"] = {"val_loss": 0.5}
            for table, metrics in rows.items():
                database.execute(
                    f"INSERT INTO {table} (run_id, timestamp, run_name, metrics) "
                    "VALUES (?, ?, ?, ?)",
                    ("1", (_START + timedelta(seconds=s)).isoformat(), "run", json.dumps(metrics)),
                )


def _write(name: str, *lines: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
