"""PRE's error for recommenders with large tables, with dense and sparse gradients.

`benchmarks/data/lookups.csv` holds what `benchmarks.collect.lookups` measured on an H200
(2026-11-30, driver 580.159.04, torch 2.11.0). No fit learns from it. The speed of the machine is
unknown, as it is to a user. The work of an optimizer on sparse gradients is not part of the
prediction, as the workloads' notes say. Exits with 1 if a goal is missed.

    python -m benchmarks.evidence.pre_lookups
"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import mse_loss

from benchmarks.collect.lookups import Case, build
from benchmarks.common.data_folder import PACKAGED
from benchmarks.common.goal import goal_of_errors
from benchmarks.common.head import print_head
from energyest import Estimate, describe_workload, estimate_pre

GPU = "NVIDIA H200"
_STEPS = 1000


def predicted(case: Case) -> Estimate:
    """PRE's estimate of a thousand steps."""
    with torch.device("meta"):
        model, batch = build(case)
    workload = describe_workload(model, batch, optimizer=case.optimizer, loss=mse_loss)
    return estimate_pre(workload, GPU, epochs=1, train_samples=_STEPS * case.batch_size)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore")
    print_head(__file__, "torch")
    print(f"\n{'':44}{'ms':>8}{'PRE':>8}{'J':>9}{'PRE':>9}   90 % interval")
    off: dict[bool, list[float]] = {False: [], True: []}
    for row in pd.read_csv(PACKAGED / "lookups.csv").to_dict("records"):
        step_s, energy_J = row.pop("step_s"), row.pop("energy_J")
        case = Case(**row)
        guess = predicted(case)
        lower_J, guess_J, upper_J = (
            (value or 0.0) / _STEPS for value in (guess.lower_J, guess.energy_J, guess.upper_J)
        )
        holds = "holds" if lower_J <= energy_J <= upper_J else "misses"
        print(
            f"{case!s:44}{1e3 * step_s:8.3f}{1e3 * (guess.duration_s or 0.0) / _STEPS:8.3f}"
            f"{energy_J:9.4f}{guess_J:9.4f}   {lower_J:.4f} to {upper_J:.4f} {holds}"
        )
        off[case.sparse].append(100 * abs(guess_J / energy_J - 1))
    print()
    goals = [
        goal_of_errors(f"energy of a step, {name} gradients", np.array(off[sparse]), (20, 15))
        for sparse, name in ((False, "dense"), (True, "sparse"))
    ]
    print(*goals, sep="\n")
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
