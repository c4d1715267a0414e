"""FLOPs of a model's forward pass, counted by fvcore on a copy of the model."""

from __future__ import annotations

import copy
import logging
import math
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Forward and backward cost three times the forward pass: the backward pass computes gradients of
# inputs and of weights, each about as much as the forward pass. Kaplan et al., "Scaling laws for
# neural language models" (arXiv 2001.08361), section 2.1.
TRAINING_TO_FORWARD = 3.0
# fvcore traces on the CPU, one sample long; beyond this size that takes too long to wait for.
MOST_PARAMETERS = 1_000_000_000
# A batch is looked through no further: this happens at every step.
_MOST_ITEMS = 1024
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
    """

    per_sample: float | None
    note: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict)

    def training_flops(self, samples: float) -> float:
        """FLOPs of forward and backward for that many samples; NaN if not counted."""
        if self.per_sample is None:
            return math.nan
        return TRAINING_TO_FORWARD * self.per_sample * samples


def count_forward_flops(model: nn.Module, batch: Any) -> FlopCount:
    """Count the FLOPs of `model`'s forward pass for one sample of a training batch.

    Where a LightningModule has no forward of its own, the forward pass is its `training_step`.

    The model itself is left alone: fvcore traces a copy on the CPU, with parameters of 0, in eval
    mode, and the states of the random generators are restored.

    Args:
        model: any module; a LightningModule's `example_input_array` is preferred to the batch.
        batch: a batch as the data loader yields it: a tensor, a mapping, or a tuple or list, of
            which the first item is the input unless all items fit.

    Returns:
        The count, or the reason why there is none. Nothing is raised.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    parameters = sum(p.numel() for p in model.parameters() if not is_lazy(p))
    if parameters > MOST_PARAMETERS:
        return FlopCount(
            None, f"the model has {parameters:.3g} parameters, too many to trace on the CPU"
        )
    reasons = []
    for inputs, samples, wrap in _attempts(model, batch):
        try:
            with _generators_restored(), _in_eval_mode(model), torch.enable_grad():
                return _count(model, inputs, samples or 1, wrap)
        except Exception as error:  # tracing runs the user's code: anything can happen
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0][:300])
    reason = "; ".join(dict.fromkeys(reasons)) or "no input for its forward is in the batch"
    return FlopCount(None, f"fvcore could not trace the model ({reason})")


def batch_size(batch: Any) -> int | None:
    """Number of samples in a batch; None where no tensor shows it.

    It is the first dimension of the first tensor in a batch or in its items. Where the items are
    themselves lists of tensors, as for images of different sizes, it is the length of the first.
    """
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.ndim else 1
    items = _items(batch)
    for item in items:
        if isinstance(item, Tensor):
            return batch_size(item)
    for item in items:
        inner = _items(item)
        if inner and all(isinstance(value, Tensor) for value in inner):
            return batch_size(inner[0]) if isinstance(item, Mapping) else len(item)
        if inner:
            return batch_size(item)
    return None


def _items(value: Any) -> list[Any]:
    """What a container of a batch holds; nothing for text and bytes, and little of a long list."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value[:_MOST_ITEMS])
    return []


_Wrap = Callable[[nn.Module], nn.Module]


def _attempts(model: nn.Module, batch: Any) -> Iterator[tuple[Any, int | None, _Wrap]]:
    """Inputs to try, the samples in them, and what to make of the copy that is called with them."""
    for inputs in _input_candidates(model, batch):
        yield inputs, batch_size(inputs), lambda duplicate: duplicate
    if callable(getattr(model, "training_step", None)):
        yield (batch,), batch_size(batch), _TrainingStep


def _count(model: nn.Module, inputs: Any, samples: int, wrap: _Wrap) -> FlopCount:
    single = _on_cpu(inputs, samples)
    pairs = zip(_tensors(inputs), _tensors(single), strict=True)
    if any(whole.shape != cut.shape for whole, cut in pairs):
        samples = 1
    duplicate = wrap(_copy_of(model))
    if isinstance(single, Mapping):
        duplicate, single = _ByName(duplicate, list(single)), tuple(single.values())
    analysis = FlopCountAnalysis(duplicate, single)
    analysis.set_op_handle(
        "aten::scaled_dot_product_attention",
        _count_attention,
        **{f"aten::{kind}": _count_recurrent for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    with _quiet("torch.jit"):
        by_operator = analysis.by_operator()
    flops = sum(n * (1 if op in _NOT_MULTIPLY_ADDS else 2) for op, n in by_operator.items())
    uncounted = {op: int(n) for op, n in analysis.unsupported_ops().items()}
    if not flops:
        return FlopCount(None, "fvcore found no operation to count", uncounted)
    return FlopCount(flops / samples, "", uncounted)


class _ByName(nn.Module):
    """Calls a module with keyword arguments, since a trace takes only positional ones."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *values: Any) -> Any:
        """Call the module; tracing wants tensors, so an output object gives its tensors."""
        output = self.module(**dict(zip(self.names, values, strict=True)))
        return tuple(_tensors(output)) or output


