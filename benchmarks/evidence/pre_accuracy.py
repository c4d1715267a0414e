"""How well PRE predicts trainings on models, GPUs and generations that it has not seen.

Reads the packaged sweep, which holds hopper's trainings, and, from the data next to the checkout,
hopper's readings (for the probe), `zeus_nsdi23` (older generations) and `delrey2023` (the authors'
table). Exits with 1 if a goal is missed, with 2 if data are missing.

    python -m benchmarks.evidence.pre_accuracy
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import require
from benchmarks.common.goal import Goal, mean_median_goal
from benchmarks.common.head import print_head
from benchmarks.common.older_trainings import FILES as ZEUS
from benchmarks.common.real_trainings import DELREY_TABLE
from benchmarks.common.sweep_table import (
    HOPPER_SWEEP,
    convolutions,
    family,
    rows,
    runs,
    way_of,
)
from benchmarks.evidence import pre_delrey, pre_older, pre_probe
from energyest.estimators.cross_validation import CrossValidation
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.model import PreModel, core_of
from energyest.estimators.pre.roofline_model import RooflineModel
from energyest.estimators.pre.training_data import TrainedRun
from energyest.estimators.regression.features import FEATURES
from energyest.estimators.regression.table_model import TableModel

CONFIDENCE = 0.9


def fitted(learnt: Sequence[TrainedRun]) -> RooflineModel:
    # The packaged model has a part in no error: it is where the search begins.
    return core_of(learnt, begin=packaged().core)


@dataclass(frozen=True)
class Predicted:
    """Step times and powers, each of shape (n,), of runs not used in the fit."""

    step_s: np.ndarray
    power_W: np.ndarray


def left_out(
    table: Sequence[TrainedRun],
    asked: Sequence[int],
    label: Callable[[TrainedRun], str],
    operations: Sequence[TrainedRun] = (),
) -> tuple[Predicted, Predicted]:
    """Predict the runs `asked` by fits without their label: machine unknown, and known.

    Fits learn from `operations`, too.
    """
    found = np.empty((4, len(table)))
    for name in sorted({label(table[i]) for i in asked}):
        model = fitted([run for run in [*table, *operations] if label(run) != name])
        chosen = [i for i in asked if label(table[i]) == name]
        pairs = [table[i].pair for i in chosen]
        unknown, known = model.predict(pairs), model.predict(pairs, [table[i].host for i in chosen])
        found[:, chosen] = [unknown.step_s, unknown.power_W, known.step_s, known.power_W]
    unknown_s, unknown_W, known_s, known_W = found[:, list(asked)]
    return Predicted(unknown_s, unknown_W), Predicted(known_s, known_W)


def errors(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Mean and median absolute error in per cent."""
    off = 100 * np.abs(predicted / measured - 1)
    return float(off.mean()), float(np.median(off))


def show(name: str, found: Predicted, truth: Sequence[TrainedRun]) -> None:
    times, powers = np.array([r.step_s for r in truth]), np.array([r.power_W for r in truth])
    parts = [
        f"{quantity} {mean:5.1f} {median:5.1f}"
        for quantity, predicted, measured in (
            ("energy", found.step_s * found.power_W, times * powers),
            ("power", found.power_W, powers),
            ("step time", found.step_s, times),
        )
        for mean, median in [errors(predicted, measured)]
    ]
    print(f"  {name:<46}{' | '.join(parts)}", flush=True)


def kernel_ridge(table: list[dict], asked: Sequence[int], labels: Sequence[str]) -> None:
    """The paper's features and regressor, for energy per sample and mean power."""
    names = np.array(labels)
    made = runs(table)
    features = np.array(
        [
            (
                *(row["batch_size"], row["size"], row["size"], 125.9, 0, 0),
                row["workload"]["forward_flops_per_sample"] / 1e9,
                *(run.gpu.cuda_cores, run.gpu.memory_bytes / 2**30, run.gpu.tdp_W),
            )
            for row, run in zip(table, made, strict=True)
        ]
    )
    known = pd.DataFrame(features, columns=list(FEATURES)).assign(
        # Energy per sample, which is the energy of an epoch up to a factor.
        epoch_energy_J=[run.energy_J / run.workload.batch_size for run in made],
        mean_power_W=[run.power_W for run in made],
    )
    for quantity, target in (("energy", "epoch_energy_J"), ("power", "mean_power_W")):
        found = np.empty(len(table))
        for name in sorted({names[i] for i in asked}):
            chosen = np.array([i for i in asked if names[i] == name])
            rest = np.flatnonzero(names != name)
            model = TableModel("kernel_ridge", target).fit(known.iloc[rest])
            found[chosen] = model.predict(known.iloc[chosen])
        mean, median = errors(found[list(asked)], known[target].to_numpy()[list(asked)])
        print(
            f"  kernel ridge, paper's features: {quantity:<14}{quantity} {mean:5.1f} {median:5.1f}"
        )


