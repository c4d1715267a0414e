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
from collections.abc import Sequence

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
from benchmarks.common.unseen import Unseen, predict_unseen
from benchmarks.evidence import pre_delrey, pre_older, pre_probe
from energyest.estimators.pre.training_data import TrainedRun
from energyest.estimators.regression.features import FEATURES
from energyest.estimators.regression.table_model import TableModel

CONFIDENCE = 0.9


def errors(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """Mean and median absolute error in per cent."""
    off = 100 * np.abs(predicted / measured - 1)
    return float(off.mean()), float(np.median(off))


def show(name: str, step_s: np.ndarray, power_W: np.ndarray, truth: Sequence[TrainedRun]) -> None:
    """Print the errors of energy, power and duration."""
    times, powers = np.array([r.step_s for r in truth]), np.array([r.power_W for r in truth])
    parts = [
        f"{quantity} {mean:5.1f} {median:5.1f}"
        for quantity, predicted, measured in (
            ("energy", step_s * power_W, times * powers),
            ("power", power_W, powers),
            ("step time", step_s, times),
        )
        for mean, median in [errors(predicted, measured)]
    ]
    print(f"  {name:<46}{' | '.join(parts)}", flush=True)


def kernel_ridge(table: list[dict], labels: Sequence[str]) -> None:
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
        for name in sorted(set(labels)):
            chosen, rest = np.flatnonzero(names == name), np.flatnonzero(names != name)
            model = TableModel("kernel_ridge", target).fit(known.iloc[rest])
            found[chosen] = model.predict(known.iloc[chosen])
        mean, median = errors(found, known[target].to_numpy())
        print(
            f"  kernel ridge, paper's features: {quantity:<14}{quantity} {mean:5.1f} {median:5.1f}"
        )


def own_sweep() -> list[Goal]:
    """All trainings of the sweep, and the 84 of hopper, predicted with their group left out."""
    table = rows()
    made, operations = runs(table), convolutions()
    asked = [i for i, run in enumerate(made) if run.host.startswith("pre-")]
    truth = [made[i] for i in asked]
    goals = []
    for left, group_of, reach in (("architecture", _model, (11, 8)), ("GPU", _gpu, (20, 12))):
        print(f"\nunseen {left}, mean and median absolute error in %")
        found = predict_unseen(made, group_of, others=operations, confidence=CONFIDENCE)
        covered = show_all(made, found)
        if left == "architecture":
            show_ways(table, made, found)
        print(f" hopper, {len(asked)} trainings")
        kernel_ridge([table[i] for i in asked], [group_of(run) for run in truth])
        alone = predict_unseen(truth, group_of, confidence=CONFIDENCE)
        show("fitted to hopper alone", alone.step_s, alone.power_W, truth)
        energy, power = show_hopper(found, asked, truth)
        goals.append(mean_median_goal(f"energy per sample, unseen {left} (hopper)", energy, reach))
        if left == "architecture":
            goals.append(mean_median_goal(f"mean power, unseen {left} (hopper)", power, (9, 6)))
            title, met = f"coverage of 90 % intervals, unseen {left}", 85 <= covered <= 95
            goals.append(Goal(title, "85 to 95 %", f"{covered:.0f} %", met))
    print("\nhopper, unseen family of architectures")
    of_family = predict_unseen(
        made, lambda run: family(run.model), asked=asked, others=operations, confidence=CONFIDENCE
    )
    show("machine known", of_family.known_step_s, of_family.known_power_W, truth)
    show("machine unknown", of_family.step_s, of_family.power_W, truth)
    return goals


def show_all(made: Sequence[TrainedRun], found: Unseen) -> float:
    """Print the errors of all trainings; return the coverage of their intervals in per cent."""
    show(f"all {len(made)} trainings, machine unknown", found.step_s, found.power_W, made)
    covered = 100 * float(is_held(made, found).mean())
    print(f"  intervals of {100 * CONFIDENCE:.0f} % hold {covered:.0f} %", flush=True)
    return covered


def show_hopper(
    found: Unseen, asked: Sequence[int], truth: Sequence[TrainedRun]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Print the errors of hopper's trainings; return those of energy and power."""
    step_s, power_W = found.step_s[asked], found.power_W[asked]
    show("machine known", found.known_step_s[asked], found.known_power_W[asked], truth)
    show("machine unknown", step_s, power_W, truth)
    energy = errors(step_s * power_W, np.array([run.energy_J for run in truth]))
    return energy, errors(power_W, np.array([run.power_W for run in truth]))


def show_ways(table: list[dict], made: Sequence[TrainedRun], found: Unseen) -> None:
    """Print the errors by way of training."""
    held = is_held(made, found)
    for way, places in pd.Series(range(len(made))).groupby([way_of(row) for row in table]):
        chosen = list(places)
        covered = 100 * held[chosen].mean()
        title = f"  {way}, {len(chosen)}, held {covered:.0f}"
        show(title, found.step_s[chosen], found.power_W[chosen], [made[i] for i in chosen])


def is_held(made: Sequence[TrainedRun], found: Unseen) -> np.ndarray:
    """Whether the interval holds the energy, of shape (n,)."""
    measured_J = np.array([run.energy_J for run in made])
    off = np.abs(np.log(found.step_s * found.power_W / measured_J))
    return np.asarray(off <= found.half)


def _model(run: TrainedRun) -> str:
    return run.model


def _gpu(run: TrainedRun) -> str:
    return run.gpu.name


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    began_s = time.perf_counter()
    require(*HOPPER_SWEEP, *ZEUS.values(), *DELREY_TABLE)  # at once, not after minutes
    print_head(__file__, "scikit-learn", "numpy")
    goals = own_sweep()
    goals.append(mean_median_goal("with a probe (hopper)", pre_probe.report(), (5, 3)))
    goals.append(mean_median_goal("older generations (zeus_nsdi23)", pre_older.report(), (30, 20)))
    goals += pre_delrey.report()
    print(f"\n{time.perf_counter() - began_s:.0f} s")
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
