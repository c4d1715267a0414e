"""FLOPs of a model's forward pass, counted by fvcore, and what training adds, on copies of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn
from torch.nn.parameter import is_lazy

from energyest.measure.signals import let_handlers_raise
from energyest.profiling.batches import first_sample, input_candidates, tensors_in
from energyest.profiling.model_copy import bare_copy, generators_restored, in_eval_mode
from energyest.profiling.samples import batch_size
from energyest.profiling.training_flops import quiet, training_to_forward
from energyest.profiling.training_step import holds_data

# Where the backward pass cannot be counted: it computes gradients of inputs and of weights, each
# about as much as the forward pass. Kaplan et al., "Scaling laws for neural language models"
# (arXiv 2001.08361), section 2.1.
TRAINING_TO_FORWARD = 3.0
# fvcore traces on the CPU, one sample long; beyond this size that takes too long to wait for.
MOST_PARAMETERS = 1_000_000_000
# A backward pass that needs values writes gradients to the CPU's memory: 0.8 GB of them.
_MOST_WRITTEN = 200_000_000
_CPU = torch.device("cpu")
# Operations that fvcore counts in floating-point operations; all others it counts in
# multiply-adds, which are two.
_NOT_MULTIPLY_ADDS = {
    "adaptive_avg_pool2d",
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "grid_sampler",
    "upsample_bilinear2d",
    "upsample_nearest2d",
}


@dataclass(frozen=True)
class FlopCount:
    """The arithmetic of one forward pass.

    Attributes:
        per_sample: floating-point operations for one sample, a multiply and an add as two; None
            if they could not be counted.
        note: why not, or what was left out.
        uncounted: operations without a rule, and how often they occur; elementwise operations are
            among them.
        training_to_forward: FLOPs of forward and backward ÷ FLOPs of forward.
        is_training_counted: whether that was counted; else it is `TRAINING_TO_FORWARD`.
    """

    per_sample: float | None
    note: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    training_to_forward: float = TRAINING_TO_FORWARD
    is_training_counted: bool = False

    def training_flops(self, samples: float) -> float:
        """FLOPs of forward and backward for that many samples; NaN if not counted."""
        if self.per_sample is None:
            return math.nan
        return self.training_to_forward * self.per_sample * samples


def count_forward_flops(model: nn.Module, batch: Any, samples: int | None = None) -> FlopCount:
    """Count the FLOPs of `model`'s forward pass for one sample of a training batch.

    Where a LightningModule has no forward of its own, the forward pass is its `training_step`.
    What the backward pass adds depends on which parameters are trainable now.

    The model itself is left alone: copies of it run, with parameters of 0, in eval mode, and the
    states of the random generators are restored.

    Args:
        model: any module; a LightningModule's `example_input_array` is preferred to the batch.
        batch: a batch as the data loader yields it: a tensor, a mapping, or a tuple or list, of
            which the first item is the input unless all items fit.
        samples: in the batch; by default, its build shows it.

    Returns:
        The count, or the reason why there is none. Nothing is raised.
    """
    model = _uncompiled(model)
    if too_large := _too_large(model):
        return FlopCount(None, too_large)
    reasons = []
    for attempt in _attempts(model, batch, samples):
        try:
            with _left_alone(model):
                count = _count(model, attempt)
        except Exception as error:  # tracing runs the user's code: anything can happen
            let_handlers_raise(error)
            reasons.append(_in_a_line(error))
        else:
            return count if count.per_sample is None else _with_training(model, attempt, count)
    reason = "; ".join(dict.fromkeys(reasons)) or "no input for its forward is in the batch"
    return FlopCount(None, f"fvcore could not trace the model ({reason})")


def count_training_ratios(
    model: nn.Module, batch: Any, trainable: Sequence[Mapping[str, bool]] = ({},)
) -> list[float] | None:
    """FLOPs of forward and backward ÷ FLOPs of forward, if other parameters were trainable.

    So it is known before an unfreezing what it will cost. The model itself is left alone, as by
    `count_forward_flops`; the forward pass, which is the same for all choices, runs once.

    Args:
        model: as of `count_forward_flops`.
        batch: likewise.
        trainable: choices: `requires_grad` of parameters, by their names in `named_parameters`.
            Those that are not named keep theirs.

    Returns:
        The ratio for each choice, 1 where nothing is trainable; None if they could not be counted.
        Nothing is raised.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    choices = []
    for wanted in trainable:
        flags = {id(p): p.requires_grad for p in named.values()}
        flags.update({id(named[name]): flag for name, flag in wanted.items() if name in named})
        choices.append({identity for identity, flag in flags.items() if flag})
    model = _uncompiled(model)
    if _too_large(model):
        return None
    for attempt in _attempts(model, batch):
        try:
            return _training_ratios(model, attempt, choices)
        except Exception as error:
            let_handlers_raise(error)
    return None


def _uncompiled(model: nn.Module) -> nn.Module:
    original: nn.Module = getattr(model, "_orig_mod", model)  # of torch.compile
    return original


def _too_large(model: nn.Module) -> str:
    """Why the model is not traced; empty if it is."""
    parameters = _size(model)
    if parameters <= MOST_PARAMETERS:
        return ""
    return f"the model has {parameters:.3g} parameters, too many to trace on the CPU"


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if not is_lazy(p))


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


# ------------------------------------------------------------------ runs of a copy


