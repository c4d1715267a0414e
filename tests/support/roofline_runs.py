"""Made-up runs of one product and one copy each, on two GPUs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from energyest.estimators.pre.physics.parameters import POWER, STEP
from energyest.gpus import Gpu, resolve_gpu
from energyest.records.workload import Operation, Workload

GUESS = {name: value for name, (value, _) in STEP.items()}

POWER_GUESS = {name: value for name, (value, _) in POWER.items()}

H100 = resolve_gpu("H100")

LARGE = Operation("forward", "mm", 1, 2 * 8192.0**3, 3 * 4 * 8192.0**2, 8192, 8192, 8192)

COPY = Operation("forward", "relu", 1, 0.0, 8e9)


def workload(*operations: Operation, **others: object) -> Workload:
    facts: dict[str, object] = {
        "model": "net",
        "batch_size": 32,
        "precision": "fp32",
        "optimizer": "sgd",
        "parameters": 0,
        "trainable_parameters": 0,
        "parameter_tensors": 0,
        "forward_flops_per_sample": 1.0,
        "forward_calls": sum(o.count for o in operations),
        "backward_calls": 0,
        "module_calls": 0,
        "saved_bytes": 0.0,
        "input_bytes": 0.0,
    }
    return Workload(operations=operations, **{**facts, **others})  # type: ignore[arg-type]


def some_runs(seed: int, count: int) -> list[tuple[Workload, Gpu]]:
    chance = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        size = int(2 ** chance.uniform(6, 13))
        product = replace(
            LARGE,
            flops=2.0 * size**3,
            bytes=12.0 * size**2,
            rows=size,
            columns=size,
            depth=size,
            count=int(chance.integers(1, 200)),
        )
        copy = replace(
            COPY, bytes=float(10 ** chance.uniform(3, 9)), count=int(chance.integers(1, 99))
        )
        pairs.append((workload(product, copy), [H100, resolve_gpu("A100")][chance.integers(2)]))
    return pairs
