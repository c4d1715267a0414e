"""The contents of a Trainer's loggers."""

from __future__ import annotations

import csv
from pathlib import Path


def read_csv(folder: str) -> dict[str, dict[int, float]]:
    columns: dict[str, dict[int, float]] = {}
    with open(Path(folder) / "metrics.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    columns.setdefault(name, {})[int(row["step"])] = float(value)
    return columns


def read_tensorboard(folder: str) -> dict[str, dict[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
