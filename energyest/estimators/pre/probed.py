"""Predictions corrected by a probe on the same or another GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.fitted import FittedPreModel
from energyest.estimators.pre.gpu_distance import distance
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.training_data import trained_run
from energyest.gpus import Gpu
from energyest.records.probe import Probe
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload

#: Deviation of the logarithm of a training's energy from a probe of 30 steps, due to a GPU that
#: warms up, batches that differ and data that arrive late.
PROBE_DEVIATION = 0.06
#: Distance of two GPUs (`gpu_distance.distance`) at which the errors due to them have a correlation
#: of 1/e. Chosen on pairs of GPUs on which others have published the same training, with fits
#: without the source of both: the errors due to GPUs have little in common. The figures of
#: `benchmarks/evidence/pre_published.py` for such pairs are no independent test of it.
TRANSFER_DISTANCE = 0.5
# Fields that a workload and its probe must share, in addition to the FLOPs of a step, which differ
# for larger images or longer texts.
_SAME = (
    *("model", "parameters", "trainable_parameters", "parameter_bytes"),
    *("batch_size", "precision", "optimizer", "layout", "compiled"),
)
_SAME_FLOPS = 0.05


def probe_of(probe: Probe | EnergyTrace) -> Probe:
    """Return a probe; for a trace, one made from its epochs after the first.

    Raises:
        EstimateError: it is neither; or the trace holds no workload, not exactly one known GPU, or
            no epoch to learn from.
    """
    if isinstance(probe, EnergyTrace):
        run, steps = trained_run(probe, "the trace")
        return Probe(run.workload, run.gpu, steps, run.step_s, run.power_W)
    if not isinstance(probe, Probe):
        raise EstimateError(
            f"probe is a {type(probe).__name__}: it must be a probe of a GPU, from probe(), or an "
            "EnergyTrace"
        )
    return probe


def mismatch(probe: Probe, workload: Workload) -> str:
    """How a probe's workload differs, such as "batch_size is 8, not 16"; empty if it does not."""
    for name in _SAME:
        asked, probed = getattr(workload, name), getattr(probe.workload, name)
        if asked != probed:
            return f"{name} is {probed!r}, not {asked!r}"
    asked, probed = workload.flops_per_step, probe.workload.flops_per_step
    if not math.isclose(asked, probed, rel_tol=_SAME_FLOPS):
        return f"step has {probed:.3g} FLOPs, not {asked:.3g}"
    return ""


def nearest(probes: Sequence[Probe], gpu: Gpu) -> Probe:
    """The probe on the GPU itself, or else on the most similar one."""

    def apart(probe: Probe) -> float:
        if probe.gpu.name == gpu.name:
            return -1.0
        try:
            return distance(probe.gpu, gpu, probe.workload.precision)
        except EstimateError:  # such a GPU cannot be predicted
            return math.inf

    return min(probes, key=apart)


def as_measured(predicted: Predictions, model: FittedPreModel, probe: Probe) -> Predictions:
    """Predictions for the GPU of the probe, corrected by what the probe measured.

    Args:
        predicted: predictions for steps on that GPU.
        model: the model that made them.
        probe: the probe.
    """
    slower, stronger = _off(model.predict([(probe.workload, probe.gpu)]), probe)
    most_W = max(probe.power_W, probe.gpu.tdp_W)
    deviation = np.hypot(PROBE_DEVIATION, predicted.devices)
    return _corrected(predicted, slower, stronger, most_W, deviation, deviation)


def transferred(
    predicted: Predictions, model: FittedPreModel, probe: Probe, gpu: Gpu
) -> Predictions:
    """Predictions for a GPU, corrected by a probe of the same training on another one.

    The errors of the two predictions are correlated, because the training is the same, and more
    so the more similar the GPUs are. The probe shows one of them, and the expected part of the
    other is corrected; the rest of it remains as the deviation. So a probe on a GPU that is hardly
    known moves little.

    Args:
        predicted: predictions for steps on `gpu`.
        model: the model that made them.
        probe: the probe, on another GPU.
        gpu: the GPU.

    Returns:
        The corrected predictions. Their deviations are at most those of `predicted`.
    """
    seen = model.predict([(probe.workload, probe.gpu)])
    slower, stronger = _off(seen, probe)
    alike = math.exp(-distance(probe.gpu, gpu, probe.workload.precision) / TRANSFER_DISTANCE)
    shared, deviations = [], []
    for whole, of_gpu in (("deviation_step", "gpu_step"), ("deviation_energy", "gpu_energy")):
        here, there = (
            (getattr(p, whole) ** 2, getattr(p, of_gpu), p.host**2 + p.devices**2)
            for p in (predicted, seen)
        )
        # What is due to neither the GPU nor the machine nor the single run is due to the training.
        of_training = [
            np.maximum(all_ - gpu_**2 - rest - PROBE_DEVIATION**2, 0.0)
            for all_, gpu_, rest in (here, there)
        ]
        common = np.sqrt(of_training[0] * of_training[1]) + alike * here[1] * there[1]
        # More than the whole error is never corrected.
        share = np.minimum(common / there[0], 1.0)
        shared.append(share)
        deviations.append(np.sqrt(here[0] - 2 * share * common + share**2 * there[0]))
    # Of an error of the power, the share that is common is taken to be that of the energy.
    return _corrected(predicted, shared[0] * slower, shared[1] * stronger, gpu.tdp_W, *deviations)


def _off(expected: Predictions, probe: Probe) -> tuple[float, float]:
    """Logarithms of measured by expected duration, and power, of the probe's steps."""
    slower = math.log(probe.step_s / float(expected.step_s[0]))
    return slower, math.log(probe.power_W / float(expected.power_W[0]))


def _corrected(
    predicted: Predictions,
    slower: Array | float,
    stronger: Array | float,
    most_W: float,
    deviation_step: Array,
    deviation_energy: Array,
) -> Predictions:
    """Predictions with logarithms of duration and power moved, and with other deviations."""
    power_W = predicted.power_W * np.exp(stronger)
    return replace(
        predicted,
        step_s=predicted.step_s * np.exp(slower),
        power_W=np.minimum(power_W, most_W),  # no board draws more than that for long
        deviation_step=deviation_step,
        deviation_energy=deviation_energy,
    )
