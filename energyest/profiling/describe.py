"""A model and a batch to a `Workload`: what one training step does, without a GPU or memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy

from energyest.display import in_a_line
from energyest.errors import WorkloadError
from energyest.measure.signals import let_handlers_raise
from energyest.profiling.batches import map_tensors, tensors_in, unshared
from energyest.profiling.fake_tensors import ShapesAlone
from energyest.profiling.fused_layers import FusedLayers
from energyest.profiling.model_copy import (
    bare_copy,
    generators_restored,
    in_eval_mode,
    plain_dtype,
    plain_operators,
    train_as,
)
from energyest.profiling.operations import (
    TRAINING_TO_FORWARD,
    FlopCount,
    OperationLog,
    WatchedStep,
)
from energyest.profiling.samples import batch_size
from energyest.profiling.training_step import Loss, Step, is_lightning, possible_steps
from energyest.records.workload import Workload, check_optimizer_name, check_precision_name

# A forward that looks at values is run with values, on the CPU; beyond this size that takes long.
_MOST_PARAMETERS_WITH_VALUES = 200_000_000
_META = torch.device("meta")
_NO_GRADIENT = "the loss depends on no trainable parameter"


def describe_workload(
    model: nn.Module,
    example_batch: Any,
    *,
    precision: str = "fp32",
    optimizer: str = "sgd",
    loss: Loss | None = None,
) -> Workload:
    """Walk through one training step of a model and write down what it asks of a GPU.

    Nothing is computed: tensors have shapes alone, so a model of any size takes seconds and no
    memory to speak of, also one built under `torch.device("meta")`. A model whose forward looks at
    values (`if x.sum() > 0`) is run on the CPU instead. The model itself is left alone. What is
    trainable now is what counts as trained.

    Args:
        model: any module. A LightningModule is walked through its `training_step`.
        example_batch: a batch as the data loader yields it, of the size to train with: a tensor, a
            mapping, or a tuple or list of inputs and targets. Values do not matter.
        precision: "fp32", "tf32" (matrix products and convolutions in TensorFloat-32), or "bf16"
            or "fp16" with automatic mixed precision.
        optimizer: "sgd", "sgd_momentum", "adamw", …: one of `records.workload.OPTIMIZERS`.
        loss: called with the model's output and the batch's target (its second item; without one,
            with the output alone). By default a LightningModule's own, an output's `.loss`, or
            what fits the shapes: cross-entropy, squared error, else the sum of the output.

    Returns:
        The workload; its `notes` say what could not be counted.

    Raises:
        WorkloadError: the model cannot be walked through, with the reasons; the batch shows no
            size; the precision or optimizer is unknown.
    """
    check_precision_name(precision)
    optimizer = check_optimizer_name(optimizer)
    if not isinstance(model, nn.Module):
        raise WorkloadError(f"model is a {type(model).__name__}: it must be a torch.nn.Module")
    if loss is not None and not callable(loss):
        raise WorkloadError(f"loss is a {type(loss).__name__}: it must be callable")
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if any(is_lazy(p) for p in model.parameters()):
        raise WorkloadError(
            f"{type(model).__name__} has parameters without a shape yet: run it once on a batch"
        )
    if not batch_size(example_batch) or next(tensors_in(example_batch), None) is None:
        raise WorkloadError("example_batch holds no sample: give a batch as for training")
    walk = _walk(model, example_batch, precision, list(possible_steps(model, example_batch, loss)))
    samples = batch_size(example_batch) or 1
    workload = workload_of(walk.step, model, example_batch, samples, precision, optimizer)
    return replace(workload, notes=(*workload.notes, *_notes_on_types(model)))


def count_flops(model: nn.Module, batch: Any, samples: int | None = None) -> FlopCount:
    """Count the FLOPs of `model`'s forward pass for one sample of a batch, and what training adds.

    Where a LightningModule has no forward of its own, the forward pass is its `training_step`.
    What the backward pass adds depends on which parameters are trainable now. The model is walked
    through as by `describe_workload`, and left alone.

    Args:
        model: any module; a LightningModule's `example_input_array` is preferred to the batch.
        batch: a batch as the data loader yields it: a tensor, a mapping, or a tuple or list, of
            which the first item is the input unless all items fit.
        samples: in the batch, where its build does not show it.

    Returns:
        The count, or the reason why there is none. Nothing is raised.
    """
    model = getattr(model, "_orig_mod", model)
    example = getattr(model, "example_input_array", None)
    inputs = batch if example is None else example
    try:
        steps = list(possible_steps(model, inputs, forward_first=True))
        walk = _walk(model, unshared(inputs), "fp32", steps, needs_gradients=False)
    except Exception as error:  # it runs the user's code: anything can happen
        let_handlers_raise(error)
        return FlopCount(None, in_a_line(error))
    counted = batch_size(inputs) if samples is None or example is not None else samples
    count = walk.step.flop_count(counted or 1)
    if not walk.has_gradients:
        note = f"training is taken as {TRAINING_TO_FORWARD:.0f} times the forward pass"
        count = replace(
            count,
            note=f"{note}: {_NO_GRADIENT}",
            training_to_forward=TRAINING_TO_FORWARD,
        )
    return count


def workload_of(
    step: WatchedStep, model: nn.Module, batch: Any, samples: int, precision: str, optimizer: str
) -> Workload:
    """What one step was seen to do, as a workload.

    Args:
        step: what was seen.
        model: what was trained.
        batch: the step's.
        samples: in the batch.
        precision: as of `describe_workload`.
        optimizer: likewise.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    names = ", ".join(step.uncounted)
    return Workload(
        model=type(model).__name__,
        batch_size=samples,
        precision=precision,
        optimizer=optimizer,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in trainable),
        parameter_tensors=len(trainable),
        forward_flops_per_sample=step.forward_flops / samples,
        operations=step.operations,
        forward_calls=step.forward_calls,
        backward_calls=step.backward_calls,
        module_calls=step.module_calls,
        saved_bytes=step.saved_bytes,
        input_bytes=float(sum(t.numel() * t.element_size() for t in tensors_in(batch))),
        loop="lightning" if is_lightning(model) else "plain",
        notes=(f"the arithmetic of {names} is not counted",) if names else (),
    )


