"""Adds up steps to whole trainings, for many pairs of a workload and a GPU at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from energyest.checks import is_number
from energyest.errors import EstimateError
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.roofline_model import Pair
from energyest.records.workload import Workload


@dataclass(frozen=True)
class Trainings:
    """The predicted cost of whole trainings; each field is an array of length n.

    Attributes:
        energy_J: energy of the GPU, or of all GPUs of `Workload.devices`.
        duration_s: duration of the training.
        half: half-width of the interval of the logarithm of the energy.
    """

    energy_J: Array
    duration_s: Array
    half: Array


def with_validation(pairs: Sequence[Pair]) -> list[Pair]:
    """Training steps, followed by the validation steps of the same pairs in the same order.

    Raises:
        EstimateError: a workload has no operations of the forward pass.
    """
    forward = {id(workload): _forward_only(workload) for workload, _ in pairs}
    return [*pairs, *((forward[id(workload)], gpu) for workload, gpu in pairs)]


def whole_trainings(
    pairs: Sequence[Pair],
    predicted: Predictions,
    halves: Array,
    *,
    epochs: Array | float,
    train_samples: int,
    validation_samples: int,
) -> Trainings:
    """Add up training and validation steps.

    Args:
        pairs: workloads on GPUs, of length n.
        predicted: predictions for `with_validation(pairs)`, of length 2 n.
        halves: half-widths of the intervals of the logarithms of their energies, of shape (2 n,).
        epochs: number of epochs: one number, or an array of shape (n,).
        train_samples: training samples per epoch.
        validation_samples: validation samples per epoch.
    """
    n = len(pairs)
    devices = np.array([workload.devices for workload, _ in pairs], float)
    size = devices * np.array([workload.batch_size for workload, _ in pairs], float)
    share = predicted.cpu_share
    batches = [
        _batches(train_samples, size, share[:n]),
        _batches(validation_samples, size, share[n:]),
    ]
    # Overflows give infinity, which callers check for.
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.array(batches) * epochs
        parts_J = steps * devices * predicted.energy_J.reshape(2, n)
        energy_J = parts_J.sum(axis=0)
        return Trainings(
            energy_J,
            (steps * predicted.step_s.reshape(2, n)).sum(axis=0),
            # The errors of training and validation are fully correlated.
            (parts_J * halves.reshape(2, n)).sum(axis=0) / energy_J,
        )


def check_samples(value: int, name: str, least: int) -> int:
    """Return a number of samples; raise an error for anything else."""
    if not (is_number(value) and math.isfinite(value) and value == int(value) and value >= least):
        raise EstimateError(f"{name}={value!r} must be a whole number of {least} or more")
    return int(value)


def _forward_only(workload: Workload) -> Workload:
    """A validation step: no backward pass, no stored activations, no optimizer."""
    forward = tuple(o for o in workload.operations if o.phase == "forward")
    if not forward:
        raise EstimateError(
            f"the workload of {workload.model} has no operations of the forward pass"
        )
    return replace(
        workload,
        operations=forward,
        backward_calls=0,
        trainable_parameters=0,
        parameter_tensors=0,
        saved_bytes=0,
        accumulate=1,
    )


def _batches(samples: int, batch_size: Array, cpu_share: Array) -> Array:
    """Number of steps for the samples; a smaller last step takes the CPU as long as any other."""
    full, rest = np.divmod(float(samples), batch_size)
    last = np.where(rest > 0, np.maximum(rest / batch_size, cpu_share), 0.0)
    batches: Array = full + last
    return batches
