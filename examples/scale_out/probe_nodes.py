"""Probe one training step on each kind of node, and estimate the whole training from each.

python examples/scale_out/probe_nodes.py

On a node with a GPU, a few steps are run and measured there. On one without, only its processor is
timed, and the estimate is for a GPU of your choice in that machine.
"""

import submitit
import torch
from torch import nn

from energyest import describe_workload, estimate_pre
from energyest.profiling import probe, probe_host

LENGTH = {"epochs": 90, "train_samples": 50_000}


def step() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """The model, and a batch."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 30 * 30, 10))
    return model, (torch.randn(64, 3, 32, 32), torch.randint(10, (64,)))


def probed() -> object:
    """What a node tells of the training."""
    model, batch = step()
    if torch.cuda.is_available():
        return probe(model, batch, loss=nn.functional.cross_entropy)
    return probe_host()


executor = submitit.AutoExecutor(folder="runs/probes")
executor.update_parameters(timeout_min=10)  # on Slurm: slurm_partition="h100", gpus_per_node=1
job = executor.submit(probed)

workload = describe_workload(*step())
print(job.result())
print(estimate_pre(workload, "A100", probe=job.result(), **LENGTH))