def _notes_on_types(model: nn.Module) -> Iterator[str]:
    types = {str(p.dtype) for p in model.parameters() if plain_dtype(p) != p.dtype}
    if types:
        yield f"parameters of {', '.join(sorted(types))} are taken as torch.float32"


class _Walk:
    """One step of a copy, recorded."""

    def __init__(self, take: Step, precision: str, modules: nn.Module, inputs: Any) -> None:
        self.log = OperationLog()
        self.has_gradients = True
        self._module_calls = 0
        self._saved: dict[int, float] = {}
        for module in modules.modules():
            with suppress(Exception):  # a scripted module takes no hook
                module.register_forward_pre_hook(self._called)
        # Half-precision formats are of one size; the CPU's autocast knows this one best.
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision in ("bf16", "fp16"))
        keep = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        # Neither weights nor the batch: they are there anyway.
        held = [*modules.parameters(), *tensors_in(inputs)]
        # In the backward pass too: checkpointed layers are run there once more.
        with self.log, keep, FusedLayers(self.log):
            with mixed:
                end = take(modules, inputs)
            if end.requires_grad:
                # As `end.backward()`, which would put `FusedLayers` out of action.
                engine: Any = torch.autograd.Variable._execution_engine
                start = (torch.ones_like(end),)
                engine.run_backward(
                    (end,), start, False, False, (), allow_unreachable=True, accumulate_grad=True
                )
            elif any(parameter.requires_grad for parameter in modules.parameters()):
                self.has_gradients = False
        if self.log.failure is not None:
            raise self.log.failure
        own = {_place(tensor) for tensor in held if tensor.layout == torch.strided}
        saved = sum(size for place, size in self._saved.items() if place not in own)
        self.step = self.log.as_step(self._module_calls, saved)

    def _called(self, *_: Any) -> None:
        self._module_calls += 1

    def _keep(self, tensor: Tensor) -> Tensor:
        if self.log.phase == "backward":  # of a checkpointed layer, for a moment
            return tensor
        with suppress(NotImplementedError, RuntimeError):  # no storage, as of a sparse tensor
            self._saved[_place(tensor)] = float(tensor.untyped_storage().nbytes())
        return tensor


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _walk(
    model: nn.Module,
    batch: Any,
    precision: str,
    steps: list[Step],
    *,
    needs_gradients: bool = True,
) -> _Walk:
    """The first of the possible steps that can be walked through.

    Args:
        model: what is walked through, on a copy.
        batch: the batch.
        precision: as of `describe_workload`.
        steps: the possible steps.
        needs_gradients: refuse a step whose loss depends on nothing that is trained.
    """
    reasons: list[str] = []
    size = sum(p.numel() for p in model.parameters())
    has_values = not any(t.is_meta for t in [*model.parameters(), *tensors_in(batch)])
    may_compute = has_values and size <= _MOST_PARAMETERS_WITH_VALUES
    for with_values in (False, True) if may_compute else (False,):
        for take in steps:
            try:
                walk = _walk_copy(model, batch, precision, take, with_values)
            except Exception as error:  # it runs the user's code: anything can happen
                let_handlers_raise(error)
                reasons.append(in_a_line(error))
            else:
                if needs_gradients and not walk.has_gradients:
                    reasons.append(f"TypeError: {_NO_GRADIENT}")
                # Without a loss, norms alone will do.
                elif any(operation.flops for operation in walk.step.operations) or (
                    not needs_gradients and walk.step.forward_flops
                ):
                    return walk
                else:
                    reasons.append("no matrix product or convolution was found in the step")
    reason = "; ".join(dict.fromkeys(reasons)) or "no input for its forward is in the batch"
    raise WorkloadError(f"{type(model).__name__} could not be walked through: {reason}")


