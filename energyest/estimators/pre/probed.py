"""Predictions corrected by a probe on the same or another GPU."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.pre.fitted import FittedPreModel
from energyest.estimators.pre.roofline_model import Predictions, distance
from energyest.estimators.pre.training_data import trained_run
from energyest.gpus import Gpu
from energyest.records.probe import Probe
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload

#: Deviation of the logarithm of a training's energy from a probe of 30 steps, due to a GPU that
#: warms up, batches that differ and data that arrive late.
PROBE_DEVIATION = 0.06
#: Additional deviation, of a step's time and of its energy, if the probe was made on another GPU,
#: per unit of distance between the two (`roofline_model.distance`). Checked on published pairs of
#: GPUs by `benchmarks/evidence/pre_published.py`.
TRANSFER_DEVIATION = 0.22
# Fields that a workload and its probe must share, in addition to the FLOPs of a step, which differ
# for larger images or longer texts.
_SAME = (
    *("model", "parameters", "trainable_parameters"),
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
            f"probe is a {type(probe).__name__}: it must be a Probe from probe(), a HostProbe from "
            "probe_host() or an EnergyTrace"
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


def as_probed(
    predicted: Predictions, model: FittedPreModel, probe: Probe, gpu: Gpu
) -> tuple[Predictions, float]:
    """Correct predictions by the ratio of measured to predicted steps of the probe.

    If the probe was made on another GPU, the model predicts the ratio between the two GPUs.

    Returns:
        The corrected predictions, and the deviation of their logarithms.
    """
    expected = model.predict([(probe.workload, probe.gpu)])
    apart = 0.0 if gpu.name == probe.gpu.name else distance(probe.gpu, gpu)
    most_W = max(probe.power_W, gpu.tdp_W) if apart == 0 else gpu.tdp_W
    corrected = replace(
        predicted,
        step_s=predicted.step_s * (probe.step_s / expected.step_s),
        power_W=np.minimum(  # no board draws more than that for long
            predicted.power_W * (probe.power_W / expected.power_W), most_W
        ),
    )
    return corrected, math.hypot(PROBE_DEVIATION, TRANSFER_DEVIATION * apart)
