"""Describe a model's training step as a `Workload`, without a GPU and with little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from energyest.checks import check_count
from energyest.display import in_a_line
from energyest.errors import WorkloadError
from energyest.measure.signals import let_handlers_raise
from energyest.profiling.batches import converted, tensors_in, unshared
from energyest.profiling.copies.lightning_trainer import is_lightning
from energyest.profiling.copies.model_copy import half_kept, is_in_half, plain_dtype, unwrapped
from energyest.profiling.execution import is_compiled, layout_of
from energyest.profiling.operations import TRAINING_TO_FORWARD, FlopCount, WatchedStep, bytes_of
from energyest.profiling.samples import batch_size, is_contested, shape_of
from energyest.profiling.sparse_tensors import is_sparse
from energyest.profiling.training_step import Loss, Step, possible_steps
from energyest.profiling.walk.walk import NO_GRADIENT, ONE_AT_A_TIME, Walk, walk_through
from energyest.records.workload import (
    Operation,
    Workload,
    check_optimizer_name,
    check_precision_name,
)

# The most shapes of a batch that are named.
_MOST_SHAPES = 5
# Bytes of a number in single precision, as which larger ones are taken.
_SINGLE_bytes = 4
_TWO_BYTES = ("bf16", "fp16")
# The share of the arithmetic from which on another format is worth a note.
_MUCH = 0.1


def describe_workload(
    model: nn.Module,
    example_batch: Any,
    *,
    precision: str = "fp32",
    optimizer: str = "sgd",
    loss: Loss | None = None,
    samples: int | None = None,
) -> Workload:
    """Walk through one training step of a model and describe what it demands of a GPU.

    Tensors have shapes but no values, so a model of any size takes seconds and little memory, even
    one built under `torch.device("meta")`. If its forward looks at values (`if mask.all()`), the
    values of the batch and of constants are used and others are assumed; the notes say where. A
    model that does not run on shapes at all is run on the CPU, if it is small. The model itself is
    left unchanged. Parameters that are trainable now count as trained.

    Args:
        model: any module. For a LightningModule, its `training_step` is walked through, with a
            stand-in for its Trainer.
        example_batch: a batch as the data loader yields it, of the size to train with: a tensor, a
            mapping, a tuple or list of inputs and targets, an object, or a graph. Values do not
            matter, except for masks, lengths and others that forward looks at. If the weights are
            in a two-byte format, so are its floating-point tensors, whatever their own format.
        precision: "fp32", "tf32" (matrix products and convolutions in TensorFloat-32), or "bf16"
            or "fp16" with automatic mixed precision. For a model whose weights are in a two-byte
            format, that format is used instead.
        optimizer: "sgd", "sgd_momentum", "adamw", …: one of `records.workload.OPTIMIZERS`.
        loss: called with the model's output and the batch's target (the part that forward does not
            take; without a target, with the output alone). By default a LightningModule's own loss,
            an output's `.loss`, or for each output a loss that fits the shapes: cross-entropy,
            squared error, else its sum.
        samples: number of samples in the batch, if its structure does not show it.

    Returns:
        The workload; its `notes` say what could not be counted. Its `layout` is the layout of the
        model's weights or the batch's images; it is `compiled` if the model or a part of it is.

    Raises:
        WorkloadError: the model cannot be walked through (the message gives the reasons) or is
            sharded; a loop's end depends on a value; the batch holds no tensors, or does not show
            how many samples; the precision or optimizer is unknown.

    Examples:
        >>> import torch
        >>> from energyest import describe_workload
        >>> workload = describe_workload(torch.nn.Linear(8, 4), torch.randn(16, 8))
        >>> workload.batch_size, workload.forward_flops_per_sample
        (16, 64.0)
    """
    asked = check_precision_name(precision)
    optimizer = check_optimizer_name(optimizer)
    if not isinstance(model, nn.Module):
        raise WorkloadError(f"model is a {type(model).__name__}: it must be a torch.nn.Module")
    if loss is not None and not callable(loss):
        raise WorkloadError(f"loss is a {type(loss).__name__}: it must be callable")
    compiled = is_compiled(model)
    model, around = unwrapped(model)
    if any(is_lazy(p) for p in model.parameters()):
        raise WorkloadError(
            f"{type(model).__name__} has parameters without a shape yet: run it once on a batch"
        )
    samples, on_size = _samples_in(example_batch, samples)
    with ONE_AT_A_TIME:
        steps = list(possible_steps(model, example_batch, loss))
        in_half = None
        if is_in_half(model):
            in_half = _walk_in_half(model, example_batch, precision, steps)
        if in_half is not None:
            # Such weights are multiplied in their own format, whatever `precision` is.
            walk, example_batch = in_half
            precision = "fp16" if torch.float16 in {p.dtype for p in model.parameters()} else "bf16"
        else:
            walk = walk_through(model, example_batch, precision, steps)
        workload = workload_of(walk.step, model, example_batch, samples, precision, optimizer)
    notes = (*workload.notes, *around, *on_size, *walk.notes)
    workload = replace(workload, compiled=compiled or workload.compiled, notes=notes)
    if in_half is not None:
        return _in_tf32(workload) if asked == "tf32" else workload
    notes = (*notes, *_notes_on_types(model))
    return replace(workload, parameter_bytes=4, frozen_parameter_bytes=None, notes=notes)


def _samples_in(batch: Any, samples: int | None) -> tuple[int, tuple[str, ...]]:
    """The number of samples in an example batch, and a note if some parts contradict it.

    Args:
        batch: the batch.
        samples: the number, if the user has given it.
    """
    kind = type(batch).__name__
    shapes = [shape_of(tensor) or () for tensor in tensors_in(batch)]
    if not shapes:
        raise WorkloadError(
            f"no tensors were found in example_batch ({kind}): give a batch as for training"
        )
    if samples is not None:
        return check_count(samples, "samples", WorkloadError), ()
    found = batch_size(batch)
    named = ", ".join(str(list(shape)) for shape in shapes[:_MOST_SHAPES])
    named += ", …" if len(shapes) > _MOST_SHAPES else ""
    if found is None:
        raise WorkloadError(
            f"the number of samples in example_batch ({kind} with tensors of the shapes {named}) is"
            " not clear: pass samples="
        )
    if not found:
        raise WorkloadError("example_batch holds no samples: give a batch as for training")
    if is_contested(batch):
        return found, (
            f"the batch, with tensors of the shapes {named}, is taken as {found:,} samples: if it"
            " has another number, pass samples=",
        )
    return found, ()


def _walk_in_half(
    model: nn.Module, batch: Any, precision: str, steps: list[Step]
) -> tuple[Walk, Any] | None:
    """A walk with weights and batch in a two-byte format, and that batch; None if it fails.

    The batch is converted, as Lightning does for "bf16-true": loaders yield single precision. If
    some weights are in single precision, such as the adapters of LoRA, their products are in that
    precision too, unless mixed precision is asked for.
    """
    formats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    with half_kept():
        batch = converted(batch, torch.bfloat16)
        mixed = precision if len(formats) > 1 else "fp32"
        try:
            return walk_through(model, batch, mixed, steps), batch
        except WorkloadError:
            return None


def count_flops(model: nn.Module, batch: Any, samples: int | None = None) -> FlopCount:
    """Count the FLOPs of a model's forward pass for one sample, and what the backward pass adds.

    For a LightningModule without a forward of its own, the forward pass is its `training_step`.
    What the backward pass adds depends on which parameters are trainable now. The model is walked
    through as by `describe_workload`, and left unchanged.

    Args:
        model: any module; a LightningModule's `example_input_array` is preferred to the batch.
        batch: a batch as the data loader yields it: a tensor, a mapping, or a tuple or list whose
            first item is the input unless all items fit.
        samples: number of samples in the batch, if its structure does not show it.

    Returns:
        The count, or the reason why there is none. Never raises.
    """
    try:
        model, around = unwrapped(model)
        example = getattr(model, "example_input_array", None)
        inputs = batch if example is None else example
        steps = list(possible_steps(model, inputs, forward_first=True))
        with ONE_AT_A_TIME:
            walk = walk_through(model, unshared(inputs), "fp32", steps, needs_gradients=False)
        counted = batch_size(inputs) if samples is None or example is not None else samples
    except Exception as error:  # it runs the user's code: anything can happen
        let_handlers_raise(error)
        return FlopCount(None, in_a_line(error))
    if not counted:
        return FlopCount(None, "the number of samples in the batch is not known")
    count = replace(walk.step.flop_count(counted), note="; ".join((*around, *walk.notes)))
    if not walk.has_gradients:
        note = f"training is taken as {TRAINING_TO_FORWARD:.0f} times the forward pass"
        count = replace(
            count,
            note=f"{note}: {NO_GRADIENT}",
            training_to_forward=TRAINING_TO_FORWARD,
        )
    return count


def workload_of(
    step: WatchedStep, model: nn.Module, batch: Any, samples: int, precision: str, optimizer: str
) -> Workload:
    """Make a workload from one watched step.

    Args:
        step: the step as watched.
        model: the model trained.
        batch: the batch of the step.
        samples: number of samples in the batch.
        precision: as for `describe_workload`.
        optimizer: as for `describe_workload`.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    layout = layout_of(model, batch)
    parameter_bytes, frozen_bytes = _bytes_of_a_parameter(model)
    operations = tuple(_without_usual(o, layout, precision) for o in step.operations)
    return Workload(
        model=type(model).__name__,
        batch_size=samples,
        precision=precision,
        optimizer=optimizer,
        parameters=sum(p.numel() for p in model.parameters()),
        trainable_parameters=sum(p.numel() for p in trainable) - step.sparse_parameters,
        parameter_tensors=len(trainable),
        forward_flops_per_sample=step.forward_flops / samples,
        operations=operations,
        forward_calls=step.forward_calls,
        backward_calls=step.backward_calls,
        module_calls=step.module_calls,
        saved_bytes=step.saved_bytes,
        input_bytes=float(sum(map(_bytes_to_copy, tensors_in(batch)))),
        loop="lightning" if is_lightning(model) else "plain",
        layout=layout,
        parameter_bytes=parameter_bytes,
        frozen_parameter_bytes=frozen_bytes,
        compiled=any(is_compiled(part) for part in model.modules()),
        notes=(*_notes_on_counts(step, model), *_notes_on_formats(operations, model, precision)),
    )


