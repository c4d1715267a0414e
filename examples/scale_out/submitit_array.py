"""An array of trainings on Slurm by submitit; on this machine where there is no Slurm.

python examples/scale_out/submitit_array.py
"""

import os
import sys
from pathlib import Path

import submitit
from training import train

from energyest.tradeoff import collect_runs

# Tasks import the training, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH", "")]
)
folder = sys.argv[1] if len(sys.argv) > 1 else "runs/submitit"
widths = [32, 64, 128]

# Slurm if it is there, else processes on this machine.
executor = submitit.AutoExecutor(folder=f"{folder}-logs")
executor.update_parameters(timeout_min=10, cpus_per_task=1, slurm_array_parallelism=8)
jobs = executor.map_array(train, widths, [f"{folder}/width-{width}" for width in widths])
for width, job in zip(widths, jobs, strict=True):
    accuracy, energy_J = job.result()
    print(f"width {width}: accuracy {accuracy:.3f}, {energy_J:.1f} J")

print(collect_runs(folder)[["model", "energy_J", "val_acc"]])