@dataclass(frozen=True)
class _Attempt:
    """Inputs to try, the samples in them, and what to make of the copy that is called with them."""

    inputs: Any
    samples: int
    wrap: Callable[[nn.Module], nn.Module] = lambda duplicate: duplicate

    def prepare(self, duplicate: nn.Module) -> tuple[nn.Module, tuple[Any, ...], int]:
        """The copy as it is called, its inputs, one sample long if they can be cut, and samples."""
        for parameter in duplicate.parameters():
            # With gradients, torch does not take fused paths that a counter cannot see into.
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        single = first_sample(self.inputs, self.samples)
        pairs = zip(tensors_in(self.inputs), tensors_in(single), strict=True)
        uncut = any(whole.shape != cut.shape for whole, cut in pairs)
        duplicate = self.wrap(duplicate.eval())
        if isinstance(single, Mapping):
            duplicate, single = _ByName(duplicate, list(single)), tuple(single.values())
        return duplicate, single, 1 if uncut else self.samples


def _attempts(model: nn.Module, batch: Any, samples: int | None = None) -> Iterator[_Attempt]:
    samples = samples or batch_size(batch)
    example = getattr(model, "example_input_array", None)
    for inputs in input_candidates(model, batch):
        first = inputs[0] if isinstance(inputs, tuple) and inputs else None
        is_example = example is not None and (inputs is example or first is example)
        known = None if is_example else samples
        yield _Attempt(inputs, known or batch_size(inputs) or 1)
    # A step may write to what it holds, and data sets are shared with the copy.
    if callable(getattr(model, "training_step", None)) and not holds_data(model):
        yield _Attempt((batch,), samples or 1, _TrainingStep)


def _count(model: nn.Module, attempt: _Attempt) -> FlopCount:
    duplicate, single, samples = attempt.prepare(bare_copy(model, _CPU))
    analysis = FlopCountAnalysis(duplicate, single)
    analysis.set_op_handle(
        "aten::scaled_dot_product_attention",
        _count_attention,
        **{f"aten::{kind}": _count_recurrent for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with quiet("torch.jit", logging.ERROR):
        by_operator = analysis.by_operator()
    flops = sum(n * (1 if op in _NOT_MULTIPLY_ADDS else 2) for op, n in by_operator.items())
    uncounted = {op: int(n) for op, n in analysis.unsupported_ops().items()}
    if not flops:
        return FlopCount(None, "fvcore found no operation to count", uncounted)
    return FlopCount(flops / samples, "", uncounted)


def _with_training(model: nn.Module, attempt: _Attempt, count: FlopCount) -> FlopCount:
    """The count with the ratio for the parameters that are trainable now."""
    now = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    try:
        ratio = _training_ratios(model, attempt, [now])[0]
        return replace(count, training_to_forward=ratio, is_training_counted=True)
    except Exception as error:  # as above
        let_handlers_raise(error)
        note = f"training is taken as {TRAINING_TO_FORWARD:.0f} times the forward pass"
        return replace(
            count, note=f"{note}: the backward pass was not counted ({_in_a_line(error)})"
        )


def _training_ratios(
    model: nn.Module, attempt: _Attempt, choices: Sequence[set[int]]
) -> list[float]:
    """What training costs, where the parameters with these `id`s are trainable.

    Without values first, which takes little time and memory. A forward that looks at values, as in
    `if x.sum() > 0`, then gets some.
    """
    if not any(choices):
        return [1.0] * len(choices)
    try:
        return _training_ratios_of_a_copy(model, attempt, choices, values=False)
    except Exception as error:  # as above
        let_handlers_raise(error)
        if _size(model) > _MOST_WRITTEN:
            raise
    return _training_ratios_of_a_copy(model, attempt, choices, values=True)


def _training_ratios_of_a_copy(
    model: nn.Module, attempt: _Attempt, choices: Sequence[set[int]], *, values: bool
) -> list[float]:
    copies: dict[int, Any] = {}
    with _left_alone(model):
        duplicate, single, _ = attempt.prepare(bare_copy(model, _CPU, copies))
        trainable = [[copies[identity] for identity in choice] for choice in choices]
        present = {id(parameter) for parameter in duplicate.parameters()}
        if not all(id(parameter) in present for choice in trainable for parameter in choice):
            raise ValueError("a scripted part was not copied parameter by parameter")
        return training_to_forward(lambda: tensors_in(duplicate(*single)), trainable, values=values)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    with generators_restored(), in_eval_mode(model), torch.enable_grad():
        yield


class _ByName(nn.Module):
    """Calls a module with keyword arguments, since a trace takes only positional ones."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *values: Any) -> Any:
        """Call the module; tracing wants tensors, so an output object gives its tensors."""
        output = self.module(**dict(zip(self.names, values, strict=True)))
        return tuple(tensors_in(output)) or output


class _TrainingStep(nn.Module):
    """Calls a LightningModule's `training_step`; without a Trainer, its logging does nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        """The loss, or whatever tensors the step returns."""
        output = self.module.training_step(batch, 0)  # type: ignore[operator]
        return tuple(tensors_in(output)) or output


# ------------------------------------------------------------------ rules fvcore lacks


def _count_attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of softmax(q kᵀ) v: q (…, L, E), k (…, S, E), v (…, S, D)."""
    query, key, value = (get_shape(v) for v in inputs[:3])
    multiply_adds: int = math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return multiply_adds


def _count_recurrent(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of a recurrent layer: each weight matrix once for every step and sample."""
    steps: int = math.prod(get_shape(inputs[0])[:-1])
    weights = 0
    for value in inputs:
        if value.node().kind() == "prim::ListConstruct":
            shapes = [get_shape(item) for item in value.node().inputs()]
            weights += sum(math.prod(s) for s in shapes if s is not None and len(s) == 2)
    return steps * weights
