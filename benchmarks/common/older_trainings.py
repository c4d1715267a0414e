"""Trainings on older GPUs, measured by others: V100, RTX 6000 and P100.

They are from the artifact of Zeus (You et al., NSDI'23), at the highest power limit: ResNet-50 at
224 pixels, BERT base on SQuAD (88,524 sequences of 384 tokens), and ShuffleNetV2 on the 32 pixels
of CIFAR-100. Sentiment140 is left out, because its sequence lengths are unknown.
`data/older_workloads.json.gz` describes a step of each; `benchmarks.collect.older_workloads` writes
it.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmarks.common.data_folder import FOLDER, PACKAGED, require
from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import resolve_gpu
from energyest.records.workload import Workload

WORKLOADS = PACKAGED / "older_workloads.json.gz"
GPUS = {
    "v100": "Tesla V100-PCIE-32GB",
    "rtx6000": "Quadro RTX 6000",
    "p100": "Tesla P100-PCIE-16GB",
}
FILES = {short: f"zeus_nsdi23/summary_power_{short}.csv" for short in GPUS}
# Data set -> network, samples in an epoch.
TRAINED = {
    "imagenet": ("resnet50", 1_281_167),
    "squad": ("bert_base_uncased", 88_524),
    "cifar100": ("shufflenetv2", 50_000),
}


def rows() -> Iterator[tuple[str, str, Any]]:
    """GPU, network, and row of the artifact's tables."""
    require(*FILES.values())
    for short, name in FILES.items():
        table = pd.read_csv(FOLDER / name)
        for row in table[table.power_limit == table.power_limit.max()].itertuples():
            if row.dataset in TRAINED:
                yield short, TRAINED[row.dataset][0], row


def trained() -> Iterator[TrainedRun]:
    """The trainings; a GPU's short name stands for its machine."""
    described = json.loads(gzip.decompress(WORKLOADS.read_bytes()))
    for short, name, row in rows():
        workload = Workload.from_dict(described[f"{name} {row.batch_size} {row.optimizer}"])
        step_s = row.time_per_epoch * row.batch_size / TRAINED[row.dataset][1]
        gpu = resolve_gpu(GPUS[short])
        yield TrainedRun(workload, gpu, step_s, row.average_power, name, short)
