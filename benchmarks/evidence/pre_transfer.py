"""How well a probe on an H100 tells of the same training on an H200 of another machine.

Settings that were measured on both are predicted on the H200 by fits without their architecture (a
fifth of the architectures is left out at a time): without a probe, and with the measured steps on
the H100 as a probe. `pre_published` does the same for published figures of other GPUs. Exits with 1
if a goal is missed.

    python -m benchmarks.evidence.pre_transfer
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd

from benchmarks.common.goal import Goal, mean_median_goal
from benchmarks.common.head import print_head
from benchmarks.common.sweep_table import AGAIN_TABLE, Row, convolutions, rows, runs
from benchmarks.common.unseen import fitted
from energyest.estimators.cross_validation import FOLDS, parts
from energyest.estimators.pre.probed import transferred
from energyest.estimators.pre.training_data import TrainedRun
from energyest.records.probe import Probe

CONFIDENCE = 0.9
PROBED = "H100"
# Fields that make two rows the same training, and their values in rows that lack them.
SETTING = {
    **dict.fromkeys(("model", "batch_size", "size", "precision", "optimizer", "loop")),
    "layout": "nchw",
    "compiled": False,
}
# A step whose CPU takes longer than this share of it waits for the CPU.
MOSTLY = 0.8


def pairs() -> list[tuple[TrainedRun, TrainedRun]]:
    """Trainings on the GPU of the probe, each with the same training on the other GPU."""
    first, again = rows(), rows(AGAIN_TABLE)
    probed = {
        _setting(row): run
        for row, run in zip(first, runs(first), strict=True)
        if PROBED in row["gpu"]
    }
    return [(probed[_setting(row)], run) for row, run in zip(again, runs(again), strict=True)]


def _setting(row: Row) -> tuple[object, ...]:
    """What makes two rows the same training; rows of earlier sweeps lack some of it."""
    return tuple(row.get(name, usual) for name, usual in SETTING.items())


def table_of(trainings: list[tuple[TrainedRun, TrainedRun]]) -> pd.DataFrame:
    """Errors in % with and without the probe, of step time and energy."""
    learnt, found = [*runs(), *convolutions()], []
    part_of = parts([there.model for _, there in trainings], FOLDS)
    for part in range(FOLDS):
        model = fitted([run for run in learnt if part_of.get(run.model) != part])
        for here, there in trainings:
            if part_of[there.model] != part:
                continue
            probe = Probe(here.workload, here.gpu, 30, here.step_s, here.power_W)
            alone = model.predict([there.pair])
            for way, said in (
                ("without", alone),
                ("with", transferred(alone, model, probe, there.gpu)),
            ):
                ratio = float(np.log(said.energy_J[0] / there.energy_J))
                half = float(model.half_width(said, CONFIDENCE)[0])
                found.append(
                    {
                        "probe": way,
                        "waits for": "CPU" if alone.cpu_share[0] > MOSTLY else "GPU",
                        "energy": 100 * abs(np.exp(ratio) - 1),
                        "time": 100 * abs(said.step_s[0] / there.step_s - 1),
                        "held": 100 * float(abs(ratio) <= half),
                        "half": 100 * (np.exp(half) - 1),
                    }
                )
    return pd.DataFrame(found)


def report() -> list[Goal]:
    trainings = pairs()
    table = table_of(trainings)
    summary = {
        "trainings": ("energy", "size"),
        "energy, mean": ("energy", "mean"),
        "median": ("energy", "median"),
        "time, mean": ("time", "mean"),
        "median of it": ("time", "median"),
        "held": ("held", "mean"),
        "half-width": ("half", "median"),
    }
    print(f"\n{len(trainings)} trainings on an H200, their architecture unseen; errors in %\n")
    for by in (["probe"], ["waits for", "probe"]):
        print(table.groupby(by).agg(**summary).round(1).to_string(), end="\n\n")
    probed = table[table["probe"] == "with"]["energy"]
    name = "energy on an H200 with a probe on an H100"
    return [mean_median_goal(name, (probed.mean(), probed.median()), (8, 6))]


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print_head(__file__, "scikit-learn", "numpy")
    goals = report()
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
