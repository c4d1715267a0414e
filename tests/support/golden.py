"""Numbers that refactoring must not change: STEP, baselines, PRE, the trade-off analysis.

`python -m tests.support.golden` rewrites tests/data/golden.json.gz; do this only if a change is
meant to change results, and say so in its commit.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from energyest import (
    EnergyestError,
    EnergyTrace,
    Estimate,
    PlannedChange,
    compare_estimators,
    estimate_pre,
    estimate_step,
    load_trace,
)
from energyest.estimators import find_stable_epoch
from energyest.profiling import Workload
from energyest.tradeoff import (
    advise,
    cheapest_within,
    collect_runs,
    compare_groups,
    interaction,
    match_gpu,
    pareto_front,
    savings,
)
from energyest.tradeoff.collect import COLUMNS

DATA = Path(__file__).parents[1] / "data"
CHOICES = Path(__file__).parents[2] / "examples" / "data" / "choices.tar.gz"
GPUS = ("H100", "A100", "RTX 3090", "V100", "L4")
Numbers = dict[str, float | str | None]


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """The folder of an archive's files, for as long as it is needed."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        yield Path(folder)


def synthetic(kind: str, seed: int) -> EnergyTrace:
    """Sixteen epochs of a kind of training."""
    rng = np.random.default_rng(seed)
    epochs = 16
    energy_J = 5e3 * np.exp(0.02 * rng.standard_normal(epochs))
    energy_J[0] *= 1.6
    columns: dict[str, Any] = {"steps": np.full(epochs, 50.0), "samples": np.full(epochs, 1600.0)}
    meta: dict[str, Any] = {
        "devices": [
            {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300.0},
            {"device": "ram:0", "kind": "ram", "memory_bytes": 64e9},
        ],
        "precision": "tf32",
    }
    if kind == "validated":
        validation_J = np.where(np.arange(epochs) % 3 == 2, 900.0, 0.0)
        validation_J *= np.exp(0.05 * rng.standard_normal(epochs))
        energy_J = energy_J + validation_J
        columns["validation_energy_J"] = validation_J
        columns["validation_s"] = validation_J / 200
        meta |= {"validation_every_n_rows": 3.0, "first_epoch": 0, "planned_epochs": 60}
    elif kind == "changed":
        energy_J[8:] *= 1.7
    elif kind == "spiky":
        energy_J[[4, 9, 14]] *= 1.5
    elif kind == "drifting":
        energy_J *= np.linspace(1, 1.15, epochs)
    elif kind == "planned":
        meta["planned_changes"] = [{"epoch": 20, "flops_ratio": 3.0, "reason": "unfreezing"}]
        columns["flops"] = np.full(epochs, 4e14)
    return EnergyTrace.from_epochs(energy_J, energy_J / 210.0, meta=meta, **columns)


def traces() -> dict[str, EnergyTrace]:
    """Ten traces: six made up, four as they were recorded."""
    kinds = ("plain", "validated", "changed", "spiky", "drifting", "planned")
    found = {kind: synthetic(kind, seed) for seed, kind in enumerate(kinds)}
    with unpacked(DATA / "traces_of_format_1.tar.gz") as folder:
        for name in ("finished", "intervals", "killed", "two_ranks"):
            found[name] = load_trace(folder / name)
    return found


def workloads() -> dict[str, Workload]:
    """Ten workloads that were measured for the model of PRE."""
    stored = json.loads(gzip.decompress((DATA / "workloads.json.gz").read_bytes()))
    return {name: Workload.from_dict(content) for name, content in stored.items()}


