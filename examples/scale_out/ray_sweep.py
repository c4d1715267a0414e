"""Trainings spread over the GPUs (or processors) of a Ray cluster.

python examples/scale_out/ray_sweep.py

Ray shows each task its own GPU through CUDA_VISIBLE_DEVICES, and only that one is measured. The
folder has to be one that all nodes share.
"""

import os
import sys
from pathlib import Path

import ray

from energyest.tradeoff import collect_runs

folder = str(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ray").resolve())
here = str(Path(__file__).parent)
ray.init(
    num_cpus=2,
    include_dashboard=False,
    log_to_driver=False,
    runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, *sys.path])}},
)


@ray.remote(num_cpus=1)  # on GPUs: num_gpus=1
def trained(width: int) -> tuple[float, float]:
    """Train in a process of Ray's."""
    from training import train  # noqa: PLC0415  (in the process of the task)

    return train(width, f"{folder}/width-{width}")


widths = [32, 64, 128]
for width, result in zip(widths, ray.get([trained.remote(w) for w in widths]), strict=True):
    print(f"width {width}: accuracy {result[0]:.3f}, {result[1]:.1f} J")
ray.shutdown()

print(collect_runs(folder)[["model", "energy_J", "val_acc"]])
