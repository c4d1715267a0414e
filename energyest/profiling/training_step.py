"""How a training step gets from a model and a batch to the loss.

The same rules apply wherever a step runs on a copy, to describe or to measure it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from energyest.profiling.batches import input_candidates, tensors_in
from energyest.profiling.model_copy import SHARED

Loss = Callable[..., Any]
# From a model, or a copy of it, and a batch to the loss.
Step = Callable[[nn.Module, Any], Tensor]


def is_lightning(model: nn.Module) -> bool:
    """Whether the model is a LightningModule, of either namespace."""
    return any(kind.__name__ == "LightningModule" for kind in type(model).__mro__)


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
        yield _training_step
    for index, _ in enumerate(input_candidates(model, batch)):
        yield lambda copy, inputs, i=index: _forward(copy, inputs, loss, i)  # type: ignore[misc]
    if own and forward_first and not holds_data(model):
        yield _training_step


def holds_data(model: nn.Module) -> bool:
    """Whether a copy of the model would share data sets or loaders with it."""
    held = (value for module in model.modules() for value in vars(module).values())
    return any(isinstance(value, SHARED) for value in held)


def _training_step(model: nn.Module, batch: Any) -> Tensor:
    return _loss_in(model.training_step(batch, 0))  # type: ignore[operator]


def _forward(model: nn.Module, batch: Any, loss: Loss | None, index: int) -> Tensor:
    inputs, target = list(input_candidates(model, batch))[index]
    output = model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    if loss is not None:
        by_place = isinstance(batch, list | tuple)
        has_two = target is not None and (by_place or _takes_two(loss))
        return _loss_in(loss(output, target) if has_two else loss(output))
    own = getattr(output, "loss", None)
    return own if isinstance(own, Tensor) else _default_loss(output, target)


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
    floating = [t for t in tensors_in(output) if t.is_floating_point()]
    if not floating:
        raise TypeError(
            f"the model returned a {type(output).__name__} without floating-point tensors"
        )
    first = floating[0]
    if isinstance(target, Tensor):
        functions = torch.nn.functional
        classes = not target.is_floating_point()
        if classes and target.shape == first.shape:  # of two classes each, as 0 or 1
            return functions.binary_cross_entropy_with_logits(first, target.to(first.dtype))
        if classes and first.ndim > 1 and target.shape == (first.shape[0], *first.shape[2:]):
            return functions.cross_entropy(first, target.long())
        if classes and first.ndim > 1 and target.shape == first.shape[:-1]:
            return functions.cross_entropy(first.flatten(0, -2), target.flatten().long())
        if target.shape == first.shape:
            return functions.mse_loss(first, target.to(first.dtype))
    return torch.stack([tensor.float().sum() for tensor in floating]).sum()
