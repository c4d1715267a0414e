"""Walk through one training step of a copy of a model, operation by operation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from energyest.display import in_a_line
from energyest.errors import WorkloadError
from energyest.measure.signals import let_handlers_raise
from energyest.profiling.batches import map_tensors, tensors_in
from energyest.profiling.copies.held_objects import held_by
from energyest.profiling.copies.lightning_trainer import run_backward
from energyest.profiling.copies.model_copy import (
    bare_copy,
    generators_restored,
    in_eval_mode,
    plain_operators,
    train_as,
)
from energyest.profiling.flop_rules import has_rule
from energyest.profiling.operations import OperationLog, work_of
from energyest.profiling.sparse_tensors import sparse_parameters
from energyest.profiling.training_step import Step, Take, attempts, notes_on_methods
from energyest.profiling.walk.allowances import allowances
from energyest.profiling.walk.fake_tensors import Origin, ShapesAlone
from energyest.profiling.walk.fused_layers import FusedLayers
from energyest.profiling.walk.given_values import (
    give_values,
    given_values,
    with_own_values,
    without_values,
)
from energyest.profiling.walk.notes import DRAWN, notes_on_hooks, notes_on_questions
from energyest.profiling.walk.seeds import seeded

# A step that cannot be run on shapes alone is run with values, on the CPU, if that takes seconds
# and little memory: within these numbers of parameters and FLOPs.
_MOST_PARAMETERS_WITH_VALUES = 50_000_000
_MOST_FLOPS_WITH_VALUES = 2e11
#: A walk changes settings of torch, and functions of its classes, for the whole process, and
#: withholds gradients from the model.
ONE_AT_A_TIME = threading.RLock()
NO_GRADIENT = "the loss depends on no trainable parameter"
_NO_PRODUCT = "no matrix product or convolution was found in the step"
_NO_TRACKING = "support saved tensor hooks"  # of torch.func
_HAS_NONE = (
    "there are only shapes, on the device meta: give a batch on the CPU, which shows lengths and"
    " masks, and build the model there, to run it with values if it has up to"
    f" {_MOST_PARAMETERS_WITH_VALUES / 1e6:.0f} million parameters"
)
_NEEDS_VALUES = (
    "it does not run on shapes alone, and only models of up to"
    f" {_MOST_PARAMETERS_WITH_VALUES / 1e6:.0f} million parameters are run with values, on the CPU:"
    " describe a smaller model of this kind"
)


class Walk:
    """The record of one step of a copy.

    Args:
        take: the step.
        precision: as for `describe_workload`.
        modules: the copy.
        inputs: the batch.
        shapes: the mode for tensors without values; None if all tensors have values, which limits
            the FLOPs.
        tracks_saved: count the memory that the forward pass keeps for the backward pass.

    Attributes:
        step: the recorded step.
        has_gradients: whether the loss depends on a trainable parameter.
        notes: what was assumed.
    """

    def __init__(
        self,
        take: Take,
        precision: str,
        modules: nn.Module,
        inputs: Any,
        shapes: ShapesAlone | None,
        *,
        tracks_saved: bool = True,
    ) -> None:
        self.log = OperationLog() if shapes else _BoundedLog(_MOST_FLOPS_WITH_VALUES)
        looked_at = shapes.looked_at if shapes else None
        self.has_gradients = True
        self.notes: tuple[str, ...] = ()
        self._module_calls = 0
        self._saved: dict[int, float] = {}
        for module in modules.modules():
            with suppress(Exception):  # a scripted module takes no hook
                module.register_forward_pre_hook(self._called)
        # Half-precision formats have the same size; the CPU's autocast supports this one best.
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision in ("bf16", "fp16"))
        keep: Any = nullcontext()
        if tracks_saved:
            keep = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        # Weights and batch do not count as saved: they exist anyway.
        held = [*modules.parameters(), *tensors_in(inputs)]
        # The backward pass too, because checkpointed layers run again there.
        with self.log, keep, FusedLayers(self.log, looked_at):
            with mixed:
                end = take(modules, inputs)
            if end is not None and end.requires_grad:
                run_backward(end)
            elif not self.log.calls["backward"] and any(
                parameter.requires_grad for parameter in modules.parameters()
            ):
                self.has_gradients = False
        if self.log.failure is not None:
            raise self.log.failure
        own = {_place(tensor) for tensor in held if tensor.layout == torch.strided}
        saved = sum(size for place, size in self._saved.items() if place not in own)
        step = self.log.as_step(self._module_calls, saved)
        self.step = replace(step, sparse_parameters=sparse_parameters(modules))

    @property
    def has_products(self) -> bool:
        """Whether the step has operations for a GPU's matrix units."""
        return any(operation.flops for operation in self.step.operations)

    def _called(self, *_: Any) -> None:
        self._module_calls += 1

    def _keep(self, tensor: Tensor) -> Tensor:
        if self.log.phase == "backward":  # a checkpointed layer's, kept only briefly
            return tensor
        with suppress(NotImplementedError, RuntimeError):  # no storage, as of a sparse tensor
            self._saved[_place(tensor)] = float(tensor.untyped_storage().nbytes())
        return tensor