def _without_usual(operation: Operation, layout: str, precision: str) -> Operation:
    """An operation without a layout and precision that are those of its workload."""
    in_half, is_half = (kind in _TWO_BYTES for kind in (operation.precision, precision))
    if in_half == is_half:  # formats of one size are walked through, and set, as one
        operation = replace(operation, precision="")
    return replace(operation, layout="") if operation.layout == layout else operation


def _in_tf32(workload: Workload) -> Workload:
    """The workload with TensorFloat-32 for what is in single precision."""
    operations = (
        replace(o, precision="tf32") if o.precision == "fp32" else o for o in workload.operations
    )
    return replace(workload, operations=tuple(operations))


def _bytes_of_a_parameter(model: nn.Module) -> tuple[int, float | None]:
    """Bytes of a trainable parameter, and those of a frozen one if they differ."""
    total: dict[bool, float] = {True: 0.0, False: 0.0}
    count = {True: 0, False: 0}
    for parameter in model.parameters():
        is_trained = parameter.requires_grad
        total[is_trained] += parameter.numel() * min(parameter.element_size(), _SINGLE_bytes)
        count[is_trained] += parameter.numel()
    each = {kind: total[kind] / count[kind] for kind in count if count[kind]}
    trained = each.get(True, each.get(False, _SINGLE_bytes))
    trained_bytes = 2 if trained < (2 + _SINGLE_bytes) / 2 else _SINGLE_bytes
    frozen_bytes = each.get(False, trained_bytes)
    return trained_bytes, None if frozen_bytes == trained_bytes else frozen_bytes


