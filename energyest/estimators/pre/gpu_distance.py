"""What PRE needs of a GPU's data sheet, and how far apart two GPUs are by theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array
from energyest.gpus import Gpu, peak_flops_per_s


def check_data_sheet(gpu: Gpu) -> None:
    """Check that what every prediction needs is known of a GPU.

    Raises:
        EstimateError: its memory bandwidth, fp32 rate or board power is not.
    """
    for value, name in (
        (gpu.bandwidth_bytes_per_s, "memory bandwidth"),
        (gpu.peak_flops_per_s.get("fp32", math.nan), "fp32 peak"),
        (gpu.tdp_W, "board power"),
    ):
        if not value > 0:
            raise EstimateError(f"no {name} known for {gpu.name}: pass a Gpu(...) with it")


def places_of(gpus: Sequence[Gpu]) -> Array:
    """Logarithms of memory bandwidth and fp32 rate, of shape (n, 2).

    Raises:
        EstimateError: as for `check_data_sheet`.
    """
    return np.array([_place(gpu) for gpu in gpus])


def distance_to_nearest(places: Array, known: Array) -> Array:
    """Distances of GPUs, of shape (n, 2), to the nearest of some others, of shape (k, 2)."""
    nearest: Array = np.linalg.norm(places[:, np.newaxis] - known, axis=2).min(axis=1)
    return nearest


def distance(one: Gpu, other: Gpu, precision: str = "fp32") -> float:
    """Distance of two GPUs for trainings in a precision.

    In logarithms of bandwidth, of the fp32 rate, and of the rate in the precision relative to that:
    boards with the same chip can differ in the rate of their tensor units alone.

    Raises:
        EstimateError: as for `check_data_sheet`, or a GPU lacks the precision.
    """
    places = places_of([one, other])
    relative = np.log([peak_flops_per_s(gpu, precision) for gpu in (one, other)]) - places[:, 1]
    return float(np.linalg.norm([*(places[0] - places[1]), relative[0] - relative[1]]))


def _place(gpu: Gpu) -> Array:
    check_data_sheet(gpu)
    return np.log([gpu.bandwidth_bytes_per_s, gpu.peak_flops_per_s["fp32"]])
