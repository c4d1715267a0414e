"""PRE on GPU generations that it has not seen: V100, RTX 6000 and P100, measured by others.

Prints the errors of the packaged model, and of a model fitted to two of the three GPUs and applied
to the third. Exits with 2 if data are missing.

    python -m benchmarks.evidence.pre_older
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace

import numpy as np

from benchmarks.common.data_folder import require
from benchmarks.common.head import print_head
from benchmarks.common.older_trainings import FILES, GPUS, trained
from energyest.estimators.pre.fitted import packaged
from energyest.estimators.pre.model import PreModel


def report() -> tuple[float, float]:
    """Mean and median absolute error of the packaged model's energy, in per cent."""
    warnings.simplefilter("ignore")
    truth = list(trained())
    known = packaged()
    found = known.predict([run.pair for run in truth])
    energy_J = np.array([run.energy_J for run in truth])
    power_W = np.array([run.power_W for run in truth])
    step_s = np.array([run.step_s for run in truth])
    held = np.abs(np.log(energy_J / found.energy_J)) <= known.half_width(found, 0.9)
    print(f"\nolder generations (zeus_nsdi23), {len(truth)} trainings; absolute error in %")
    _line("TDP × time, time known", np.array([r.gpu.tdp_W for r in truth]) * step_s, energy_J)
    _line("packaged model, energy", found.energy_J, energy_J)
    _line("packaged model, power", found.power_W, power_W)
    _line("packaged model, step time", found.step_s, step_s)
    print(f"  90 % intervals hold {100 * held.mean():.0f} %")
    for network in sorted({run.model for run in truth}):
        for short in GPUS:
            chosen = [i for i, r in enumerate(truth) if (r.model, r.host) == (network, short)]
            ratio = np.median(found.energy_J[chosen] / energy_J[chosen])
            counted = f"{len(chosen):3} trainings"
            print(f"    {network:<18}{short:<8} {counted}, predicted ÷ measured {ratio:.2f}")
    learnt = np.empty(len(truth))
    for short in GPUS:
        rest = [replace(run, model=f"{run.model} {run.host}") for run in truth if run.host != short]
        chosen = [i for i, run in enumerate(truth) if run.host == short]
        model = PreModel().fit(rest)
        learnt[chosen] = model.predict([truth[i].pair for i in chosen]).energy_J
    _line("the same after a fit to the other two GPUs", learnt, energy_J)
    off = 100 * np.abs(found.energy_J / energy_J - 1)
    return float(off.mean()), float(np.median(off))


def _line(name: str, found: np.ndarray, measured: np.ndarray) -> None:
    off = 100 * np.abs(found / measured - 1)
    print(f"  {name:<46}{off.mean():6.1f} {np.median(off):6.1f}", flush=True)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    require(*FILES.values())
    print_head(__file__, "numpy")
    report()


if __name__ == "__main__":
    main()
