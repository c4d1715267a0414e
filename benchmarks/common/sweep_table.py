"""The table of short trainings to which PRE's packaged model is fitted: `data/sweep.jsonl.gz`.

Each line is one training: its setting, the machine, the mean length and power of a warm step, and
the step's workload. `benchmarks.collect.add_to_sweep` writes it.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.data_folder import PACKAGED
from benchmarks.models.architectures import EXPERTS
from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import resolve_gpu
from energyest.records.workload import Operation, Workload

TABLE = PACKAGED / "sweep.jsonl.gz"
# In one workload of bloom here, and in one of mpnet in the next table, lookups still count the
# whole table.
# The same for trainings of architectures that no fit learns from: they judge predictions.
UNSEEN_TABLE = PACKAGED / "unseen.jsonl.gz"
# The same for usual networks, whose architectures, but not settings, fits have seen.
COMMON_TABLE = PACKAGED / "common.jsonl.gz"
# Settings of the first table that were measured on an H100, again on an H200: they judge how well a
# probe on one GPU tells of another.
AGAIN_TABLE = PACKAGED / "again.jsonl.gz"
# Timed convolutions of many sizes, without trainings: parameters are fitted to them as well. Those
# of the machine own-h200-h lack backward passes in NHWC: the gradients of its networks were in
# NCHW, so that these passes rearranged them first.
CONVOLUTIONS_TABLE = PACKAGED / "convolutions.jsonl.gz"
# The same for hopper, as measured, in the data next to the checkout.
HOPPER_SWEEP = tuple(f"hopper/sweep_{f}" for f in ("runs.csv", "epochs.csv", "samples.parquet"))
Row = dict[str, Any]
_FAMILIES = {
    "transformer": r"encoder|gpt|bert|distilbert|vit|swin",
    "residual": r"resn|wide_resnet|densenet",
    "mobile": r"mobilenet|mnasnet|efficientnet|regnet|shufflenet",
    "recurrent": r"lstm|gru",
    "inception": r"inception|googlenet",
    "plain": r"vgg|alexnet|squeezenet",
}


def rows(table: Path = TABLE) -> list[Row]:
    """A table, one dictionary per training."""
    with gzip.open(table, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def runs(table: list[Row] | None = None) -> list[TrainedRun]:
    """The table as input for `PreModel`; runs of one architecture form one group."""
    return [
        TrainedRun(
            Workload.from_dict(row["workload"]),
            resolve_gpu(row["gpu"]),
            row.get("step_s", math.nan),
            row.get("power_W", math.nan),
            architecture(row["model"]),
            row["host"],
            tuple((Operation(*sizes), seconds) for *sizes, seconds in row.get("operations", ())),
        )
        for row in (rows() if table is None else table)
    ]


def convolutions() -> list[TrainedRun]:
    """Single convolutions that were timed, as further input for `PreModel`."""
    return runs(rows(CONVOLUTIONS_TABLE))


def architecture(model: str) -> str:
    """A model's name without its width and number of layers."""
    return model.split("-d", 1)[0]


def family(model: str) -> str:
    """The family of a model: architectures of similar construction."""
    name = architecture(model).split("/")[-1]
    for kind, pattern in _FAMILIES.items():
        if re.match(pattern, name):
            return kind
    return name


def way_of(row: Row) -> str:
    """The way of training, if it is not the usual one."""
    half_weights = row.get("half_weights", False)
    if row.get("compiled"):
        return "compiled"
    if row.get("accumulate", 1) > 1:
        return "accumulated gradients"
    if architecture(row["model"]).removeprefix("transformers/") in EXPERTS:
        return f"experts, {'bf16' if half_weights else 'autocast'}"
    if half_weights:
        return "others, weights in bf16"
    if family(row["model"]) == "recurrent":
        return "recurrent"
    return "batches of 1 to 8" if row["batch_size"] <= 8 else "usual"


def counter_power_W(samples: Any, start_s: float, end_s: float) -> float:
    """Mean power from the first to the last tick of the energy counter in that time."""
    inside = samples[(samples.t_s >= start_s) & (samples.t_s <= end_s)]
    time_s, energy_J = inside.t_s.to_numpy(float), inside.energy_mJ.to_numpy(float) / 1e3
    ticks = np.flatnonzero(np.diff(energy_J) > 0) + 1
    first, last = ticks[0], ticks[-1]
    return float((energy_J[last] - energy_J[first]) / (time_s[last] - time_s[first]))
