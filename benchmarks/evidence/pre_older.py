"""PRE on generations that it has not seen: V100, RTX 6000 and P100, by others' measurements.

The trainings are those of the artifact of Zeus (You et al., NSDI'23) at the highest power limit.
Their networks are built again: ResNet-50 at 224 pixels, BERT base on SQuAD (sequences of 384
tokens, 88,524 of them), and ShuffleNetV2 for the 32 pixels of CIFAR-100. Sentiment140 is left out,
since the lengths of its sequences are not known. What their steps do stands in
`data/older_workloads.json.gz`, which is written anew, with torchvision and transformers, by

    python benchmarks/pre_older.py --describe
"""

from __future__ import annotations

import gzip
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DATA, missing
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from energyest.estimators.pre.model import PreModel, packaged
from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import resolve_gpu
from energyest.profiling.describe import describe_workload
from energyest.records.workload import Workload

WORKLOADS = Path(__file__).parent / "data" / "older_workloads.json.gz"
GPUS = {
    "v100": "Tesla V100-PCIE-32GB",
    "rtx6000": "Quadro RTX 6000",
    "p100": "Tesla P100-PCIE-16GB",
}
# Data set -> network, samples of an epoch.
TRAINED = {
    "imagenet": ("resnet50", 1_281_167),
    "squad": ("bert_base_uncased", 88_524),
    "cifar100": ("shufflenetv2", 50_000),
}


class _Answers(nn.Module):
    """BERT base that marks the start and the end of an answer."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertForQuestionAnswering

        self.net = BertForQuestionAnswering(BertConfig())

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.net(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return torch.stack([output.start_logits, output.end_logits], 1)


def _network(name: str) -> nn.Module:
    from torchvision import models

    if name == "resnet50":
        return models.resnet50()
    if name == "bert_base_uncased":
        return _Answers()
    network = models.shufflenet_v2_x1_0(num_classes=100)
    # As usual for images of 32 pixels: nothing is thrown away before the first stage.
    network.conv1[0] = nn.Conv2d(3, 24, 3, padding=1)
    network.maxpool = nn.Identity()
    return network


def _workload(network: nn.Module, name: str, batch: int, optimizer: str) -> Workload:
    with torch.device("meta"):
        labels = torch.empty(batch, dtype=torch.long)
        if name == "bert_base_uncased":
            example = (torch.empty(batch, 384, dtype=torch.long), labels[:, None].expand(-1, 2))
        else:
            size = 224 if name == "resnet50" else 32
            example = (torch.empty(batch, 3, size, size), labels)
    loss = None
    if name == "bert_base_uncased":
        loss = _loss_of_answers
    return describe_workload(network, example, optimizer=optimizer, loss=loss)


def _loss_of_answers(output: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), target.flatten())


def rows() -> Iterator[tuple[str, str, Any]]:
    """GPU, network, and row of the artifact's tables."""
    for short in GPUS:
        path = DATA / "zeus_nsdi23" / f"summary_power_{short}.csv"
        if not path.exists():
            missing(path)
        table = pd.read_csv(path)
        for row in table[table.power_limit == table.power_limit.max()].itertuples():
            if row.dataset in TRAINED:
                yield short, TRAINED[row.dataset][0], row


def describe() -> None:
    """Write what a step of each training does."""
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


def trained() -> Iterator[TrainedRun]:
    """The trainings; `host` is the machine of a GPU."""
    described = json.loads(gzip.decompress(WORKLOADS.read_bytes()))
    for short, name, row in rows():
        workload = Workload.from_dict(described[f"{name} {row.batch_size} {row.optimizer}"])
        step_s = row.time_per_epoch * row.batch_size / TRAINED[row.dataset][1]
        gpu = resolve_gpu(GPUS[short])
        yield TrainedRun(workload, gpu, step_s, row.average_power, name, short)


def report() -> tuple[float, float]:
    """Mean and median absolute error in per cent of the energy, by the packaged model."""
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


if __name__ == "__main__":
    if sys.argv[1:] == ["--describe"]:
        describe()
    report()
    sys.exit(0)