def estimates() -> Numbers:
    """Every estimator on each of the traces."""
    numbers: Numbers = {}
    for name, trace in traces().items():
        numbers[f"{name}: total_J"] = trace.total_J
        epochs = 4 * len(trace)
        for seen in sorted({3, 6, 11, len(trace)}):
            head = trace.head(min(seen, len(trace)))
            key = f"{name}, {len(head)} epochs"
            numbers |= of_estimate(f"{key}: STEP", lambda t=head, n=epochs: estimate_step(t, n))
            numbers |= of_estimate(
                f"{key}: STEP, 50 %, change",
                lambda t=head, n=epochs: estimate_step(
                    t, n, confidence=0.5, planned=[PlannedChange(len(t) + 2, flops_ratio=2.5)]
                ),
            )
            numbers[f"{key}: stable epoch"] = or_error(lambda t=head: find_stable_epoch(t))
        table = compare_estimators(trace, epochs)
        numbers |= of_table(f"{name}: methods", table.drop(columns="note"))
    return numbers


def before_training() -> Numbers:
    """PRE for each of the workloads on five GPUs."""
    numbers: Numbers = {}
    for name, workload in workloads().items():
        for gpu in GPUS:
            for precision in {workload.precision, "fp32", "bf16"}:
                asked = replace(workload, precision=precision)
                numbers |= of_estimate(
                    f"{name} as {precision} on {gpu}",
                    lambda w=asked, g=gpu: estimate_pre(
                        w, g, epochs=10, train_samples=50_000, validation_samples=10_000
                    ),
                )
    chosen = dict(list(workloads().items())[:4])
    advice = advise(chosen, ["H100", "L4"], epochs=3, train_samples=10_000)
    return numbers | of_table("advise", advice.table)


def tradeoff() -> Numbers:
    """The trade-off analysis of the 72 trainings in examples/data."""
    with unpacked(CHOICES) as folder:
        runs = collect_runs(folder / "choices", model="architecture")
    # Whose runs they are, and how they were resumed, are no numbers of the analysis.
    others = [*COLUMNS[COLUMNS.index("status") :], "run"]
    numbers = of_table("runs", runs.drop(columns=others))
    numbers |= of_table("front", pareto_front(runs, by=["model", "gpu"]))
    numbers |= of_table("cheapest", cheapest_within(runs, 0.02, by=["model", "gpu"]))
    numbers |= of_table("savings", savings(runs))
    found = interaction(runs)
    numbers |= of_table("interaction", found.effects) | of_table("cells", found.cells)
    groups = compare_groups(runs, by="gpu")
    numbers |= of_table("groups", groups.groups) | of_table("pairs", groups.pairs)
    match = match_gpu(runs)
    for part in ("points", "relations", "crossings"):
        numbers |= of_table(f"match {part}", getattr(match, part))
    return numbers


def of_estimate(name: str, make: Callable[[], Estimate]) -> Numbers:
    """The numbers of an estimate, or the kind of error instead."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = make()
    except EnergyestError as error:
        found = getattr(error, "estimate", None)
        if found is None:
            return {name: type(error).__name__}
        name += " (not stable)"
    parts = ("energy_J", "lower_J", "upper_J", "duration_s", "measured_J", "epochs", "stable_epoch")
    return {f"{name}: {part}": plain(getattr(found, part)) for part in parts}


def of_table(name: str, table: pd.DataFrame) -> Numbers:
    """The numbers of a table, by row and column."""
    return {
        f"{name} [{row}] {column}": plain(value)
        for row, values in enumerate(table.to_dict("records"))
        for column, value in values.items()
        if not isinstance(value, tuple)
    }


def or_error(make: Callable[[], float]) -> float | str:
    """A number, or the kind of error in its place."""
    try:
        return float(make())
    except EnergyestError as error:
        return type(error).__name__


def plain(value: Any) -> float | str | None:
    """A value as JSON holds it."""
    if value is None or isinstance(value, str):
        return value
    return float(value) if np.isfinite(float(value)) else None


PARTS: dict[str, Callable[[], Numbers]] = {
    "estimates": estimates,
    "before_training": before_training,
    "tradeoff": tradeoff,
}

if __name__ == "__main__":
    content = json.dumps({name: make() for name, make in PARTS.items()})
    with gzip.GzipFile(DATA / "golden.json.gz", "wb", mtime=0) as file:
        file.write(content.encode())
