"""`probe`: measure the cost of a training step on this GPU, with a few seconds of real steps."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from energyest.checks import check_count
from energyest.errors import ProbeError, WorkloadError
from energyest.gpus import check_precision, resolve_gpu
from energyest.measure.sensors import Sensor, detect
from energyest.measure.torch_gpus import address_of
from energyest.profiling.copies.model_copy import unwrapped
from energyest.profiling.describe import describe_workload
from energyest.profiling.step_timing import StepCost, has_values, measure_steps
from energyest.profiling.training_step import Loss
from energyest.records.probe import Probe
from energyest.records.workload import Workload


def probe(
    model: nn.Module,
    batch: Any,
    *,
    steps: int = 30,
    precision: str = "fp32",
    optimizer: str = "sgd",
    loss: Loss | None = None,
    samples: int | None = None,
    gpu: torch.device | int | str | None = None,
) -> Probe:
    """Train a copy of a model for a few seconds and measure what a step costs.

    A step is forward, loss, backward and the optimizer step in a plain loop, with the batch copied
    from the host each time. After a warm-up, at least `steps` steps are timed, for at least 1.2 s,
    because GPUs update their power readings every 0.1 s, and for at most about 5 s. Pass the result
    to `estimate_pre(..., probe=...)`.

    The model, the states of random generators and torch's settings are left unchanged, and the
    copy's memory is freed. A compiled model is measured uncompiled.

    Args:
        model: any module with values, on any device. For a LightningModule, its `training_step` is
            used; without a Trainer, its logged values are discarded.
        batch: a batch as the data loader yields it, of the size to train with.
        steps: the least number of steps to time, unless they take longer than 5 s.
        precision: "fp32", "tf32", or "bf16" or "fp16" with automatic mixed precision.
        optimizer: one of `records.workload.OPTIMIZERS`; if torch lacks it, one of torch's with the
            same amount of state is used.
        loss: as for `describe_workload`.
        samples: as for `describe_workload`.
        gpu: the CUDA device to use; by default the current one.

    Returns:
        The workload and the cost of its step.

    Raises:
        ProbeError: there is no CUDA device, NVML does not report its power, its memory does not
            suffice, or no step works.
        WorkloadError: as for `describe_workload`.
        EstimateError: the GPU is unknown, or lacks the precision.

    Examples:
        >>> from energyest.profiling import probe
        >>> measured = probe(model, batch, precision='bf16')  # doctest: +SKIP
        >>> measured.energy_per_step_J  # doctest: +SKIP
    """
    steps = check_count(steps, "steps", ProbeError)
    device = _cuda_device(gpu)
    workload = describe_workload(
        model, batch, precision=precision, optimizer=optimizer, loss=loss, samples=samples
    )
    workload = replace(workload, loop="plain")  # the loop that is measured
    if not has_values(model, batch):
        raise WorkloadError("a probe trains: model and batch need values, not only shapes")
    sensor = _power_sensor(device)
    try:
        found = resolve_gpu(sensor.device.name)
        check_precision(found, workload.precision)
    except BaseException:
        sensor.close()
        raise
    model, _ = unwrapped(model)
    with torch.cuda.device(device):
        cost = measure_and_clear(
            model, batch, device, [sensor], workload=workload, steps=steps, loss=loss
        )
    return Probe(workload, found, *cost)


def measure_and_clear(
    model: nn.Module,
    batch: Any,
    device: torch.device,
    sensors: Sequence[Sensor],
    *,
    workload: Workload,
    steps: int,
    loss: Loss | None,
) -> StepCost:
    """Call `measure_steps`, then free its memory and close the sensors, whatever happens.

    Raises:
        ProbeError: the steps cannot be run.
    """
    try:
        return measure_steps(
            model,
            batch,
            device,
            sensors,
            steps=steps,
            precision=workload.precision,
            optimizer=workload.optimizer,
            loss=loss,
        )
    except Exception as error:
        _let_go(error)
        if isinstance(error, ProbeError):
            raise
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise ProbeError(_too_large(workload, device)) from error
        raise ProbeError(
            f"{workload.model} could not be trained: {type(error).__name__}: {error}"
        ) from error
    finally:
        for sensor in sensors:
            sensor.close()
        _free(device)


def _free(device: torch.device) -> None:
    """Release unreferenced memory on the GPU."""
    gc.collect()
    if device.type == "cuda":
        with suppress(RuntimeError):  # after an error of the GPU itself, nothing works any more
            torch.cuda.empty_cache()


def _let_go(error: BaseException | None) -> None:
    """Drop objects held by the frames of an error, such as a model on the GPU."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _too_large(workload: Workload, device: torch.device) -> str:
    text = (
        f"out of memory: a step of {workload.model} with a batch of {workload.batch_size} needs at "
        f"least about {workload.memory_bytes / 1e9:.3g} GB"
    )
    if device.type != "cuda":
        return text
    _free(device)  # the memory of the failed attempt is not in use any more
    free, total = torch.cuda.mem_get_info(device)
    return f"{text}; the GPU has {total / 1e9:.3g} GB, of which {free / 1e9:.3g} GB are free"


def _cuda_device(gpu: torch.device | int | str | None) -> torch.device:
    """The requested CUDA device; initialises CUDA."""
    if not torch.cuda.is_available():
        raise ProbeError("a probe needs an NVIDIA GPU that torch can use, but there is none here")
    torch.cuda.init()
    try:
        device = torch.device("cuda", gpu) if isinstance(gpu, int) else torch.device(gpu or "cuda")
    except (RuntimeError, TypeError) as error:
        raise ProbeError(f"gpu={gpu!r} is not a CUDA device: {error}") from error
    if device.type != "cuda":
        raise ProbeError(f"gpu={gpu!r} is not a CUDA device")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ProbeError(f"gpu={gpu!r}: torch sees {torch.cuda.device_count()} GPU(s)")
    return torch.device("cuda", index)


def _power_sensor(device: torch.device) -> Sensor:
    found = detect([address_of(device)], components=("gpu",))
    if not len(found):
        raise ProbeError(f"a probe needs NVML to read the GPU's power: {'; '.join(found.notes)}")
    return found[0]  # type: ignore[no-any-return]