class _TrainingStep(nn.Module):
    """Calls a LightningModule's `training_step`; without a Trainer, its logging does nothing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Any) -> Any:
        """The loss, or whatever tensors the step returns."""
        output = self.module.training_step(batch, 0)  # type: ignore[operator]
        return tuple(_tensors(output)) or output


# ------------------------------------------------------------------ a copy to trace


def _copy_of(model: nn.Module) -> nn.Module:
    """A copy on the CPU in single precision and eval mode, with parameters of 0.

    The values of parameters do not matter for a count, so none is moved from a GPU; `zeros` takes
    no memory until it is written to. Data sets and loaders that the model holds are shared.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            memo[id(parameter)] = nn.Parameter(
                torch.zeros(parameter.shape, dtype=_cpu_dtype(parameter)),
                # With gradients, torch does not take fused paths that fvcore cannot see into.
                requires_grad=parameter.is_floating_point() or parameter.is_complex(),
            )
        for value in [*module.buffers(recurse=False), *vars(module).values()]:
            if isinstance(value, Tensor):
                memo[id(value)] = value.detach().to("cpu", _cpu_dtype(value), copy=True)
            elif isinstance(value, _SHARED):
                memo[id(value)] = value
    duplicate = copy.deepcopy(model, memo)
    for module in list(duplicate.modules()):
        # A compiled part cannot be traced; the module inside it can.
        for name, child in list(module.named_children()):
            original = getattr(child, "_orig_mod", None)
            if isinstance(original, nn.Module):
                setattr(module, name, original)
    for module in duplicate.modules():
        _detach_from_original(module)
    return duplicate.eval()


def _detach_from_original(module: nn.Module) -> None:
    """Remove from a copied module what still leads to the one it was copied from."""
    attributes = vars(module)
    if isinstance(attributes.get("_device"), torch.device):
        attributes["_device"] = torch.device("cpu")  # where a LightningModule takes itself to be
    # A compiled call, of torch.compile(forward) or module.compile(), is still the original's.
    if hasattr(attributes.get("forward"), "_torchdynamo_orig_callable"):
        del attributes["forward"]
    module._compiled_call_impl = None
    # Hooks that are functions are the user's: they would take the copy for the model. Those that
    # are objects are torch's own, such as weight normalisation.
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [k for k, hook in hooks.items() if isinstance(hook, types.FunctionType)]:
            del hooks[key]


# What a model may hold that is large and takes no part in forward, or is only read there.
_SHARED = (torch.utils.data.Dataset, torch.utils.data.DataLoader, np.ndarray)


def _cpu_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


# ------------------------------------------------------------------ its inputs


def _input_candidates(model: nn.Module, batch: Any) -> Iterator[Any]:
    """What forward may take, the likeliest first: a tuple of positional inputs or a mapping."""
    example = getattr(model, "example_input_array", None)
    if example is not None:
        yield example if isinstance(example, tuple | Mapping) else (example,)
    if isinstance(batch, Tensor):
        yield (batch,)
    elif isinstance(batch, Mapping):
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        yield tensors
        yield {n: v for n, v in tensors.items() if n not in ("labels", "label", "target", "y")}
        yield (batch,)
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch):
        first = batch[0]
        yield first if isinstance(first, tuple | Mapping) else (first,)
        yield tuple(batch)


def _on_cpu(value: Any, samples: int) -> Any:
    """The first sample of everything that is one batch long, on the CPU."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if tensor.ndim and tensor.shape[0] == samples:
            tensor = tensor[:1]
        return tensor.to("cpu", _cpu_dtype(tensor), copy=True)
    if isinstance(value, Mapping):
        return {name: _on_cpu(item, samples) for name, item in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_on_cpu(item, samples) for item in value)
    if isinstance(value, list):
        return [_on_cpu(item, samples) for item in value]
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for item in _items(value):
        yield from _tensors(item)


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


@contextmanager
def _generators_restored() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch's CPU generator afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=_cuda_in_use()):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _cuda_in_use() -> list[int]:
    """Forward may draw from a GPU's generator; one that was not started is left alone."""
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return [torch.cuda.current_device()] if started else []


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Keep the model from learning: a function that its copy shares with it may call it."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
