"""How fast this machine launches operations: what `probe_host` says, and what trainings say.

The test of the CPU runs some times. Where torch sees a GPU, small trainings run on it that its CPU
bounds, each for about two seconds, and for each one the factor is sought at which PRE's packaged
model, whose usual machine has a factor of 1, predicts the length that was measured. Prints JSON:

- `probe_step_s`: of each test; their spread is what repeating it is worth;
- `trainings`: model, measured length, factor, and the share of the CPU's work in a step;
- `factor`: median of the trainings' factors;
- `usual_s`: `probe_step_s` (its median) divided by `factor`: what a step of the test takes on a
  machine with a factor of 1. Its mean over machines, in logarithms, is
  `energyest.records.probe.USUAL_HOST_STEP_S`, and its deviation in logarithms is
  `energyest.estimators.pre.roofline_model.HOST_PROBE_DEVIATION`.

Nothing else should run on the machine.

    python -m benchmarks.collect.launch_rate > launch_rate.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from benchmarks.common.model_zoo import build, loss_of
from benchmarks.common.settings import Setting
from energyest.estimators.pre.fitted import packaged
from energyest.profiling import Probe, probe, probe_host

SETTINGS = (
    Setting("own/mlp-d128-l8", 64, 0, "fp32", "sgd"),
    Setting("own/mlp-d512-l16", 64, 0, "bf16", "adam"),
    Setting("own/encoder-d128-l6", 8, 64, "fp32", "adamw"),
    Setting("own/gpt-d256-l6", 4, 64, "tf32", "adamw"),
    Setting("own/gpt-d256-l12", 2, 64, "bf16", "sgd_momentum"),
    Setting("own/unet-d16-l4", 2, 64, "tf32", "sgd"),
    Setting("own/conv1d-d64-l8", 8, 500, "fp32", "rmsprop"),
)
# Of the step, at least so much is the CPU's work: a GPU at work hides what the CPU takes.
_LAUNCH_BOUND = 0.8
_SLOWEST = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tests", type=int, default=10, help="how often to run the test")
    arguments = parser.parse_args()
    step_s = [probe_host().step_s for _ in range(arguments.tests)]
    report: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "probe_step_s": step_s,
    }
    if torch.cuda.is_available():
        rows = [of_training(setting) for setting in SETTINGS]
        found = [row["factor"] for row in rows if row["cpu_share"] > _LAUNCH_BOUND]
        report |= {"gpu": torch.cuda.get_device_name(), "trainings": rows}
        if found:
            factor = float(np.median(found))
            report |= {"factor": factor, "usual_s": float(np.median(step_s)) / factor}
    json.dump(report, sys.stdout, indent=2, allow_nan=False)
    print()
    return 0


def of_training(setting: Setting) -> dict[str, Any]:
    """What a training on the GPU says of the CPU."""
    model, batch = build(setting)
    measured = probe(
        model, batch, precision=setting.precision, optimizer=setting.optimizer, loss=loss_of
    )
    factor = factor_of(measured)
    share = packaged().predict([(measured.workload, measured.gpu)], factor=factor).cpu_share[0]
    return {
        "setting": setting.name,
        "step_s": measured.step_s,
        "factor": factor,
        "cpu_share": float(share),
    }


def factor_of(measured: Probe) -> float:
    """How many times as long as usual the CPU takes, for PRE to predict what was measured.

    The nearest that is likely, where none makes it so: the GPU bounds that training.
    """

    def off(log_factor: float) -> float:
        predicted = packaged().predict(
            [(measured.workload, measured.gpu)], factor=float(np.exp(log_factor))
        )
        return float(np.log(predicted.step_s[0] / measured.step_s))

    most = float(np.log(_SLOWEST))
    if off(-most) >= 0 or off(most) <= 0:
        return float(np.exp(-most if off(-most) >= 0 else most))
    return float(np.exp(brentq(off, -most, most)))


def cpu_name() -> str:
    """The processor's name, as Linux tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
