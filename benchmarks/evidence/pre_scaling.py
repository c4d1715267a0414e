"""PRE's error on one and two GPUs, for steps that `benchmarks.collect.many_gpus` measured.

`benchmarks/data/scaling.csv` holds what `many_gpus --parts scaling` printed on two machines with
two H200 (2026-11-30, driver 580.159.04, torch 2.11.0): the duration of a step, and the energy of
all GPUs in it. On machine 1, only its first GPU trained alone; on machine 2, both did, each by
itself, and the mean counts: GPUs of one kind differ by several per cent. Needs torchvision and
transformers, whose models are described. Exits with 1 if the goal is missed.

    python -m benchmarks.evidence.pre_scaling
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import PACKAGED
from benchmarks.common.goal import goal_of_errors
from benchmarks.common.head import print_head
from benchmarks.ranks.scaling import ERRORS, MODELS, Step, compared, predicted

GPU = "NVIDIA H200"
ASKED = (12.0, 9.0)


def show(off: dict[str, list[tuple[float, float]]]) -> None:
    """Print the errors of each kind."""
    for kind, pairs in off.items():
        errors = np.abs(np.array(pairs))
        mean, median = errors.mean(axis=0), np.median(errors, axis=0)
        print(
            f"on {kind}: time {mean[0]:.1f} % in the mean, {median[0]:.1f} % in the median; "
            f"energy {mean[1]:.1f} %, {median[1]:.1f} %"
        )


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print_head(__file__, "torch", "torchvision", "transformers")
    table = pd.read_csv(PACKAGED / "scaling.csv")
    counts = sorted(set(table.gpus))
    guesses = {name: predicted(setting, GPU, counts) for name, setting in MODELS.items()}
    off: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ERRORS}
    for machine, part in table.groupby("machine"):
        steps = [Step(r.model, int(r.gpus), r.step_s, r.energy_J) for r in part.itertuples()]
        print(f"\nmachine {machine}")
        found = compared(steps, guesses)
        show(found)
        for kind, pairs in found.items():
            off[kind] += pairs
    print("\nboth machines")
    show(off)
    errors = np.abs(np.array(off["several"]))[:, 1]
    goal = goal_of_errors("energy of a step on two GPUs", errors, ASKED)
    print(goal)
    return 0 if goal.met else 1


if __name__ == "__main__":
    sys.exit(main())