def hopper() -> list[Goal]:
    """The 84 trainings of hopper, predicted with their architecture, or GPU, left out."""
    table = rows()
    made, operations = runs(table), convolutions()
    asked = [i for i, run in enumerate(made) if run.host.startswith("pre-")]
    truth = [made[i] for i in asked]
    alone = list(range(len(asked)))
    energy_J = np.array([run.energy_J for run in truth])
    power_W = np.array([run.power_W for run in truth])
    goals = []
    print(f"\nhopper, {len(asked)} trainings; mean and median absolute error in %")
    for left, label in (("architecture", _model), ("GPU", _gpu)):
        print(f" unseen {left}")
        kernel_ridge([table[i] for i in asked], alone, [label(run) for run in truth])
        show("fitted to hopper alone", left_out(truth, alone, label)[0], truth)
        unknown, known = left_out(made, asked, label, operations)
        show("packaged model's way, machine known", known, truth)
        show("packaged model's way, machine unknown", unknown, truth)
        found = errors(unknown.step_s * unknown.power_W, energy_J)
        goals.append(
            mean_median_goal(
                f"energy per sample, unseen {left} (hopper)",
                found,
                (11, 8) if label is _model else (20, 12),
            )
        )
        if label is _model:
            found = errors(unknown.power_W, power_W)
            goals.append(
                mean_median_goal("mean power, unseen architecture (hopper)", found, (9, 6))
            )
    print(" unseen family of architectures")
    unknown, known = left_out(made, asked, lambda run: family(run.model), operations)
    show("packaged model's way, machine known", known, truth)
    show("packaged model's way, machine unknown", unknown, truth)
    print(" random fifths")
    order = np.random.default_rng(0).permutation(len(made)) % 5
    fold_of = {id(run): str(fold) for run, fold in zip(made, order, strict=True)}
    unknown, known = left_out(made, asked, lambda run: fold_of.get(id(run), ""), operations)
    show("packaged model's way, machine known", known, truth)
    show("packaged model's way, machine unknown", unknown, truth)
    return goals


def show_ways(validated: CrossValidation) -> None:
    """Mean and median absolute error of energy and time by way of training, and coverage."""
    ways = {row["step_s"]: way_of(row) for row in rows()}
    assert len(ways) == len(rows()), "two trainings have one step_s"
    found = validated.table
    off = pd.DataFrame(
        {
            name: 100 * np.abs(found[f"predicted_{name}"] / found[f"measured_{name}"] - 1)
            for name in ("energy_J", "step_s")
        }
    )
    measured_J = found["measured_energy_J"]
    off["held"] = (measured_J >= found["energy_J_lower"]) & (measured_J <= found["energy_J_upper"])
    for way, part in off.groupby(found["measured_step_s"].map(ways)):
        errors = " | ".join(
            f"{name} {part[column].mean():5.1f} {part[column].median():5.1f}"
            for name, column in (("energy", "energy_J"), ("step time", "step_s"))
        )
        print(f"    {way:<24}{len(part):>4}   {errors} | held {100 * part.held.mean():5.1f}")


def intervals() -> list[Goal]:
    """Coverage on groups that neither the fit nor its calibration has seen."""
    print(f"\nall {len(rows())} trainings, intervals of {100 * CONFIDENCE:.0f} %")
    goals = []
    for groups in ("model", "gpu", None):
        learnt = [*runs(), *convolutions()]
        validated = PreModel(start=None).cross_validate(learnt, groups, confidence=CONFIDENCE)
        print(f"  {validated}", flush=True)
        if groups == "model":
            show_ways(validated)
            covered = 100 * (validated.coverage or 0)
            met = 85 <= covered <= 95
            name = "coverage of 90 % intervals, unseen architecture"
            goals.append(Goal(name, "85 to 95 %", f"{covered:.0f} %", met))
    return goals


def _model(run: TrainedRun) -> str:
    return run.model


def _gpu(run: TrainedRun) -> str:
    return run.gpu.name


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    began_s = time.perf_counter()
    require(*HOPPER_SWEEP, *ZEUS.values(), *DELREY_TABLE)  # at once, not after minutes
    print_head(__file__, "scikit-learn", "numpy")
    goals = [*hopper(), *intervals()]
    goals.append(mean_median_goal("with a probe (hopper)", pre_probe.report(), (5, 3)))
    goals.append(mean_median_goal("older generations (zeus_nsdi23)", pre_older.report(), (30, 20)))
    goals += pre_delrey.report()
    print(f"\n{time.perf_counter() - began_s:.0f} s")
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
