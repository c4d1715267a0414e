"""Families of finished trainings, on which STEP's interval is evaluated and calibrated.

Results for one family of runs, such as those of one laboratory, need not hold for others. So every
figure is given per family, and constants are chosen without the family on which they are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.common.data_folder import FOLDER, PACKAGED, require
from benchmarks.common.real_trainings import LongRun, choices, long_runs
from energyest import EnergyTrace

MLPERF = ("mlperf_training_v40/epochs.csv",)
GREENLIFE = ("greenlife/epochs.csv",)
# From this block on, U-Net's evaluation is part of every one.
_UNET_EVALUATES_AT = 49
# Simulated after a description of VGG16 trainings measured by others: ordinary epochs spread by
# 3 %; most runs have stalls, which cost half as much again and come in bursts.
MADE_UP_RUNS, MADE_UP_EPOCHS = 60, 60


def families() -> dict[str, list[LongRun]]:
    """All runs by family; their changes are planned, and they are evaluated after the change."""
    require(*MLPERF, *GREENLIFE)
    found: dict[str, list[LongRun]] = {}
    runs = [*long_runs(), *_choices(), *_mlperf(), *_greenlife(), *_loaders(), *made_up_stalls()]
    for run in runs:
        found.setdefault(run.group.split(",")[0].split()[0], []).append(run)
    return found


def _choices() -> Iterator[LongRun]:
    for name, trace in choices().items():
        yield LongRun(name, "choices", name, trace)


def _mlperf() -> Iterator[LongRun]:
    import pandas as pd

    table = pd.read_csv(FOLDER / MLPERF[0])
    for run_id, epochs in table.groupby("run_id"):
        workload = str(epochs["workload"].iloc[0])
        kind = "cut" if workload.startswith("cut") else workload
        trace = EnergyTrace.from_epochs(epochs["energy_J"], epochs["duration_s"])
        changes_at = _UNET_EVALUATES_AT if kind == "unet3d" else None
        yield LongRun(str(run_id), f"mlperf-{kind}", workload, trace, changes_at)


def _greenlife() -> Iterator[LongRun]:
    import pandas as pd

    for run_id, epochs in pd.read_csv(FOLDER / GREENLIFE[0]).groupby("run_id"):
        trace = EnergyTrace.from_epochs(epochs["energy_J"], epochs["duration_s"])
        yield LongRun(str(run_id), "greenlife", str(run_id), trace)


def _loaders() -> Iterator[LongRun]:
    """Trainings that read files, with disturbances, from `benchmarks.collect.loaders`."""
    import pandas as pd

    for run_id, epochs in pd.read_csv(PACKAGED / "loaders_epochs.csv").groupby("run_id"):
        scenario = str(run_id).rsplit("-", 1)[0]
        trace = EnergyTrace.from_epochs(epochs["energy_J"], epochs["duration_s"])
        yield LongRun(str(run_id), "loaders", scenario, trace)


def made_up_stalls() -> Iterator[LongRun]:
    """Synthetic runs with stalls, in which a stalled epoch's duration grows with its cost."""
    for number in range(MADE_UP_RUNS):
        chance = np.random.default_rng(number)
        rate = chance.choice([0.0, 0.03, 0.06, 0.1, 0.15], p=[0.28, 0.2, 0.2, 0.2, 0.12])
        usual = 1 + chance.uniform(0.015, 0.05) * chance.standard_normal(MADE_UP_EPOCHS)
        size = np.ones(MADE_UP_EPOCHS)
        stalls = False
        for epoch in range(MADE_UP_EPOCHS):
            stalls = chance.random() < (0.38 if stalls else 0.7 * rate)
            if stalls:
                size[epoch] = np.clip(1.5 * np.exp(0.3 * chance.standard_normal()), 1.15, 4.0)
        usual[0] *= 1.2
        duration_s = 60 * np.maximum(usual, 0.5) * size
        trace = EnergyTrace.from_epochs(200 * duration_s, duration_s)
        yield LongRun(f"stalls-{number:02d}", "made-up", "stalls", trace)
