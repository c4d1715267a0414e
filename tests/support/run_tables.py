"""Tables of made-up runs for the paper's regressions, whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from energyest.estimators.regression.features import FEATURES

INTERCEPT, SLOPE = -1.2, 0.12
BOARDS = {"A": (640, 2, 60), "B": (5888, 8, 220), "C": (10496, 24, 350), "D": (4352, 11, 260)}


def runs_table(
    models: int = 6,
    repetitions: int = 2,
    *,
    deviation: float = 0.0,
    repetition: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Trainings of each model on each GPU whose power is a power of the FLOPs of a batch.

    A setting's share deviates as a whole, and each of its runs once more.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for model in range(models):
        GFLOPs, batch_size = np.exp(rng.uniform(-3, 2)), int(rng.choice([16, 32, 64]))
        for gpu, (cores, memory_GB, limit_W) in BOARDS.items():
            level = INTERCEPT + SLOPE * np.log(GFLOPs * batch_size) + rng.normal(0, deviation)
            for _ in range(repetitions):
                power_W = limit_W * np.exp(level + rng.normal(0, repetition))
                numbers = (
                    *(batch_size, 128, 128, 32, 20000, 5000),
                    *(GFLOPs, cores, memory_GB, limit_W),
                )
                rows.append(
                    {
                        "model": f"model {model}",
                        "gpu": gpu,
                        **dict(zip(FEATURES, numbers, strict=True)),
                        "mean_power_W": power_W,
                        "epoch_energy_J": 60 * power_W,
                    }
                )
    return pd.DataFrame(rows)
