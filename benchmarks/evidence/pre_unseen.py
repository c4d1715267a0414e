"""How well PRE predicts trainings that no fit learns from.

They are of unseen architectures, and of usual networks. `benchmarks.collect.sweep` draws them with
`--draw unseen`, `blind`, `unseen_small` and `common` (`benchmarks.models.architectures` says what
was known of them when rules were written). The speed of the machine is unknown, as it is to a user;
for machines on which `probe_host` ran, the same trainings are predicted with it, too. Exits with 1
if a goal is missed.

    python -m benchmarks.evidence.pre_unseen
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import PACKAGED
from benchmarks.common.goal import Goal, goal_of_errors
from benchmarks.common.head import print_head
from benchmarks.common.sweep_table import (
    COMMON_TABLE,
    UNSEEN_TABLE,
    rows,
    runs,
)
from benchmarks.models.architectures import BLIND, UNSEEN_SMALL
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.training_data import TrainedRun
from energyest.records.probe import USUAL_HOST_STEP_S

CONFIDENCE = 0.9
HOST_PROBES = PACKAGED / "host_probes.csv"
# By the share of a step that does not shrink with the batch: the CPU's work.
_LIMITS = {"the GPU": (0.0, 0.5), "both": (0.5, 0.85), "the CPU": (0.85, 1.01)}


def table(found: list[TrainedRun], factor: float | None = None) -> pd.DataFrame:
    """Logarithms of predicted ÷ measured, and whether the interval holds, for each training."""
    model = packaged()
    predicted = model.predict([run.pair for run in found], factor=factor)
    measured_J = np.array([run.energy_J for run in found])
    half = model.half_width(predicted, CONFIDENCE)
    energy = np.log(predicted.energy_J / measured_J)
    return pd.DataFrame(
        {
            "model": [run.model for run in found],
            "energy": energy,
            "power": np.log(predicted.power_W / [run.power_W for run in found]),
            "time": np.log(predicted.step_s / [run.step_s for run in found]),
            "cpu": predicted.cpu_share,
            "half": half,
            "held": np.abs(energy) <= half,
        }
    )


def with_host_probes(found: list[TrainedRun]) -> pd.DataFrame:
    """The trainings of machines with a stored `probe_host`, predicted with it."""
    parts = []
    for probe in pd.read_csv(HOST_PROBES).itertuples():
        here = [run for run in found if run.host == probe.host]
        if here:
            parts.append(
                table(here, probe.probe_step_s / USUAL_HOST_STEP_S).assign(host=probe.host)
            )
    return pd.concat(parts)


def summary(part: pd.DataFrame, name: str) -> str:
    off = 100 * np.abs(np.expm1(part[["energy", "power", "time"]]))
    errors = " | ".join(f"{n} {off[n].mean():5.1f} {off[n].median():5.1f}" for n in off)
    half = 100 * float(np.expm1(part.half.median()))
    return (
        f"  {name:<24}{len(part):>4}   {errors} | held {100 * part.held.mean():5.1f}, "
        f"half-width {half:.0f}"
    )


def show(found: pd.DataFrame) -> None:
    """Print the figures of all trainings, and by what limits them."""
    print(summary(found, "all"))
    for name, (least, most) in _LIMITS.items():
        part = found[(found.cpu >= least) & (found.cpu < most)]
        if len(part):
            print(summary(part, f"limited by {name}"))


def goals_of(found: pd.DataFrame, which: str) -> list[Goal]:
    """The goals for energy, power and coverage."""
    off = 100 * np.abs(np.expm1(found[["energy", "power"]]))
    covered = 100 * float(found.held.mean())
    return [
        goal_of_errors(f"energy of a step, {which}", off.energy, (11, 8)),
        goal_of_errors(f"mean power, {which}", off.power, (9, 6)),
        Goal(
            f"coverage of 90 % intervals, {which}",
            "85 to 95 %",
            f"{covered:.0f} %",
            85 <= covered <= 95,
        ),
    ]


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print_head(__file__, "scikit-learn", "numpy")
    small = {f"own/{name}" for name in UNSEEN_SMALL}
    everything = runs(rows(UNSEEN_TABLE))
    parts = {
        "large networks": [run for run in everything if run.model not in small],
        "small networks": [run for run in everything if run.model in small],
    }
    print("\nMean and median absolute errors, coverage and half-width of the 90 % interval, in %")
    goals = []
    for which, trained in parts.items():
        found = table(trained)
        print(f"\n{len(found)} trainings of {found.model.nunique()} {which}\n")
        show(found)
        is_blind = found.model.isin([f"timm/{name}" for name in BLIND])
        if is_blind.any():
            print(summary(found[is_blind], "not looked at before"))
        probed = with_host_probes(trained)
        same = table([run for run in trained if run.host in set(probed.host)])
        print(summary(same, "those with a host probe"))
        print(summary(probed, "with the host probe"))
        goals += goals_of(found, which)
    usual = table(runs(rows(COMMON_TABLE)))
    print(
        f"\n{len(usual)} trainings of {usual.model.nunique()} usual networks, in settings that no"
    )
    print("fit learns from\n")
    show(usual)
    print()
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