class _BoundedLog(OperationLog):
    """Ends a step with too many FLOPs before they are computed."""

    def __init__(self, most_flops: float) -> None:
        super().__init__()
        self._most_flops = most_flops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if has_rule(func):
            with suppress(Exception):
                with FakeTensorMode(allow_non_fake_inputs=True):
                    out = func(*args, **(kwargs or {}))
                self._most_flops -= work_of(func, args, kwargs or {}, out)[1]
            if self._most_flops < 0:
                raise WorkloadError(
                    "the step does not run on shapes alone, and with values, on the CPU, it may"
                    f" have {_MOST_FLOPS_WITH_VALUES:.0e} FLOPs at most: describe it with a smaller"
                    " batch"
                )
        return super().__torch_dispatch__(func, types, args, kwargs)


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def walk_through(
    model: nn.Module,
    batch: Any,
    precision: str,
    steps: list[Step],
    *,
    needs_gradients: bool = True,
) -> Walk:
    """Walk through the first of the possible steps that works.

    Args:
        model: the model; a copy of it is walked through.
        batch: the batch.
        precision: as for `describe_workload`.
        steps: the possible steps.
        needs_gradients: refuse a step whose loss depends on no trainable parameter.

    Raises:
        WorkloadError: no step works; the message gives the reasons.
    """
    reasons: list[str] = []
    failed: dict[str, str] = {}  # by method, the first reason
    without_products: Walk | None = None
    size = sum(p.numel() for p in model.parameters())
    has_values = not any(t.is_meta for t in [*model.parameters(), *tensors_in(batch)])
    may_compute = has_values and size <= _MOST_PARAMETERS_WITH_VALUES
    for step, with_values in attempts(steps, may_compute):
        if without_products and with_values:
            continue
        walk_with = _walk_with_values if with_values else _walk_on_shapes
        try:
            walk = walk_with(model, batch, precision, step.take)
        except WorkloadError:  # other ways would fail too
            raise
        except Exception as error:  # the user's code runs here and may raise anything
            let_handlers_raise(error)
            reason = in_a_line(error)
        else:
            if needs_gradients and not walk.has_gradients:
                reason = f"TypeError: {NO_GRADIENT}"
            # Without a loss, norms alone suffice.
            elif walk.has_products or (not needs_gradients and walk.step.forward_flops):
                walk.notes += tuple(notes_on_methods(step, failed))
                return walk
            else:
                reason = _NO_PRODUCT
                is_training = needs_gradients and walk.step.backward_calls > 0
                without_products = without_products or (walk if is_training else None)
        reasons.append(reason)
        failed.setdefault(step.method, reason)
    if without_products:  # such as factors of a matrix, looked up and multiplied by element
        without_products.notes += (f"{_NO_PRODUCT}: memory traffic alone counts",)
        return without_products
    if has_values and not may_compute:
        reasons.append(_NEEDS_VALUES)
    elif not has_values:
        reasons.append(_HAS_NONE)
    reasons.extend(notes_on_hooks(model))
    reason = "; ".join(dict.fromkeys(reasons)) or "the batch holds no input for its forward"
    raise WorkloadError(f"{type(model).__name__} could not be walked through: {reason}")


