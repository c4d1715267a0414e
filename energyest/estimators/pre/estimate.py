"""`estimate_pre`: the energy of a training that has not started."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from energyest.checks import check_confidence, check_positive, is_number, short
from energyest.errors import EstimateError, WorkloadError
from energyest.estimate import Estimate
from energyest.estimators.pre.fitted import FittedPreModel, packaged
from energyest.estimators.pre.limits import behind_loader, under_power_limit
from energyest.estimators.pre.physics.operation_table import Array
from energyest.estimators.pre.predictions import Predictions
from energyest.estimators.pre.probed import as_measured, mismatch, probe_of, transferred
from energyest.estimators.pre.totals import check_samples, whole_trainings, with_validation
from energyest.gpus import Gpu, check_precision, resolve_gpu
from energyest.records.probe import HostProbe, Probe
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload

if TYPE_CHECKING:
    from energyest.estimators.pre.model import PreModel

DEFAULT_GPU = "H100"
GPU_ALONE = "the energy of the GPU alone, without processors and memory"
GPUS_ALONE = "the energy of the GPUs alone, without processors and memory"
# If the ends of the interval are further than this factor from its middle, the estimate is little
# more than an order of magnitude.
_FAR = 2.0
# The most GPUs of one host: an NVIDIA DGX-2 has 16.
_MOST_IN_A_HOST = 16


def estimate_pre(
    workload: Workload,
    gpu: str | Gpu | None = None,
    *,
    epochs: float,
    train_samples: int,
    validation_samples: int = 0,
    devices: int | None = None,
    accumulate: int | None = None,
    compiled: bool | None = None,
    power_limit_W: float | None = None,
    loader_samples_per_s: float | None = None,
    model: PreModel | None = None,
    probe: Probe | HostProbe | EnergyTrace | None = None,
    confidence: float = 0.9,
) -> Estimate:
    """Estimate the energy of a training on a GPU, before anything runs and without that GPU.

    The time of a step is computed from the workload's operations and the GPU's data sheet, and its
    power from how far the step uses the GPU's peak rates. Both are corrected by measurements on
    other models and GPUs (see docs/explanation/pre.md). The estimate covers only the GPUs.

    With a `probe` on the same GPU, training steps cost what they did in the probe, and validation
    steps are corrected by the same factors. With a probe on another GPU, the error that it shows
    corrects the part of the prediction that both GPUs share: the more similar they are, the more.

    Args:
        workload: from `describe_workload`, with the batch size, precision and optimizer of the
            training.
        gpu: a name ("H100", "RTX 3090", "NVIDIA A100-SXM4-80GB") or a `Gpu` with its data; by
            default the GPU of the probe, or else an H100.
        epochs: number of epochs, above 0.
        train_samples: training samples per epoch.
        validation_samples: validation samples per epoch, processed by the forward pass only, in
            batches of the same size.
        devices: number of GPUs in one host, up to 16, that train together, each on batches of the
            workload's size (`DistributedDataParallel`); the estimate covers all of them. By default
            as in the workload.
        accumulate: batches per optimizer step; by default as in the workload.
        compiled: whether the model is run with `torch.compile`; by default as in the workload.
        power_limit_W: power limit of each GPU, if it is set below that of the board.
        loader_samples_per_s: rate of the data loader for all GPUs together, taken as exact; by
            default, loading is assumed not to limit the GPUs.
        model: a `PreModel` of your own; by default the one that comes with the package.
        probe: a probe of the same workload: from `energyest.profiling.probe`, on this or another
            GPU, or the trace of a few epochs on one GPU. Or a probe of the CPU alone, from
            `energyest.profiling.probe_host` on the machine with the GPU; this needs the packaged
            model, because it is relative to that model's typical machine.
        confidence: coverage probability of the interval.

    Returns:
        The estimate, including its `duration_s`.

    Raises:
        EstimateError: the GPU is unknown (the message lists the closest names) or lacks the
            precision; an argument is invalid; the workload has no operations, or none of the
            forward pass; the probe is for another workload, or a CPU probe is given with a `model`.

    Warns:
        UserWarning: the training is unlikely to fit into the GPU's memory.

    Examples:
        >>> import torch
        >>> from energyest import describe_workload, estimate_pre
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Flatten())
        >>> workload = describe_workload(model, torch.randn(8, 3, 32, 32))
        >>> estimate = estimate_pre(workload, 'H100', epochs=10, train_samples=50_000)
        >>> estimate.lower_J < estimate.energy_J < estimate.upper_J
        True
    """
    if not isinstance(workload, Workload):
        raise EstimateError(
            f"workload is a {type(workload).__name__}: it must come from describe_workload()"
        )
    if not (is_number(epochs) and math.isfinite(epochs) and epochs > 0):
        raise EstimateError(f"epochs={epochs!r} must be a number above 0")
    train_samples = check_samples(train_samples, "train_samples", least=1)
    validation_samples = check_samples(validation_samples, "validation_samples", least=0)
    confidence = check_confidence(confidence, EstimateError)
    workload = _as_trained(workload, devices, accumulate, compiled)
    host, probe = (probe, None) if isinstance(probe, HostProbe) else (None, probe)
    if host is not None and model is not None:
        raise EstimateError(
            "a probe of the CPU needs the packaged model: leave it out, because a PreModel of your "
            "own was fitted to your machines"
        )
    measured = None if probe is None else probe_of(probe)
    other = "" if measured is None else mismatch(measured, workload)
    if other:
        raise EstimateError(f"the probe is for another workload: its {other}")
    chosen = resolve_gpu(DEFAULT_GPU if gpu is None else gpu)
    if measured is not None and (gpu is None or chosen.name == measured.gpu.name):
        chosen = measured.gpu
    used = check_precision(chosen, workload.precision)
    known = fitted_of(model)
    pairs = [(workload, chosen)]
    predicted = known.predict(with_validation(pairs), factor=None if host is None else host.factor)
    rest_W = known.rest_W([chosen] * 2)
    if measured is not None:
        predicted = _as_probed(predicted, known, measured, chosen)
    if power_limit_W is not None:
        predicted = _limited(predicted, power_limit_W, chosen, rest_W)
    is_measured = measured is not None and measured.gpu.name == chosen.name
    halves, halves_step = _half_widths(predicted, known, confidence, is_measured=is_measured)
    batch_s = _batch_s(workload, loader_samples_per_s)
    # In shorter steps, a GPU waits longer for its data, and in longer ones less.
    total, shortest, longest = (
        whole_trainings(
            pairs,
            behind_loader(stretched, batch_s, rest_W),
            halves,
            epochs=epochs,
            train_samples=train_samples,
            validation_samples=validation_samples,
        )
        for stretched in (
            replace(predicted, step_s=predicted.step_s * np.exp(sign * halves_step))
            for sign in (0, -1, 1)
        )
    )
    energy_J, half = float(total.energy_J[0]), float(total.half[0])
    duration_s = float(total.duration_s[0])
    if not math.isfinite(energy_J * duration_s):
        raise EstimateError("energy or time overflows: pass fewer epochs or samples")
    by = "PRE" if host is None else "PRE with a probe of the CPU"
    if measured is not None:
        by = f"PRE with a probe of {measured.steps} steps"
        by += f" on {measured.gpu.name}" if measured.gpu.name != chosen.name else ""
    number = "one" if workload.devices == 1 else str(workload.devices)
    return Estimate(
        energy_J=energy_J,
        lower_J=energy_J * math.exp(-half),
        upper_J=energy_J * math.exp(half),
        confidence=confidence,
        duration_s=duration_s,
        duration_lower_s=float(shortest.duration_s[0]),
        duration_upper_s=float(longest.duration_s[0]),
        measured_J=0.0,
        epochs=float(epochs),
        method=f"{by}: {_named(workload)}, {used}, on {number} {chosen.name}",
        assumptions=_assumptions(
            workload,
            chosen,
            known,
            predicted,
            half,
            measured,
            host,
            loader_samples_per_s,
            power_limit_W,
        ),
    )


def _named(workload: Workload) -> str:
    more = [f"{workload.accumulate} per step"] if workload.accumulate > 1 else []
    more += ["compiled"] if workload.compiled else []
    return ", ".join([workload.model, f"batch {workload.batch_size}", *more])


def _as_trained(
    workload: Workload, devices: int | None, accumulate: int | None, compiled: bool | None
) -> Workload:
    """The workload with the given settings of the training."""
    number = workload.devices if devices is None else devices
    if is_number(number) and number > _MOST_IN_A_HOST:
        raise EstimateError(
            f"devices={short(number)} is more than the {_MOST_IN_A_HOST} GPUs that one host has at"
            " most: the exchange between hosts is not part of the estimate"
        )
    try:
        return replace(
            workload,
            devices=number,
            accumulate=workload.accumulate if accumulate is None else accumulate,
            compiled=workload.compiled if compiled is None else compiled,
        )
    except WorkloadError as error:
        raise EstimateError(str(error)) from error


def _as_probed(
    predicted: Predictions, model: FittedPreModel, probe: Probe, gpu: Gpu
) -> Predictions:
    if probe.gpu.name == gpu.name:
        return as_measured(predicted, model, probe)
    return transferred(predicted, model, probe, gpu)


def _limited(predicted: Predictions, power_limit_W: float, gpu: Gpu, rest_W: Array) -> Predictions:
    limit_W = check_positive(power_limit_W, "power_limit_W", EstimateError)
    limited = under_power_limit(predicted, limit_W, gpu.tdp_W, rest_W)
    if ((limited.power_W > limit_W) & (limit_W < rest_W)).any():
        raise EstimateError(
            f"power_limit_W={limit_W:g} is too low: {gpu.name} draws about {rest_W[0]:.0f} W at "
            "rest, and no limit brings it below that"
        )
    return limited


def _half_widths(
    predicted: Predictions, model: FittedPreModel, confidence: float, *, is_measured: bool
) -> tuple[Array, Array]:
    """Half-widths of the intervals of the logarithms of energy and duration.

    If steps were measured, the errors of the model have no part in them.
    """
    if not is_measured:
        halves = model.half_width(predicted, confidence)
        return halves, model.half_width_step(predicted, confidence)
    normal = float(ndtri((1 + confidence) / 2))
    return normal * predicted.deviation_energy, normal * predicted.deviation_step


def _batch_s(workload: Workload, loader_samples_per_s: float | None) -> Array:
    """Time that the loader takes for the batches of a training and of a validation step."""
    if loader_samples_per_s is None:
        return np.zeros(2)
    rate = check_positive(loader_samples_per_s, "loader_samples_per_s", EstimateError)
    return np.full(2, workload.batch_size * workload.devices / rate)


def fitted_of(model: PreModel | None) -> FittedPreModel:
    """The fitted part of a model; without one, that of the packaged model.

    Raises:
        EstimateError: it is not a fitted `PreModel`.
    """
    if model is None:
        return packaged()
    # Imported here: only users of a PreModel need scikit-learn.
    from energyest.estimators.not_fitted import check_fitted  # noqa: PLC0415
    from energyest.estimators.pre.model import PreModel  # noqa: PLC0415

    if not isinstance(model, PreModel):
        raise EstimateError(f"model is a {type(model).__name__}: it must be a fitted PreModel")
    check_fitted(model)
    return model.fitted_


def _assumptions(
    workload: Workload,
    gpu: Gpu,
    model: FittedPreModel,
    predicted: Predictions,
    half: float,
    probe: Probe | None,
    host: HostProbe | None,
    loader_samples_per_s: float | None,
    power_limit_W: float | None,
) -> tuple[str, ...]:
    said = [GPU_ALONE if workload.devices == 1 else GPUS_ALONE]
    loading = "data loading does not limit the GPU"
    if loader_samples_per_s is not None:
        loading = f"data are loaded at {loader_samples_per_s:.4g} samples/s"
    said += [
        f"{loading}; the cold start is not included",
        f"a step takes {1e3 * predicted.step_s[0]:.3g} ms at {predicted.power_W[0]:.0f} W",
    ]
    if workload.devices > 1:
        said.append(
            f"each of {workload.devices} GPUs processes batches of {workload.batch_size} and "
            "exchanges gradients over the board's links; no such training was measured"
        )
    if power_limit_W is not None:
        said.append(f"where it would draw more than {power_limit_W:g} W, a GPU lowers its clock")
    if probe is not None:
        said.append(_about_probe(probe, workload, gpu, is_limited=power_limit_W is not None))
    if probe is None:
        said += model.beyond_measured([(workload, gpu)], predicted)[0]
    if host is not None:
        said.append(str(host))
    if half > math.log(_FAR):
        said.append(
            f"far from all measurements: the true value may well be {math.exp(half):.2g} times "
            "higher or lower"
        )
    fits = probe is not None and probe.gpu.name == gpu.name  # the probe did fit
    text = "" if fits else does_not_fit(workload, gpu)
    if text:
        warnings.warn(text, UserWarning, stacklevel=3)
        said.append(text)
    return (*said, *workload.notes)


def _about_probe(probe: Probe, workload: Workload, gpu: Gpu, *, is_limited: bool) -> str:
    if probe.gpu.name != gpu.name:
        return (
            f"{probe.steps} steps were measured on {probe.gpu.name}: how {gpu.name} differs from "
            "it is predicted"
        )
    as_probed = replace(
        workload, devices=probe.workload.devices, accumulate=probe.workload.accumulate
    )
    if is_limited or as_probed != workload:
        return f"{probe.steps} steps were measured: what differs from them is predicted"
    return f"all training steps cost what the {probe.steps} measured ones did"


def does_not_fit(workload: Workload, gpu: Gpu) -> str:
    """A text if the training does not fit into the GPU's memory; empty if it may fit."""
    if not workload.memory_bytes > gpu.memory_bytes:
        return ""
    return (
        f"the training needs about {workload.memory_bytes / 1e9:.3g} GB, and {gpu.name} has "
        f"{gpu.memory_bytes / 1e9:.3g} GB: a batch of {workload.batch_size} is unlikely to fit"
    )
