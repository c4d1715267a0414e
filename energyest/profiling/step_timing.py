"""Time and meter real training steps of a copy of a model on a device."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from energyest.display import in_a_line
from energyest.errors import ProbeError
from energyest.measure.recorder import Recorder
from energyest.measure.sensors.base import Sensor
from energyest.profiling.batches import converted, map_tensors, tensors_in
from energyest.profiling.copies.model_copy import (
    bare_copy,
    generators_restored,
    in_eval_mode,
    is_in_half,
    train_as,
)
from energyest.profiling.tf32 import tf32
from energyest.profiling.training_step import Loss, Step, Take, possible_steps

# Warm-up: blocks of steps until two consecutive blocks agree, within these time limits.
_BLOCK = 5
_BLOCK_S = 0.05
_WARM_S = 0.5
_AGREE = 0.1
_LONGEST_WARM_S = 2.0
# Energy counters are updated every 0.1 s: over this time, they are off by a per cent or two.
_TIMED_S = 1.2
_ENOUGH = 0.8  # of this time, if steps turn out to be quicker than expected
_LONGEST_S = 5.0
_FEWEST = 3
# Steps continue this long after the timed ones, so that the last counter update is like the others.
_AFTER_S = 0.25
_RATE = 1e-4
_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
_OUT_OF_MEMORY = torch.cuda.OutOfMemoryError


class StepCost(NamedTuple):
    """The cost of training steps.

    Attributes:
        steps: number of steps timed.
        step_s: mean duration of a step in seconds.
        power_W: mean power of the devices read, in watts.
    """

    steps: int
    step_s: float
    power_W: float


def measure_steps(
    model: nn.Module,
    batch: Any,
    device: torch.device,
    sensors: Sequence[Sensor],
    *,
    steps: int,
    precision: str,
    optimizer: str,
    loss: Loss | None = None,
) -> StepCost:
    """Train a copy of a model for some steps, and measure them.

    The model, the states of random generators and torch's settings are left unchanged.

    Args:
        model: the model, on any device.
        batch: a batch with values, on any device.
        device: where to train: a GPU, or the CPU.
        sensors: sensors to read during the steps, of GPUs only; the caller closes them.
        steps: the least number of steps to time, unless they take longer than 5 s.
        precision: "fp32", "tf32", "bf16" or "fp16".
        optimizer: one of `energyest.records.workload.OPTIMIZERS`.
        loss: as for `describe_workload`.

    Raises:
        ProbeError: no step works (the message gives the reasons), or power could not be read.
        torch.OutOfMemoryError: the device's memory does not suffice.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # such as Lightning's, about a step without a Trainer
        stack.enter_context(generators_restored())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if precision in ("fp32", "tf32"):
            stack.enter_context(tf32(precision == "tf32"))
        training = [module.training for module in model.modules()]
        stack.enter_context(in_eval_mode(model))
        copy = _copy(model, device, training)
        trainee = _Trainee(copy, batch, device, precision, optimizer)
        _find_step(trainee, list(possible_steps(model, batch, loss)))
        recorder = Recorder(sensors)
        stack.callback(recorder.stop)
        recorder.start()
        expected_s = _warm_up(trainee)
        count = timed_steps(steps, expected_s)
        recorder.start_epoch()
        spent_s = trainee.train(count)
        while spent_s < _ENOUGH * _TIMED_S:  # the warm-up was slower, as on a busy machine
            more = max(timed_steps(steps, spent_s / count) - count, 1)
            spent_s += trainee.train(more)
            count += more
        recorder.end_epoch()
        trainee.train(min(math.ceil(_AFTER_S / expected_s), count))
    row = recorder.trace(readings=False)
    step_s = float(row.column("duration_s")[0]) / count
    power_W = float(row.column("gpu_energy_J")[0]) / (step_s * count)
    if not power_W > 0:
        raise ProbeError("the power of the GPU could not be read during the steps")
    return StepCost(count, step_s, power_W)


def timed_steps(steps: int, expected_s: float) -> int:
    """The number of steps to time: enough for the power readings, within the time limit."""
    enough = max(steps, math.ceil(_TIMED_S / expected_s))
    return min(enough, max(_FEWEST, int(_LONGEST_S / expected_s)))