def _walk_copy(
    model: nn.Module, batch: Any, precision: str, take: Step, with_values: bool
) -> _Walk:
    shapes = None if with_values else ShapesAlone()
    training = [module.training for module in model.modules()]
    fused = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    # Wherever the caller builds tensors, in which precision, and whether or not with gradients.
    unmixed = torch.autocast("cpu", enabled=False)
    usual = (torch.device("cpu"), unmixed, torch.inference_mode(False), plain_operators())
    with ExitStack() as stack:
        for context in (*usual, fused, generators_restored(model), in_eval_mode(model)):
            stack.enter_context(context)
        if shapes is not None:
            stack.enter_context(shapes)
        duplicate = bare_copy(model, torch.device("cpu") if with_values else _META)
        if not with_values:
            _give_shapes(duplicate)
        train_as(duplicate, training)
        inputs = _like(batch, with_values)
        if shapes is not None:
            shapes.keeps_constants = True  # weights and batch are made, and without values
        with _gradients_withheld(model):
            return _Walk(take, precision, duplicate, inputs)


@contextmanager
def _gradients_withheld(model: nn.Module) -> Iterator[None]:
    """Keep gradients from the model: a function that its copy shares with it may call it."""
    # One of inference mode could not be given back what is taken from it, and gets no gradient.
    trainable = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _give_shapes(duplicate: nn.Module) -> None:
    """Tensors of a CPU without values, in place of meta tensors: mixed precision knows them."""
    made: dict[int, Tensor] = {}

    def shape_of(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            made[id(tensor)] = (
                nn.Parameter(empty, requires_grad=tensor.requires_grad)
                if isinstance(tensor, nn.Parameter)
                else empty
            )
        return made[id(tensor)]

    for module in duplicate.modules():
        for table in (module._parameters, module._buffers, vars(module)):
            values: Any = table
            for name, value in list(values.items()):
                if isinstance(value, Tensor) and value.is_meta:
                    values[name] = shape_of(value)


def _like(batch: Any, with_values: bool) -> Any:
    """A batch to run on: on the CPU, without values unless they are needed."""
    if with_values:
        return map_tensors(batch, lambda t: t.detach().to("cpu", plain_dtype(t), copy=True))
    return map_tensors(batch, lambda t: torch.empty(t.shape, dtype=plain_dtype(t)))
