"""Describe the training steps on the older GPUs in `data/older_workloads.json.gz`.

The networks are built again on meta tensors, which needs torchvision and transformers, and
described. The batch sizes and optimizers are read from the tables of Zeus.

    python -m benchmarks.collect.older_workloads
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys

import torch
from torch import nn

from benchmarks.common.data_folder import require_packages
from benchmarks.common.older_trainings import TRAINED, WORKLOADS, rows
from benchmarks.models import bert_answers
from benchmarks.models.bert_answers import BertAnswers
from energyest.profiling.describe import describe_workload
from energyest.records.workload import Workload


def _network(name: str) -> nn.Module:
    from torchvision import models

    if name == "resnet50":
        return models.resnet50()
    if name == "bert_base_uncased":
        return BertAnswers()
    network = models.shufflenet_v2_x1_0(num_classes=100)
    # As usual for images of 32 pixels: no pooling and no stride before the first stage.
    network.conv1[0] = nn.Conv2d(3, 24, 3, padding=1)
    network.maxpool = nn.Identity()
    return network


def _workload(network: nn.Module, name: str, batch: int, optimizer: str) -> Workload:
    if name == "bert_base_uncased":
        return bert_answers.described(network, batch, optimizer)
    size = 224 if name == "resnet50" else 32
    with torch.device("meta"):
        example = (torch.empty(batch, 3, size, size), torch.empty(batch, dtype=torch.long))
    return describe_workload(network, example, optimizer=optimizer)


def describe() -> None:
    """Write the workload of each training."""
    with torch.device("meta"):
        networks = {name: _network(name) for name, _ in TRAINED.values()}
    described = {}
    for _, name, row in rows():
        key = f"{name} {row.batch_size} {row.optimizer}"
        if key not in described:
            step = _workload(networks[name], name, int(row.batch_size), row.optimizer)
            described[key] = step.to_dict()
    text = json.dumps(described, sort_keys=True)
    WORKLOADS.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    require_packages("torchvision", "transformers")
    describe()
    return 0


if __name__ == "__main__":
    sys.exit(main())
