"""`estimate_pre`: the energy of a training that has not started."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from energyest.checks import check_confidence, is_number
from energyest.errors import EstimateError
from energyest.estimate import Estimate
from energyest.estimators.pre.fitted import FittedPreModel, packaged
from energyest.estimators.pre.roofline_model import Predictions
from energyest.estimators.pre.totals import check_samples, whole_trainings, with_validation
from energyest.gpus import Gpu, check_precision, resolve_gpu
from energyest.records.probe import HostProbe, Probe
from energyest.records.workload import Workload

if TYPE_CHECKING:
    from energyest.estimators.pre.model import PreModel

DEFAULT_GPU = "H100"
GPU_ALONE = "the energy of the GPU alone: processors and memory come on top"
#: Deviation of the logarithm of a training's energy from what a probe of 30 steps says: a GPU that
#: warms up, batches that differ, data that come late.
PROBE_DEVIATION = 0.06
# What a workload and its probe have to have in common, beside the FLOPs of a step, which differ
# where images are larger or texts longer.
_SAME = (
    *("model", "parameters", "trainable_parameters"),
    *("batch_size", "precision", "optimizer"),
)
_SAME_FLOPS = 0.05

# Beyond this factor between the ends of the interval and its middle, it says little more than an
# order of magnitude.
_FAR = 2.0


def estimate_pre(
    workload: Workload,
    gpu: str | Gpu | None = None,
    *,
    epochs: float,
    train_samples: int,
    validation_samples: int = 0,
    model: PreModel | None = None,
    probe: Probe | HostProbe | None = None,
    confidence: float = 0.9,
) -> Estimate:
    """What a training will cost on a GPU that need not be there, before anything runs.

    The time of a step is computed from the workload's operations and the GPU's data sheet, its
    power from what the step makes of the GPU's peaks, and both are corrected by what was measured
    on other models and GPUs (see docs/before_training.md). It is the energy of one GPU.

    With a `probe` on the GPU itself, steps take what they took there; those of validation are
    corrected by the same factors. With one of the machine's CPU alone, launching operations takes
    as long as there, and the interval of trainings that it bounds is narrower.

    Args:
        workload: from `describe_workload`, with the batch size, precision and optimizer of the
            training.
        gpu: a name ("H100", "RTX 3090", "NVIDIA A100-SXM4-80GB") or a `Gpu` with its numbers; by
            default the probe's, or else an H100.
        epochs: number of epochs, above 0.
        train_samples: samples in an epoch.
        validation_samples: samples that are validated after each epoch, by the forward pass alone,
            in batches of the same size.
        model: a `PreModel` of your own; by default the one that comes with the package.
        probe: from `energyest.profiling.probe`, of the same workload on the same GPU; or from
            `probe_host`, of the CPU of the machine to train on, for the packaged model.
        confidence: probability for the interval.

    Returns:
        The estimate, with its `duration_s`.

    Raises:
        EstimateError: the GPU is unknown (the nearest names are given) or lacks the precision; a
            number is out of its range; the workload has no operations, or none of the forward pass;
            the probe is of another workload or GPU, or is of a CPU and `model` is your own.

    Warns:
        UserWarning: the training is unlikely to fit into the GPU's memory.
    """
    if not isinstance(workload, Workload):
        raise EstimateError(
            f"workload is a {type(workload).__name__}: it must be a Workload from describe_workload"
        )
    if not (is_number(epochs) and math.isfinite(epochs) and epochs > 0):
        raise EstimateError(f"epochs={epochs!r} must be a number above 0")
    train_samples = check_samples(train_samples, "train_samples", least=1)
    validation_samples = check_samples(validation_samples, "validation_samples", least=0)
    confidence = check_confidence(confidence, EstimateError)
    host, probe = (probe, None) if isinstance(probe, HostProbe) else (None, probe)
    if host is not None and model is not None:
        raise EstimateError(
            "a probe of the CPU is for the packaged model: leave it out, since a PreModel of your "
            "own has learnt your machines"
        )
    chosen = _choose_gpu(gpu, workload, probe)
    used = check_precision(chosen, workload.precision)
    known = fitted_of(model)
    pairs = [(workload, chosen)]
    predicted = known.predict(with_validation(pairs), factor=None if host is None else host.factor)
    halves = known.half_width(predicted, confidence)
    half_step = float(known.half_width_step(predicted, confidence)[0])
    if probe is not None:
        predicted = _as_probed(predicted, known, probe)
        halves = np.full(2, PROBE_DEVIATION * float(ndtri((1 + confidence) / 2)))
        half_step = float(halves[0])
    total = whole_trainings(
        pairs,
        predicted,
        halves,
        epochs=epochs,
        train_samples=train_samples,
        validation_samples=validation_samples,
    )
    energy_J, half = float(total.energy_J[0]), float(total.half[0])
    if not math.isfinite(energy_J * total.duration_s[0]):
        raise EstimateError("its energy or time is too large for a number: fewer epochs or samples")
    duration_s = float(total.duration_s[0])
    by = "PRE" if host is None else "PRE with a probe of the CPU"
    if probe is not None:
        by = f"PRE with a probe of {probe.steps} steps"
    return Estimate(
        energy_J=energy_J,
        lower_J=energy_J * math.exp(-half),
        upper_J=energy_J * math.exp(half),
        confidence=confidence,
        duration_s=duration_s,
        duration_lower_s=duration_s * math.exp(-half_step),
        duration_upper_s=duration_s * math.exp(half_step),
        measured_J=0.0,
        epochs=float(epochs),
        method=f"{by}: {workload.model}, batch {workload.batch_size}, {used}, on one {chosen.name}",
        assumptions=_assumptions(workload, chosen, known, predicted, half, probe, host),
    )


def fitted_of(model: PreModel | None) -> FittedPreModel:
    """What a model has learnt; without one, what the packaged one has.

    Raises:
        EstimateError: it is not a `PreModel`, or not a fitted one.
    """
    if model is None:
        return packaged()
    # Late: whoever has such a model has imported scikit-learn, and nobody else needs it.
    from energyest.estimators.not_fitted import check_fitted  # noqa: PLC0415
    from energyest.estimators.pre.model import PreModel  # noqa: PLC0415

    if not isinstance(model, PreModel):
        raise EstimateError(f"model is a {type(model).__name__}: it must be a fitted PreModel")
    check_fitted(model)
    return model.fitted_


def _choose_gpu(gpu: str | Gpu | None, workload: Workload, probe: Probe | None) -> Gpu:
    """The GPU that is asked for; a probe has to be one of it, and of the same workload."""
    if probe is None:
        return resolve_gpu(DEFAULT_GPU if gpu is None else gpu)
    if not isinstance(probe, Probe):
        raise EstimateError(
            f"probe is a {type(probe).__name__}: it must be a Probe from probe() or a HostProbe "
            "from probe_host()"
        )
    if gpu is not None and resolve_gpu(gpu).name != probe.gpu.name:
        raise EstimateError(
            f"the probe was made on {probe.gpu.name}, not on {resolve_gpu(gpu).name}: make one "
            "there, or leave it out"
        )
    other = mismatch(probe, workload)
    if other:
        raise EstimateError(f"the probe is of another workload: its {other}")
    return probe.gpu


def mismatch(probe: Probe, workload: Workload) -> str:
    """In what a probe's workload is another one, such as "batch_size is 8, not 16"; or nothing."""
    for name in _SAME:
        asked, probed = getattr(workload, name), getattr(probe.workload, name)
        if asked != probed:
            return f"{name} is {probed!r}, not {asked!r}"
    asked, probed = workload.flops_per_step, probe.workload.flops_per_step
    if not math.isclose(asked, probed, rel_tol=_SAME_FLOPS):
        return f"step has {probed:.3g} FLOPs, not {asked:.3g}"
    return ""


