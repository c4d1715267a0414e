"""A small model of PRE, learnt from made-up runs, and workloads to ask it about."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from energyest.estimators.pre.model import PreModel
from energyest.records.workload import Operation, Workload


def workload(width: int = 512, batch: int = 32, **changes: Any) -> Workload:
    """Of a network of a few layers."""
    flops = 2.0 * batch * width * width
    moved = 4.0 * (2 * batch * width + width * width)
    sizes = {"rows": batch, "columns": width, "depth": width}
    layers = (
        Operation("forward", "addmm", 4, flops, moved, **sizes),
        Operation("forward", "relu", 4, 0.0, 8.0 * batch * width),
        Operation("backward", "mm", 8, flops, moved, **sizes),
        Operation("backward", "threshold_backward", 4, 0.0, 12.0 * batch * width),
    )
    facts: dict[str, Any] = {
        "model": "Net",
        "batch_size": batch,
        "precision": "fp32",
        "optimizer": "sgd",
        "parameters": 4 * width * width,
        "trainable_parameters": 4 * width * width,
        "parameter_tensors": 4,
        "forward_flops_per_sample": 4 * flops / batch,
        "operations": layers,
        "forward_calls": 12,
        "backward_calls": 16,
        "module_calls": 9,
        "saved_bytes": 16.0 * batch * width,
        "input_bytes": 4.0 * batch * width,
    }
    return Workload(**{**facts, **changes})


@cache
def small_model() -> PreModel:
    """Fitted to runs that take what they compute at half of an H100's peak, and a moment."""
    chance = np.random.default_rng(0)
    rows = []
    for index, width in enumerate((128, 256, 512, 1024, 2048, 4096)):
        for batch in (16, 256):
            run = workload(width, batch, model=f"net{index}")
            step_s = 4e-4 + run.flops_per_step / 3e13
            power_W = 120 + 400 * (1 - 4e-4 / step_s)
            noise = np.exp(chance.normal(0, 0.03, 2))
            rows.append(
                {
                    "workload": run,
                    "gpu": "H100",
                    "step_s": step_s * noise[0],
                    "power_W": power_W * noise[1],
                }
            )
    return PreModel(start=None).fit(pd.DataFrame(rows))
