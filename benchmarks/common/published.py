"""Published throughputs, powers and energies of trainings on GPUs that nobody here has.

They are in the data next to the checkout, with the workload of each training step. Those of
networks that can be built here are described anew by `benchmarks.collect.published_workloads`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.common.data_folder import FOLDER, PACKAGED, require
from energyest.estimators.pre.training_data import TrainedRun
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.workload import Workload

FILES = ("published/measurements.csv", "published/workloads.jsonl.gz")
WORKLOADS = PACKAGED / "published_workloads.json.gz"
LAYOUTS = {"nchw": "contiguous", "nhwc": "channels_last"}
# BERT for question answering has the same architecture, whoever trained it.
_BERT = r"(bert_(base|large)_squad|squad(base|large))"


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes:
        workload: a training step, of the nearest batch size that was described.
        gpu: on which it was trained.
        model: the network's name, the same for all sources.
        quantity: "samples/s", "s", "W" or "J".
        value: in that unit.
        source: who published it.
    """

    workload: Workload
    gpu: Gpu
    model: str
    quantity: str
    value: float
    source: str

    @property
    def step_s(self) -> float:
        """Length of a step, from a throughput."""
        return self.workload.batch_size / self.value

    @property
    def is_half(self) -> bool:
        """Whether numbers of two bytes are multiplied."""
        return self.workload.precision in ("bf16", "fp16")


def published() -> list[Published]:
    """All figures of the file."""
    require(*FILES)
    return list(_published())


def throughputs() -> list[Published]:
    """The figures in samples per second."""
    return [figure for figure in published() if figure.quantity == "samples/s"]


def as_run(figure: Published) -> TrainedRun:
    """A throughput as a training to learn from, with unknown power."""
    return TrainedRun(figure.workload, figure.gpu, figure.step_s, np.nan, figure.model)


def key_of(row: Any) -> str:
    """The name of a row's workload and layout: network, precision, batch size, optimizer, layout.

    Args:
        row: of the table of figures.
    """
    return f"{row.workload}|{row.layout}"


def _published() -> Iterator[Published]:
    import pandas as pd

    with gzip.open(FOLDER / FILES[1], "rt", encoding="utf-8") as file:
        given = {row["key"]: row["workload"] for row in map(json.loads, file)}
    anew = json.loads(gzip.decompress(WORKLOADS.read_bytes()))
    for row in pd.read_csv(FOLDER / FILES[0]).itertuples():
        described = anew.get(key_of(row)) or given[row.workload]
        workload = replace(
            Workload.from_dict({**described, "precision": row.precision}),
            layout=LAYOUTS[row.layout],
            compiled=bool(row.compiled),
        )
        yield Published(
            workload,
            resolve_gpu(row.gpu),
            _name(row.model),
            row.quantity,
            float(row.published),
            re.split(r"[-(]", row.note)[0],
        )


def _name(model: str) -> str:
    """The name used by `sweep_table.architecture`, if the model is also in the sweep."""
    bare = re.sub(r"^(tv|timm):|:\d+$", "", model)
    if re.fullmatch(_BERT, bare):
        return "transformers/bert"
    return "torchvision/resnet50" if bare == "resnet50" else bare