def _walk_on_shapes(model: nn.Module, batch: Any, precision: str, take: Take) -> Walk:
    """A walk with assumed values for unknown ones; the assumption with the most FLOPs counts."""
    first_shapes = ShapesAlone(answer=True)
    first = _walk_copy(model, batch, precision, take, first_shapes)
    asked = first_shapes.questions
    if not any(origin >= Origin.RANDOM for origin, _ in asked):
        first.notes += tuple(notes_on_questions(asked))
        return first
    second_shapes = ShapesAlone(answer=False)
    walks = [first]
    try:
        walks.append(_walk_copy(model, batch, precision, take, second_shapes))
    except WorkloadError:  # a loop that does not end
        raise
    except Exception as error:  # such as an empty selection
        let_handlers_raise(error)
    walks.sort(key=lambda walk: walk.step.flops)
    most = walks[-1]
    flops = walks[0].step.flops, most.step.flops
    most.notes += tuple(notes_on_questions(asked + second_shapes.questions, flops))
    return most


def _walk_with_values(model: nn.Module, batch: Any, precision: str, take: Take) -> Walk:
    """A walk that computes with values, and with parameters of 0."""
    walk = _walk_copy(model, batch, precision, take, None)
    walk.notes += ("it was run with values and parameters of 0: it does not run on shapes alone",)
    return walk


def _walk_copy(
    model: nn.Module, batch: Any, precision: str, take: Take, shapes: ShapesAlone | None
) -> Walk:
    """A walk of a copy, on shapes or with values."""
    try:
        return _walk_once(model, batch, precision, take, shapes)
    except RuntimeError as error:
        if _NO_TRACKING not in str(error):
            raise
    again = ShapesAlone(answer=shapes.answer) if shapes else None
    walk = _walk_once(model, batch, precision, take, again, tracks_saved=False)
    if shapes and again:
        shapes.questions.update(again.questions)
    walk.notes += ("the memory of activations is not counted: torch.func does not show it",)
    return walk


def _walk_once(
    model: nn.Module,
    batch: Any,
    precision: str,
    take: Take,
    shapes: ShapesAlone | None,
    *,
    tracks_saved: bool = True,
) -> Walk:
    with ONE_AT_A_TIME:
        return _walk_alone(model, batch, precision, take, shapes, tracks_saved=tracks_saved)


def _walk_alone(
    model: nn.Module,
    batch: Any,
    precision: str,
    take: Take,
    shapes: ShapesAlone | None,
    *,
    tracks_saved: bool,
) -> Walk:
    training = [module.training for module in model.modules()]
    fused = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    # Independent of the caller's default device, precision, and gradient mode.
    unmixed = torch.autocast("cpu", enabled=False)
    usual = (torch.device("cpu"), unmixed, torch.inference_mode(False), plain_operators())
    kept = (fused, allowances(), generators_restored(model), in_eval_mode(model))
    with ExitStack() as stack:
        for context in (*usual, *kept):
            stack.enter_context(context)
        if shapes is None:
            duplicate = bare_copy(model, torch.device("cpu"))
            inputs = map_tensors(batch, with_own_values)
        else:
            held = held_by(model)
            given = given_values(model, held.tensors, batch)
            stack.enter_context(shapes)
            shape_of = partial(without_values, given=given)
            duplicate = bare_copy(model, torch.device("cpu"), held=held, copy_of=shape_of)
            inputs = map_tensors(batch, shape_of)
            give_values(shapes, batch, given)
            shapes.keeps_constants = True  # weights and batch now exist, without values
        train_as(duplicate, training)
        drawn = stack.enter_context(seeded(duplicate))
        with _gradients_withheld(model):
            walk = Walk(take, precision, duplicate, inputs, shapes, tracks_saved=tracks_saved)
        walk.notes += (*notes_on_hooks(model), *([DRAWN] if drawn() else []))
        return walk


@contextmanager
def _gradients_withheld(model: nn.Module) -> Iterator[None]:
    """Keep gradients from the model, because a function shared with its copy may call it."""
    # An inference tensor could not be restored, and gets no gradient anyway.
    trainable = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
