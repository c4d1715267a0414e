"""Describe published training steps in `data/published_workloads.json.gz`.

The networks of torchvision and timm, and BERT, are built on meta tensors and described in the
layout in which they were trained, with the batch sizes of the workloads next to the checkout. Other
networks, whose code is not at hand, keep those workloads. BERT was trained with NVIDIA's code,
where attention is not fused. In half precision, its weights are so, too (apex, level O2): nothing
is cast, and normalisations and softmax read two bytes for a number. That the optimizer kept weights
in single precision, too, is not described.

    python -m benchmarks.collect.published_workloads
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys

import pandas as pd
import torch
from torch import nn

from benchmarks.common.data_folder import FOLDER, require, require_packages
from benchmarks.common.published import FILES, LAYOUTS, WORKLOADS, key_of
from benchmarks.models import bert_answers
from benchmarks.models.bert_answers import BertAnswers
from energyest.profiling.describe import describe_workload
from energyest.records.workload import Workload

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
ANSWERS = ("squadbase", "squadlarge")


def _network(source: str, name: str) -> nn.Module:
    if source == "tv":
        from torchvision import models

        network: nn.Module = models.get_model(name)
        return network
    import timm

    made: nn.Module = timm.create_model(name)
    return made


def _described(key: str) -> Workload | None:
    """The workload of a key; None if its network is not at hand."""
    network, precision, batch_size, optimizer, layout = key.split("|")
    half = precision in ("fp16", "bf16")
    if network in ANSWERS:
        with torch.device("meta"):
            bert = BertAnswers(is_large=network == "squadlarge", attn_implementation="eager")
        bert = bert.half() if half else bert
        return bert_answers.described(bert, int(batch_size), optimizer, precision=precision)
    source, _, rest = network.partition(":")
    if source not in ("tv", "timm"):
        return None
    name, _, side = rest.partition(":")
    form = FORMATS[LAYOUTS[layout]]
    with torch.device("meta"):
        model = _network(source, name).to(memory_format=form)
        images = torch.empty(int(batch_size), 3, int(side), int(side)).to(memory_format=form)
        labels = torch.empty(int(batch_size), dtype=torch.long)
    return describe_workload(model, (images, labels), precision=precision, optimizer=optimizer)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    require_packages("torchvision", "timm", "transformers")
    require(*FILES)
    keys = {key_of(row) for row in pd.read_csv(FOLDER / FILES[0]).itertuples()}
    found = {key: _described(key) for key in sorted(keys)}
    kept = {key: step.to_dict() for key, step in found.items() if step is not None}
    text = json.dumps(kept, sort_keys=True)
    WORKLOADS.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(kept)} of {len(keys)} workloads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