def _as_probed(predicted: Predictions, model: FittedPreModel, probe: Probe) -> Predictions:
    """Predictions, corrected by what is measured and predicted of the probe's own steps."""
    expected = model.predict([(probe.workload, probe.gpu)])
    return replace(
        predicted,
        step_s=predicted.step_s * (probe.step_s / expected.step_s),
        power_W=np.minimum(
            predicted.power_W * (probe.power_W / expected.power_W),
            max(probe.power_W, probe.gpu.tdp_W),  # no board draws more for long
        ),
    )


def _assumptions(
    workload: Workload,
    gpu: Gpu,
    model: FittedPreModel,
    predicted: Predictions,
    half: float,
    probe: Probe | None,
    host: HostProbe | None,
) -> tuple[str, ...]:
    said = [
        GPU_ALONE,
        "data arrive as fast as the GPU takes them; the cold start is left out",
        f"a step takes {1e3 * predicted.step_s[0]:.3g} ms at {predicted.power_W[0]:.0f} W",
    ]
    if probe is not None:
        said.append(f"steps go on as the {probe.steps} that were measured")
    else:
        said += model.beyond_measured([(workload, gpu)], predicted)[0]
    if host is not None:
        said.append(str(host))
    if half > math.log(_FAR):
        said.append(
            f"far from what was measured: the truth may well be {math.exp(half):.2g} times as "
            "much, or as little"
        )
    text = "" if probe else does_not_fit(workload, gpu)  # what was probed did fit
    if text:
        warnings.warn(text, UserWarning, stacklevel=3)
        said.append(text)
    return (*said, *workload.notes)


def does_not_fit(workload: Workload, gpu: Gpu) -> str:
    """That the training does not fit into the GPU's memory; nothing where it may."""
    if not workload.memory_bytes > gpu.memory_bytes:
        return ""
    return (
        f"the training needs about {workload.memory_bytes / 1e9:.3g} GB, and {gpu.name} has "
        f"{gpu.memory_bytes / 1e9:.3g} GB: a batch of {workload.batch_size} is unlikely to fit"
    )
