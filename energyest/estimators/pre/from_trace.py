"""PRE's estimate of a recorded training, to compare it with the measurement."""

from __future__ import annotations

import math
import warnings

import numpy as np

from energyest.errors import EstimateError, WorkloadError
from energyest.estimate import Estimate
from energyest.estimators.arguments import check_trace
from energyest.estimators.pre.blend import beside_gpu, blend
from energyest.estimators.pre.estimate import estimate_pre
from energyest.gpus import resolve_gpu
from energyest.records.devices import gpus_of
from energyest.records.meta import read_object, read_positive
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload

# No epoch has more samples; the sum of two such numbers is still finite.
_MOST_SAMPLES = 1e300


def estimate_pre_of(trace: EnergyTrace, epochs: float, *, confidence: float = 0.9) -> Estimate:
    """PRE's estimate of the training in a trace, for all devices of the trace.

    Workload, GPU, number of samples and the changes that were planned when training began are taken
    from the trace. There is one measured input: PRE covers only the GPU. If the trace includes
    processors and memory, their mean power in the trace's epochs is added, as in `beside_gpu`,
    because otherwise the total could not be compared with the measured one.

    Args:
        trace: the epochs measured so far; for a finished run, its `head`.
        epochs: number of epochs of the whole training.
        confidence: coverage probability of the interval.

    Raises:
        EstimateError: the trace holds no workload, not exactly one known GPU, or no number of
            samples; it does not separate the GPU's energy from that of other devices; or its
            numbers overflow.
    """
    check_trace(trace)
    gpus = gpus_of(trace.devices)
    if len(gpus) != 1:
        raise EstimateError(f"PRE covers training on one GPU, but the trace has {len(gpus)}")
    stored = read_object(trace.meta, "workload")
    if not stored:
        raise EstimateError(
            "the trace holds no workload: EnergyMonitor records one if it counts FLOPs"
        )
    try:
        workload = Workload.from_dict(stored)
    except WorkloadError as error:
        raise EstimateError(str(error)) from error
    train_samples, validation_samples = _samples(trace, workload)
    others_W = _power_of_others(trace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model was trained, so it fits into memory
        pre = estimate_pre(
            workload,
            resolve_gpu(str(gpus[0].get("name"))),
            epochs=epochs,
            train_samples=train_samples,
            validation_samples=validation_samples,
            confidence=confidence,
        )
    if others_W > 0:
        pre = beside_gpu(pre, others_W)
    whole = blend(pre, trace.head(0), epochs=epochs)  # applies planned changes
    if not math.isfinite(whole.energy_J):
        raise EstimateError("the energy overflows: too many samples or epochs, or too much power")
    return whole


def _samples(trace: EnergyTrace, workload: Workload) -> tuple[int, int]:
    """Training and validation samples per epoch or interval."""
    # The numbers that the monitor passed to PRE when training began.
    recorded = read_object(trace.meta, "first_projection")
    train = read_positive(recorded, "train_samples")
    if train is not None:
        return round(train), round(read_positive(recorded, "validation_samples") or 0)
    whole_epochs = trace.unit == "epoch"
    validated = read_positive(trace.meta, "validation_samples") if whole_epochs else None
    if validated is None and (trace.column("validation_energy_J") > 0).any():
        raise EstimateError("the trace does not hold the number of validation samples")
    train = read_positive(trace.meta, "train_samples") if whole_epochs else None
    if train is not None:
        return round(train), round(validated or 0)
    counted = trace.column("samples")
    if not (counted > 0).any():
        counted = trace.column("steps") * workload.batch_size
    counted = counted[(counted > 0) & (counted < _MOST_SAMPLES)]
    if not len(counted):
        raise EstimateError("the trace does not hold the number of samples per epoch")
    return round(float(np.median(counted))), round(validated or 0)


def _power_of_others(trace: EnergyTrace) -> float:
    """Mean power in W of all devices other than the GPU; 0 if the trace has only the GPU."""
    energy_J, gpu_J = trace.column("energy_J"), trace.column("gpu_energy_J")
    read = np.isfinite(energy_J * gpu_J)
    if not read.any():
        if len(trace.devices) == 1:
            return 0.0  # arrays without device names: the GPU is the only one
        raise EstimateError("no epoch separates the GPU's energy from that of other devices")
    others_J = float(np.sum(energy_J[read] - gpu_J[read]))
    # Sums of the same parts may differ by rounding.
    if others_J <= 1e-9 * float(np.sum(energy_J[read])):
        return 0.0
    seconds = float(np.sum(trace.column("duration_s")[read]))
    if not (math.isfinite(seconds) and seconds > 0):
        raise EstimateError("the trace does not hold the durations of its epochs")
    return others_J / seconds
