"""What PRE says of a training that a trace holds, to be held against what was measured."""

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

# No epoch has more; the sum of two such numbers is still one.
_MOST_SAMPLES = 1e300


def estimate_pre_of(trace: EnergyTrace, epochs: float, *, confidence: float = 0.9) -> Estimate:
    """What PRE predicts of the training that a trace holds, for all devices of the trace.

    Workload, GPU and number of samples are those of the trace, and so are changes that were known
    when the training began. Nothing of PRE is taken from a measurement but this: PRE is of the GPU
    alone. Where the trace counts processors and memory as well, the mean power that they drew in
    the trace's epochs is taken to go on, as `beside_gpu` takes it, since a total that lacks them
    could not be held against the measured one.

    Args:
        trace: the epochs measured so far; of a finished run, its `head`.
        epochs: number of epochs of the whole training.
        confidence: probability for the interval.

    Raises:
        EstimateError: the trace holds no workload, not one known GPU, no number of samples, or
            does not tell the GPU's energy from that of other devices; or its numbers are absurd.
    """
    check_trace(trace)
    gpus = gpus_of(trace.devices)
    if len(gpus) != 1:
        raise EstimateError(f"PRE is of one GPU, and the trace names {len(gpus)}")
    stored = read_object(trace.meta, "workload")
    if not stored:
        raise EstimateError(
            "the trace holds no workload: EnergyMonitor writes one where it counts FLOPs"
        )
    try:
        workload = Workload.from_dict(stored)
    except WorkloadError as error:
        raise EstimateError(str(error)) from error
    train_samples, validation_samples = _samples(trace, workload)
    others_W = _power_beside(trace)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was trained: it did fit into the memory
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
    whole = blend(pre, trace.head(0), epochs=epochs)  # for the changes that are planned
    if not math.isfinite(whole.energy_J):
        raise EstimateError("the trace's samples, epochs or power are too many for a number")
    return whole


def _samples(trace: EnergyTrace, workload: Workload) -> tuple[int, int]:
    """Samples trained on and validated in an epoch, or in an interval."""
    # What the monitor asked PRE with when the training began.
    recorded = read_object(trace.meta, "first_projection")
    train = read_positive(recorded, "train_samples")
    if train is not None:
        return round(train), round(read_positive(recorded, "validation_samples") or 0)
    whole_epochs = trace.unit == "epoch"
    validated = read_positive(trace.meta, "validation_samples") if whole_epochs else None
    if validated is None and (trace.column("validation_energy_J") > 0).any():
        raise EstimateError("the trace does not say how many samples were validated")
    train = read_positive(trace.meta, "train_samples") if whole_epochs else None
    if train is not None:
        return round(train), round(validated or 0)
    counted = trace.column("samples")
    if not (counted > 0).any():
        counted = trace.column("steps") * workload.batch_size
    counted = counted[(counted > 0) & (counted < _MOST_SAMPLES)]
    if not len(counted):
        raise EstimateError("the trace does not say how many samples an epoch has")
    return round(float(np.median(counted))), round(validated or 0)


def _power_beside(trace: EnergyTrace) -> float:
    """Mean power in W of what the trace counts beside its GPU; 0 where it counts the GPU alone."""
    energy_J, gpu_J = trace.column("energy_J"), trace.column("gpu_energy_J")
    read = np.isfinite(energy_J * gpu_J)
    if not read.any():
        if len(trace.devices) == 1:
            return 0.0  # arrays that do not name their device: the GPU is the only one
        raise EstimateError("no epoch tells the GPU's energy from that of other devices")
    others_J = float(np.sum(energy_J[read] - gpu_J[read]))
    # Sums of the same parts differ by rounding.
    if others_J <= 1e-9 * float(np.sum(energy_J[read])):
        return 0.0
    seconds = float(np.sum(trace.column("duration_s")[read]))
    if not (math.isfinite(seconds) and seconds > 0):
        raise EstimateError("the trace does not say how long its epochs took")
    return others_J / seconds