def _bytes_to_copy(tensor: Tensor) -> int:
    """Bytes that a batch's tensor has on the GPU: where an expanded one takes all of them."""
    return bytes_of(tensor) if is_sparse(tensor) else tensor.numel() * tensor.element_size()


def _notes_on_counts(step: WatchedStep, model: nn.Module) -> Iterator[str]:
    parameters = list(model.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        yield "no parameter is trainable: the step trains nothing"
    if step.uncounted:
        yield f"the arithmetic of {', '.join(step.uncounted)} is not counted"
    if step.sparse_parameters:
        yield (
            f"{step.sparse_parameters:,} parameters have sparse gradients: the optimizer's work"
            " and state for them, and their exchange between GPUs, are not counted"
        )


def _notes_on_formats(
    operations: Sequence[Operation], model: nn.Module, precision: str
) -> Iterator[str]:
    """Whether much of a training in mixed precision is computed in single precision.

    Where the weights are in half precision, other formats are chosen by those who wrote the model.
    """
    if precision not in _TWO_BYTES or is_in_half(model):
        return
    in_all = sum(o.flops * o.count for o in operations)
    found = [o for o in operations if o.precision in ("fp32", "tf32")]
    share = sum(o.flops * o.count for o in found) / in_all if found else 0.0
    if share > _MUCH:
        names = ", ".join(sorted({o.name for o in found}))
        formats = " and ".join(sorted({o.precision for o in found}))
        yield f"{share:.0%} of the arithmetic ({names}) is in {formats}, not in {precision}"


def _notes_on_types(model: nn.Module) -> Iterator[str]:
    types = {str(p.dtype) for p in model.parameters() if plain_dtype(p) != p.dtype}
    if types:
        yield f"parameters of {', '.join(sorted(types))} are taken as torch.float32"
