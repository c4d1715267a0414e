"""Families of finished trainings, on which STEP's interval is evaluated and calibrated.

Results for one family of runs, such as those of one laboratory, need not hold for others. So every
figure is given per family, and constants are chosen without the family on which they are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.common.data_folder import FOLDER, PACKAGED, require
from benchmarks.common.made_up_runs import made_up_runs
from benchmarks.common.real_trainings import LongRun, choices, long_runs, own_runs
from energyest import EnergyTrace

MLPERF = ("mlperf_training_v40/epochs.csv",)
GREENLIFE = ("greenlife/epochs.csv",)
# From this block on, U-Net's evaluation is part of every one.
_UNET_EVALUATES_AT = 49
# Into how many equal times a log of power is cut: fewer than the training's epochs, and more.
CUTS = (30, 70)
# Trainings that stay on one level, so that only their events differ from piece to piece.
CUT_SCENARIOS = ("plain", "validation", "validation_5", "checkpoint_5", "input_bound")


def families() -> dict[str, list[LongRun]]:
    """All runs by family; their changes are planned, and they are evaluated after the change."""
    require(*MLPERF, *GREENLIFE)
    found: dict[str, list[LongRun]] = {}
    runs = [
        *long_runs(),
        *_choices(),
        *_mlperf(),
        *_greenlife(),
        *_loaders(),
        *_cut(),
        *_logs(),
        *made_up_runs(),
    ]
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


def _cut() -> Iterator[LongRun]:
    """Our own trainings as someone sees them who has only a log of power: cut into equal times.

    The power is constant within the training of an epoch, and within its validation. The first
    epoch, of another length than the others, is left out.
    """
    for run in own_runs():
        if run.group.split()[-1] not in CUT_SCENARIOS:
            continue
        columns = ("duration_s", "energy_J", "validation_s", "validation_energy_J")
        duration_s, energy_J, apart_s, apart_J = (run.trace.column(n)[1:] for n in columns)
        time_s = np.cumsum(np.column_stack([duration_s - apart_s, apart_s]).ravel())
        used_J = np.cumsum(np.column_stack([energy_J - apart_J, apart_J]).ravel())
        time_s, used_J = (np.concatenate([[0.0], values]) for values in (time_s, used_J))
        for pieces in CUTS:
            edges_s = np.linspace(0.0, time_s[-1], pieces + 1)
            trace = EnergyTrace.from_epochs(
                np.diff(np.interp(edges_s, time_s, used_J)), np.diff(edges_s)
            )
            yield LongRun(f"{run.run_id}-in-{pieces}", "own-cut", run.setting, trace)


def _logs() -> Iterator[LongRun]:
    """Readings of power from `benchmarks.collect.power_logs`, cut into equal times."""
    import pandas as pd

    for run_id, log in pd.read_csv(PACKAGED / "power_logs_samples.csv.gz").groupby("run_id"):
        time_s, scenario = log["time_s"].to_numpy(), str(run_id).rsplit("-", 1)[0]
        for pieces in CUTS:
            ends_s = np.linspace(time_s[0], time_s[-1], pieces + 1)[1:]
            trace = EnergyTrace.from_power(time_s, log["power_W"], ends_s)
            yield LongRun(f"{run_id}-in-{pieces}", "logs", scenario, trace)