class _Trainee:
    """A copy of a model that trains on one batch, copied from the host at each step."""

    def __init__(
        self, model: nn.Module, batch: Any, device: torch.device, precision: str, optimizer: str
    ) -> None:
        self.model, self.device = model, device
        if is_in_half(model):  # loaders yield single precision
            formats = (p.dtype for p in model.parameters() if p.is_floating_point())
            batch = converted(batch, next(f for f in formats if f.itemsize == 2))
        self.batch = map_tensors(batch, lambda tensor: _on_host(tensor, device))
        self.mixed = _MIXED.get(precision)
        self.optimizer = _optimizer(optimizer, model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.take: Take | None = None

    def train(self, steps: int) -> float:
        """Train for some steps; return the seconds until the device has completed them."""
        began_s = time.monotonic()
        for _ in range(steps):
            self._step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.monotonic() - began_s

    def _step(self) -> None:
        assert self.take is not None
        inputs = map_tensors(self.batch, lambda tensor: tensor.to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, self.mixed, enabled=self.mixed is not None):
            loss = self.take(self.model, inputs)
        if self.optimizer is None:
            return
        if loss is None:  # the step ran the backward pass itself
            self.optimizer.step()
        elif loss.requires_grad:
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()


def _find_step(trainee: _Trainee, candidates: Sequence[Step]) -> None:
    """Find the first of the possible steps that works."""
    reasons: list[str] = []
    for candidate in candidates:
        trainee.take = candidate.take
        try:
            trainee.train(1)
        except _OUT_OF_MEMORY:
            raise
        except Exception as error:  # the user's code runs here and may raise anything
            reasons.append(in_a_line(error))
        else:
            return
    reason = "; ".join(dict.fromkeys(reasons)) or "the batch holds no input for its forward"
    raise ProbeError(f"no training step of {type(trainee.model).__name__} works: {reason}")


def _warm_up(trainee: _Trainee) -> float:
    """Train until the step time is stable; return the seconds of a step."""
    began_s = time.monotonic()
    last_s, size = math.nan, _BLOCK
    while True:
        step_s = trainee.train(size) / size
        spent_s = time.monotonic() - began_s
        agree = abs(step_s - last_s) <= _AGREE * step_s
        if spent_s > _LONGEST_WARM_S or (agree and spent_s > _WARM_S):
            return max(step_s, 1e-6)
        last_s, size = step_s, max(_BLOCK, math.ceil(_BLOCK_S / max(step_s, 1e-6)))


def _copy(model: nn.Module, device: torch.device, training: Sequence[bool]) -> nn.Module:
    """A copy of the model on a device, with the original's values."""
    copies: dict[int, Any] = {}
    duplicate = bare_copy(model, device, copies)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            copy = copies.get(id(tensor))
            if isinstance(copy, Tensor):
                copy.data = tensor.detach().to(device, copy=True)
    for module in duplicate.modules():
        if isinstance(module, nn.RNNBase):
            # Into contiguous memory, as `module.to` does; otherwise cuDNN copies them at each step.
            module.flatten_parameters()
    train_as(duplicate, training)
    return duplicate


def _on_host(tensor: Tensor, device: torch.device) -> Tensor:
    host = tensor.detach().to("cpu", copy=True)
    return host.pin_memory() if device.type == "cuda" else host


def has_values(model: nn.Module, batch: Any) -> bool:
    """Whether all tensors have values; those on the device "meta" have only shapes."""
    tensors = [*model.parameters(), *model.buffers(), *tensors_in(batch)]
    return not any(tensor.is_meta for tensor in tensors)


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer | None:
    """An optimizer by name; if torch lacks it, one of torch's with the same amount of state."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return None
    kinds: Any = torch.optim
    if name in ("sgd", "sgd_momentum", "momentum", "nesterov", "lion"):
        momentum = 0.0 if name == "sgd" else 0.9
        return torch.optim.SGD(parameters, _RATE, momentum, nesterov=name == "nesterov")
    classes = {
        "rmsprop": kinds.RMSprop,
        "adagrad": kinds.Adagrad,
        "adafactor": getattr(kinds, "Adafactor", kinds.Adagrad),
        "adam": kinds.Adam,
        "adamw": kinds.AdamW,
        "nadam": kinds.NAdam,
        "radam": kinds.RAdam,
        "adamax": kinds.Adamax,
        "adadelta": kinds.Adadelta,
        "lamb": kinds.AdamW,
    }
    made: torch.optim.Optimizer = classes[name](parameters, lr=_RATE)
    return made
