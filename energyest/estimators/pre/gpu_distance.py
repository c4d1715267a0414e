"""How far apart two GPUs are, by their data sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array
from energyest.gpus import Gpu, peak_flops_per_s


def places_of(gpus: Sequence[Gpu]) -> Array:
    """Logarithms of memory bandwidth and fp32 rate, of shape (n, 2).

    Raises:
        EstimateError: one of them is unknown.
    """
    return np.array([_place(gpu) for gpu in gpus])


def distance(one: Gpu, other: Gpu, precision: str = "fp32") -> float:
    """Distance of two GPUs for trainings in a precision.

    In logarithms of bandwidth, of the fp32 rate, and of the rate in the precision relative to that:
    boards with the same chip can differ in the rate of their tensor units alone.

    Raises:
        EstimateError: one of these is unknown.
    """
    places = places_of([one, other])
    relative = np.log([peak_flops_per_s(gpu, precision) for gpu in (one, other)]) - places[:, 1]
    return float(np.linalg.norm([*(places[0] - places[1]), relative[0] - relative[1]]))


def _place(gpu: Gpu) -> Array:
    rates = gpu.bandwidth_bytes_per_s, gpu.peak_flops_per_s.get("fp32", math.nan)
    if not all(rate > 0 for rate in rates):
        raise EstimateError(f"no fp32 peak known for {gpu.name}: pass a Gpu(...) with it")
    return np.log(rates)
