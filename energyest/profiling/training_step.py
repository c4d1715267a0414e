"""How a training step gets from a model and a batch to the loss.

The same rules apply wherever a step runs on a copy, to describe or to measure it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from energyest.profiling.batches import input_candidates, tensors_in
from energyest.profiling.copies.held_objects import SHARED
from energyest.profiling.copies.lightning_trainer import attach_trainer, is_lightning

Loss = Callable[..., Any]
# From a copy of a model and a batch to the loss; to None if the backward pass has run already, as
# in Lightning's manual optimization.
Take = Callable[[nn.Module, Any], Tensor | None]


class Step(NamedTuple):
    """A possible training step, by the method of the model that it calls."""

    method: str  # "training_step" or "forward"
    take: Take


def possible_steps(
    model: nn.Module, batch: Any, loss: Loss | None = None, *, forward_first: bool = False
) -> Iterator[Step]:
    """Possible training steps, most likely first.

    Args:
        model: the model; for a LightningModule, its `training_step` is used.
        batch: a batch as the data loader yields it.
        loss: called with the model's output and the batch's target (the part that forward does not
            take; without a target, with the output alone); None for the model's own loss or one
            that fits the shapes.
        forward_first: try the forward pass before `training_step`, because the latter may do more
            than compute, such as write to a log; skip `training_step` if it could write to shared
            data.
    """
    own = loss is None and callable(getattr(model, "training_step", None))
    if own and not forward_first:
        yield Step("training_step", _training_step)
    for index, _ in enumerate(input_candidates(model, batch)):
        yield Step("forward", partial(_forward, loss=loss, index=index))
    if own and forward_first and not holds_data(model):
        yield Step("training_step", _training_step)


def attempts(steps: Sequence[Step], may_compute: bool) -> Iterator[tuple[Step, bool]]:
    """Each step and whether to run it with values; all ways of one method before another."""
    for method in dict.fromkeys(step.method for step in steps):
        for with_values in (False, True) if may_compute else (False,):
            yield from ((step, with_values) for step in steps if step.method == method)


def notes_on_methods(step: Step, failed: Mapping[str, str]) -> Iterator[str]:
    """A note if a step that works stands in for a `training_step` that failed.

    Args:
        step: the step that works.
        failed: methods that were tried before, and the reasons why they failed.
    """
    if step.method != "training_step" and "training_step" in failed:
        yield (
            f"training_step failed ({failed['training_step']}): its {step.method} method was"
            " described instead"
        )


def holds_data(model: nn.Module) -> bool:
    """Whether a copy of the model would share data sets or loaders with it."""
    held = (value for module in model.modules() for value in vars(module).values())
    return any(isinstance(value, SHARED) for value in held)


def _training_step(model: nn.Module, batch: Any) -> Tensor | None:
    module: Any = model
    if is_lightning(model):
        attach_trainer(model)
        batch = module.on_after_batch_transfer(batch, 0)
    returned = module.training_step(*_arguments(module.training_step, batch))
    return _loss_in(returned) if getattr(module, "automatic_optimization", True) else None


def _arguments(training_step: Callable[..., Any], batch: Any) -> list[Any]:
    """What Lightning passes to a `training_step`: the batch, and indices if it takes them."""
    kinds = inspect.Parameter
    parameters = list(inspect.signature(training_step).parameters.values())
    if [p.name for p in parameters] == ["dataloader_iter"]:
        return [iter([(batch, 0, 0)])]
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters):
        return [batch, 0]
    names = [p.name for p in parameters if p.kind not in (kinds.KEYWORD_ONLY, kinds.VAR_KEYWORD)]
    return [batch, *(0 for name in names[1:3] if name in (names[1], "dataloader_idx"))]


def _forward(model: nn.Module, batch: Any, loss: Loss | None, index: int) -> Tensor:
    inputs, target, includes_target = list(input_candidates(model, batch))[index]
    output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if loss is not None:
        by_place = isinstance(batch, list | tuple)
        has_two = target is not None and (by_place or _takes_two(loss))
        return _loss_in(loss(output, target) if has_two else loss(output))
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    losses = [t for t in tensors_in(output) if t.ndim == 0 and t.requires_grad]
    if includes_target and losses:  # as of language models that return (logits, loss)
        return torch.stack(losses).sum()
    return _default_loss(output, target)


def _takes_two(loss: Loss) -> bool:
    """Whether a loss takes an output and a target, judged by its signature."""
    try:
        inspect.signature(loss).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # it has none
        pass
    return True


def _loss_in(value: Any) -> Tensor:
    """The loss returned by a step: a tensor, or the "loss" of a mapping."""
    if isinstance(value, Mapping):
        value = value["loss"]
    if not isinstance(value, Tensor):
        raise TypeError(f"the training step returned a {type(value).__name__}, not a loss")
    return value if value.ndim == 0 else value.sum()


def _default_loss(output: Any, target: Any) -> Tensor:
    """The sum of what a usual loss makes of each output that a gradient can flow through."""
    floating = [t for t in tensors_in(output) if t.is_floating_point()]
    if not floating:
        raise TypeError(
            f"the model returned a {type(output).__name__} without floating-point tensors"
        )
    differentiable = [t for t in floating if t.requires_grad] or floating
    fitting = [_fitting_loss(t, target) for t in differentiable]
    if len(fitting) == 1 and fitting[0] is not None:
        return fitting[0]
    terms = zip(differentiable, fitting, strict=True)
    return torch.stack([t.float().sum() if own is None else own.float() for t, own in terms]).sum()


def _fitting_loss(output: Tensor, target: Any) -> Tensor | None:
    """The loss for which the shapes of an output and a target are made; None if there is none."""
    if not isinstance(target, Tensor):
        return None
    functions = torch.nn.functional
    classes = not target.is_floating_point()
    if classes and target.shape == output.shape:  # of two classes each, as 0 or 1
        return functions.binary_cross_entropy_with_logits(output, target.to(output.dtype))
    if classes and output.ndim > 1 and target.shape == (output.shape[0], *output.shape[2:]):
        return functions.cross_entropy(output, target.long())
    if classes and output.ndim > 1 and target.numel() == output.shape[:-1].numel():
        return functions.cross_entropy(output.flatten(0, -2), target.flatten().long())
    if target.shape == output.shape:
        return functions.mse_loss(output, target.to(output.dtype))
    return None
