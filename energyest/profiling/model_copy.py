"""A copy of a model to try things on: without its values, its Trainer, its data and its hooks."""

from __future__ import annotations

import copy
import logging
import random
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# What a model may hold that is large and takes no part in forward.
SHARED = (torch.utils.data.Dataset, torch.utils.data.DataLoader)


def bare_copy(
    model: nn.Module, device: torch.device, memo: dict[int, Any] | None = None
) -> nn.Module:
    """A copy of a model in single precision, with parameters of 0.

    No parameter is moved from a GPU; on the CPU, `zeros` takes no memory until it is written to,
    and on the device "meta" tensors have no values at all. Data sets and loaders that the model
    holds are shared, arrays too, but cannot be written to; functions that are hooks are left out.

    Args:
        model: the model; it is left alone.
        device: where the copy lives: the CPU or "meta".
        memo: as of `copy.deepcopy`, the `id` of an original to its copy; filled in.

    Raises:
        Exception: the model cannot be copied.
    """
    memo = {} if memo is None else memo
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            memo[id(parameter)] = nn.Parameter(
                torch.zeros(parameter.shape, dtype=plain_dtype(parameter), device=device),
                requires_grad=parameter.requires_grad,
            )
        for value in [*module.buffers(recurse=False), *vars(module).values()]:
            if isinstance(value, Tensor):
                memo[id(value)] = value.detach().to(device, plain_dtype(value), copy=True)
            elif isinstance(value, SHARED):
                memo[id(value)] = value
            elif isinstance(value, np.ndarray):
                memo[id(value)] = view = value.view()
                view.flags.writeable = False
            elif hasattr(type(value), "__del__"):
                # The end of a copy could take with it what the original still needs.
                raise TypeError(f"a {type(value).__name__} is not to be copied")
    duplicate = copy.deepcopy(model, memo)
    for module in list(duplicate.modules()):
        # A compiled part cannot be traced; the module inside it can.
        for name, child in list(module.named_children()):
            original = getattr(child, "_orig_mod", None)
            if isinstance(original, nn.Module):
                setattr(module, name, original)
    for module in duplicate.modules():
        _detach_from_original(module, device)
    return duplicate


def train_as(duplicate: nn.Module, training: Sequence[bool]) -> None:
    """Put a copy into training, but for the parts that the original keeps out of it.

    Args:
        duplicate: the copy.
        training: whether each of the original's `modules()` is in training. If the whole is not, it
            has not begun, and nothing is kept out on purpose.
    """
    for module, flag in zip(duplicate.modules(), training, strict=False):
        module.training = flag
    if not training[0]:
        duplicate.train()


def _detach_from_original(module: nn.Module, device: torch.device) -> None:
    """Remove from a copied module what still leads to the one it was copied from."""
    attributes = vars(module)
    if isinstance(attributes.get("_device"), torch.device):
        attributes["_device"] = device  # where a LightningModule takes itself to be
    # A compiled call, of torch.compile(forward) or module.compile(), is still the original's.
    if hasattr(attributes.get("forward"), "_torchdynamo_orig_callable"):
        del attributes["forward"]
    module._compiled_call_impl = None
    # Hooks that are functions are the user's: they would take the copy for the model. Those that
    # are objects are torch's own, such as weight normalisation.
    for hooks in (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    ):
        for key in [k for k, hook in hooks.items() if isinstance(hook, types.FunctionType)]:
            del hooks[key]


def plain_dtype(tensor: Tensor) -> torch.dtype:
    """Single precision for any floating-point type: a CPU may lack the others."""
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


@contextmanager
def generators_restored() -> Iterator[None]:
    """Restore the random states of Python, numpy and torch afterwards."""
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
def in_eval_mode(model: nn.Module) -> Iterator[None]:
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
def plain_operators() -> Iterator[None]:
    """No warnings, and plain matrix products in place of what the counter does not know."""
    mkldnn: Any = torch.backends.mkldnn
    enabled = mkldnn.enabled
    with (
        warnings.catch_warnings(),
        _uncompiled(),
        # It prints whole tracebacks where a model looks at values.
        quiet("torch._subclasses.fake_tensor", logging.CRITICAL),
        torch.enable_grad(),
        # Parameters of 0 may well divide to NaN.
        torch.autograd.set_detect_anomaly(False),
        sdpa_kernel(SDPBackend.MATH),  # attention
    ):
        warnings.simplefilter("ignore")
        try:
            mkldnn.enabled = False  # recurrent layers
            yield
        finally:
            mkldnn.enabled = enabled


@contextmanager
def quiet(name: str, level: int) -> Iterator[None]:
    """Let a logger of torch's say nothing below a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


def _uncompiled() -> AbstractContextManager[Any]:
    """Let no compiled function see the copy: torch would not compile it again for the training.

    Raises:
        ValueError: this torch cannot be kept from it, and something is compiled.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)  # from torch 2.6 on
    if set_stance is not None:
        stance: AbstractContextManager[Any] = set_stance("force_eager")
        return stance
    if "torch._dynamo" in sys.modules:
        raise ValueError("compiled functions cannot be left alone in this version of torch")
    return nullcontext()
