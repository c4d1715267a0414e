"""How fast this machine launches operations, by `probe_host` and by trainings.

The test of the CPU runs several times. If torch sees a GPU, small trainings that are limited by the
CPU run on it, each for about two seconds; for each, the script finds the factor at which PRE's
packaged model, whose reference machine has a factor of 1, predicts the measured step time. Prints
JSON:

- `probe_step_s`: result of each test; their spread shows the test's repeatability;
- `trainings`: model, measured step time, factor, and the CPU's share of the work in a step;
- `factor`: median of the trainings' factors;
- with `--host`, the name of the machine in the sweep, `host_factor`: its factor in the packaged
  model, by all of its trainings; and `usual_s`: `probe_step_s` (its median) divided by it, the time
  of a step of the test on a machine with a factor of 1. That is
  `energyest.records.probe.USUAL_HOST_STEP_S`.

Nothing else should run on the machine. With `--again`, nothing is run: the step times of a stored
report are compared with the current packaged model, which a new fit may have changed.

    python -m benchmarks.collect.launch_rate > launch_rate.json
    python -m benchmarks.collect.launch_rate --again benchmarks/results/launch_rate.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from benchmarks.models.settings import Setting
from benchmarks.models.zoo import build, loss_of
from energyest.estimators.pre.fitted import packaged
from energyest.gpus import resolve_gpu
from energyest.measure.sensors.cpu import processor_name
from energyest.profiling import Probe, describe_workload, probe, probe_host

SETTINGS = (
    Setting("own/mlp-d128-l8", 64, 0, "fp32", "sgd"),
    Setting("own/mlp-d512-l16", 64, 0, "bf16", "adam"),
    Setting("own/encoder-d128-l6", 8, 64, "fp32", "adamw"),
    Setting("own/gpt-d256-l6", 4, 64, "tf32", "adamw"),
    Setting("own/gpt-d256-l12", 2, 64, "bf16", "sgd_momentum"),
    Setting("own/unet-d16-l4", 2, 64, "tf32", "sgd"),
    Setting("own/conv1d-d64-l8", 8, 500, "fp32", "rmsprop"),
)
# The least share of a step that must be the CPU's work: a busy GPU hides the CPU's time.
_LAUNCH_BOUND = 0.8
_SLOWEST = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tests", type=int, default=10, help="how often to run the test")
    parser.add_argument("--again", type=Path, help="a stored report, to be evaluated again")
    parser.add_argument("--host", help="name of the machine in the sweep")
    arguments = parser.parse_args()
    if arguments.again is not None:
        report = json.loads(arguments.again.read_text(encoding="utf-8"))
        probes = [
            described(setting, report["gpu"], row["step_s"])
            for setting, row in zip(SETTINGS, report["trainings"], strict=True)
        ]
    else:
        report = {
            "cpu": processor_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "probe_step_s": [probe_host().step_s for _ in range(arguments.tests)],
        }
        probes = []
        if torch.cuda.is_available():
            report["gpu"] = torch.cuda.get_device_name()
            probes = [measured(setting) for setting in SETTINGS]
    if probes:
        rows = [row_of(s, found) for s, found in zip(SETTINGS, probes, strict=True)]
        report["trainings"] = rows
        factors = [row["factor"] for row in rows if row["cpu_share"] > _LAUNCH_BOUND]
        if factors:
            report["factor"] = float(np.median(factors))
    host = arguments.host or report.get("host")
    if host:
        factor = packaged().core.hosts[host]
        usual_s = float(np.median(report["probe_step_s"])) / factor
        report |= {"host": host, "host_factor": factor, "usual_s": usual_s}
    json.dump(report, sys.stdout, indent=2, allow_nan=False)
    print()
    return 0


def measured(setting: Setting) -> Probe:
    """Steps of a training on the GPU."""
    model, batch = build(setting)
    return probe(
        model, batch, precision=setting.precision, optimizer=setting.optimizer, loss=loss_of
    )


def described(setting: Setting, gpu: str, step_s: float) -> Probe:
    """The same for a step that was measured earlier; its power does not matter here."""
    model, batch = build(setting)
    workload = describe_workload(
        model, batch, precision=setting.precision, optimizer=setting.optimizer, loss=loss_of
    )
    return Probe(workload, resolve_gpu(gpu), 1, step_s, 1.0)


def row_of(setting: Setting, found: Probe) -> dict[str, Any]:
    """The CPU's factor according to a training on the GPU, as a row of the report."""
    factor = factor_of(found)
    share = packaged().predict([(found.workload, found.gpu)], factor=factor).cpu_share[0]
    return {
        "setting": setting.name,
        "step_s": found.step_s,
        "factor": factor,
        "cpu_share": float(share),
    }


def factor_of(measured: Probe) -> float:
    """The CPU factor at which PRE predicts the measured step time.

    If no factor does, because the GPU limits that training, the nearest plausible one.
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


if __name__ == "__main__":
    sys.exit(main())
