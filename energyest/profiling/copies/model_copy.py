"""A copy of a model for experiments, without its values, Trainer, data and hooks."""

from __future__ import annotations

import copy
import logging
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.nn.attention import SDPBackend, sdpa_kernel

from energyest.errors import WorkloadError
from energyest.profiling.copies.held_objects import Held, LeftOut, held_by

_EMPTY = types.CellType()
# Modules without user code.
_LIBRARIES = {
    *sys.stdlib_module_names,
    *("torch", "torchvision", "numpy", "lightning", "pytorch_lightning", "lightning_fabric"),
}


_HALF_IS_KEPT: ContextVar[bool] = ContextVar("_HALF_IS_KEPT", default=False)
# Libraries whose hooks are part of a model.
_HOOKING = {"transformers", "peft"}
# Packages whose hooks watch a step and do not change it.
_WATCHING = {"energyest", "torch", "lightning", "pytorch_lightning", "lightning_fabric"}
# Wrappers around a module, by class name, and a note on what is not described.
_WRAPPERS = {
    "OptimizedModule": "",  # of torch.compile
    "DataParallel": "described as on one GPU, with the whole batch",
    "DistributedDataParallel": "described as on one GPU, without communication between GPUs",
    "DeepSpeedEngine": "described as on one GPU, without communication between GPUs",
    "_FabricModule": "",
}
# Attributes of a module that hold its parts.
_TABLES = {"_parameters", "_buffers", "_modules"}
_SHARDED = {"FSDPModule", "FullyShardedDataParallel", "DTensor"}


def unwrapped(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module inside the wrappers of a compiler or of several GPUs, and notes about them.

    Raises:
        WorkloadError: a wrapper has changed the module, or wraps only a part of it.
    """
    notes: list[str] = []
    while (name := type(model).__name__) in _WRAPPERS:
        inside = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inside, nn.Module):
            break
        if _WRAPPERS[name]:
            notes.append(f"{name} is {_WRAPPERS[name]}")
        model = inside
    for part in model.modules():
        for value in (part, *part.parameters(recurse=False)):
            names = {kind.__name__ for kind in type(value).__mro__}
            if found := names & (_SHARDED | {"DistributedDataParallel"}):
                where = "" if value is model else " in part"
                raise WorkloadError(
                    f"{type(model).__name__} is wrapped by {min(found)}{where}: describe the"
                    " model before it is wrapped"
                )
    return model, tuple(notes)


def bare_copy(
    model: nn.Module,
    device: torch.device,
    memo: dict[int, Any] | None = None,
    *,
    held: Held | None = None,
    copy_of: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """Copy a model in single precision, with all parameters 0.

    No parameter is moved from a GPU; on the CPU, `zeros` takes no memory until it is written to,
    and on the device "meta" tensors have no values at all. Data sets and loaders that the model
    holds are shared; so are large arrays, which become read-only, and locks, thread pools and
    others that cannot be copied. Hooks that are functions are left out.

    Args:
        model: the model, which is left unchanged.
        device: the device of the copy: the CPU or "meta".
        memo: as for `copy.deepcopy`, maps the `id` of an original to its copy; filled in.
        held: the model's contents, if known.
        copy_of: makes the copy of each tensor; by default as said above.

    Raises:
        Exception: the model cannot be copied.
    """
    memo = {} if memo is None else memo
    held = held or held_by(model)
    memo.update(held.instead)
    for tensor in held.tensors:
        memo[id(tensor)] = copy_of(tensor) if copy_of else _plain_copy(tensor, device)
    duplicate = _deep_copy(model, memo)
    for module in list(duplicate.modules()):
        # A compiled part cannot be traced; the module inside it can.
        for name, child in list(module.named_children()):
            original = getattr(child, "_orig_mod", None)
            if isinstance(original, nn.Module):
                setattr(module, name, original)
    for module in duplicate.modules():
        _detach_from_original(module, device)
        if hasattr(type(module), "__del__"):
            _keep_from_releasing(module)
    return duplicate


def _keep_from_releasing(module: nn.Module) -> None:
    """Take away what runs when the copy is deleted: it may release what the original needs."""
    kind = type(module)
    silent = {"__del__": lambda _: None, "__module__": kind.__module__}
    module.__class__ = type(kind.__name__, (kind,), silent)


def _deep_copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A deep copy, without attributes whose own way of being copied fails."""
    tried = dict(memo)
    try:
        duplicate = copy.deepcopy(model, tried)
    except Exception:
        for name, module in model.named_modules():
            for attribute, value in vars(module).items():
                try:
                    if not isinstance(value, dict) or attribute not in _TABLES:
                        copy.deepcopy(value, dict(memo))
                except Exception:
                    path = ".".join(filter(None, (type(model).__name__, name, attribute)))
                    memo[id(value)] = LeftOut(path, value)
        tried = dict(memo)
        duplicate = copy.deepcopy(model, tried)
    # `copy` keeps what it has copied alive under the `id` of the memo, which can be used again.
    alive = tried.pop(id(tried), [])
    memo.update(tried)
    memo.setdefault(id(memo), []).extend(alive)
    return duplicate


def _plain_copy(tensor: Tensor, device: torch.device) -> Tensor:
    """A parameter of 0, or a tensor with its values."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(_zeros_like(tensor, device), requires_grad=tensor.requires_grad)
    return tensor.detach().to(device, plain_dtype(tensor), copy=True)


def _zeros_like(parameter: Tensor, device: torch.device) -> Tensor:
    """Zeros in the same memory layout, which take no memory, other than those of `zeros_like`."""
    dtype = plain_dtype(parameter)
    if suggest_memory_format(parameter) != torch.channels_last:
        return torch.zeros(parameter.shape, dtype=dtype, device=device)
    outputs, inputs, height, width = parameter.shape
    zeros = torch.zeros(outputs, height, width, inputs, dtype=dtype, device=device)
    return zeros.permute(0, 3, 1, 2)


def train_as(duplicate: nn.Module, training: Sequence[bool]) -> None:
    """Put a copy into training mode, except for parts that the original keeps in eval mode.

    Args:
        duplicate: the copy.
        training: whether each of the original's `modules()` is in training mode. If the root is
            not, training has not begun, and no part is in eval mode on purpose.
    """
    for module, flag in zip(duplicate.modules(), training, strict=False):
        module.training = flag
    if not training[0]:
        duplicate.train()


def _detach_from_original(module: nn.Module, device: torch.device) -> None:
    """Remove references to the original from a copied module."""
    attributes = vars(module)
    if isinstance(attributes.get("_device"), torch.device):
        attributes["_device"] = device  # the device that a LightningModule reports
    # A compiled call, from torch.compile(forward) or module.compile(), still runs the original.
    if hasattr(attributes.get("forward"), "_torchdynamo_orig_callable"):
        del attributes["forward"]
    module._compiled_call_impl = None
    # Hooks that are functions are the user's: they would mistake the copy for the model. Hooks that
    # are objects are torch's own, such as weight normalisation. Hooks of `_HOOKING` are part of the
    # step: without `enable_input_require_grads`, gradient checkpoints pass on no gradients.
    for hooks in _hooks_of(module):
        for key, hook in list(hooks.items()):
            if isinstance(hook, types.FunctionType) and _home_of(hook) not in _HOOKING:
                del hooks[key]


def hooked_modules(model: nn.Module) -> list[str]:
    """The names of modules with hooks of the user's that a copy lacks."""
    return [
        f"{type(model).__name__}{'.' if name else ''}{name}"
        for name, module in model.named_modules()
        if any(
            isinstance(hook, types.FunctionType) and _home_of(hook) not in _HOOKING | _WATCHING
            for hooks in _hooks_of(module)
            for hook in hooks.values()
        )
    ]


def _home_of(hook: types.FunctionType) -> str:
    """The package that a function is defined in."""
    return (hook.__module__ or "").partition(".")[0]


def _hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def plain_dtype(tensor: Tensor) -> torch.dtype:
    """Single precision for any floating-point type, because a CPU may lack the others.

    Within `half_kept`, two-byte formats become bfloat16, the one that CPUs support best.
    """
    if not tensor.is_floating_point():
        return tensor.dtype
    return torch.bfloat16 if _HALF_IS_KEPT.get() and _is_half(tensor) else torch.float32


def is_in_half(model: nn.Module) -> bool:
    """Whether most weights of a model are in a two-byte format."""
    weights = [p for p in model.parameters() if p.is_floating_point()]
    halves = sum(p.numel() for p in weights if _is_half(p))
    return 2 * halves > sum(p.numel() for p in weights)


@contextmanager
def half_kept() -> Iterator[None]:
    """Let copies keep two-byte formats."""
    before = _HALF_IS_KEPT.set(True)
    try:
        yield
    finally:
        _HALF_IS_KEPT.reset(before)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def names_within_reach(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """All values, with their names, that the code of a module can reach without arguments.

    These are the attributes of its parts and their classes, the globals of the files that define
    them and of what these import, and closure variables of methods and functions.
    """
    homes: dict[int, Mapping[str, Any]] = {id(part): vars(part) for part in module.modules()}
    for kind in {kind for part in module.modules() for kind in type(part).__mro__}:
        if _is_of_a_library(kind.__module__):
            continue
        homes[id(kind)] = vars(kind)
        file = vars(sys.modules.get(kind.__module__, object))
        homes[id(file)] = file
        for value in list(file.values()):
            if isinstance(value, types.ModuleType) and not _is_of_a_library(value.__name__):
                homes[id(vars(value))] = vars(value)
    pending = list(homes.values())
    while pending:
        home = pending.pop()
        yield from list(home.items())
        for value in list(home.values()):
            if isinstance(value, types.FunctionType) and id(value) not in homes:
                homes[id(value)] = kept = _kept_by(value)
                pending.append(kept)


def _kept_by(function: types.FunctionType) -> dict[str, Any]:
    """The closure variables of a function, by name."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != _EMPTY}


def _is_of_a_library(module: str) -> bool:
    return module.partition(".")[0] in _LIBRARIES


@contextmanager
def generators_restored(model: nn.Module | None = None) -> Iterator[None]:
    """Restore the random states of Python, numpy and torch afterwards.

    Args:
        model: the user's own generators within reach of its code are restored as well.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    own = [] if model is None else [*_states_of_generators(model)]
    try:
        with torch.random.fork_rng(devices=_cuda_in_use()):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for restore, state in own:
            restore(state)


def _states_of_generators(model: nn.Module) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """A restoring function and the state, for each generator within reach of a model's code."""
    for _, value in names_within_reach(model):
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            yield partial(setattr, bits, "state"), bits.state
        elif isinstance(value, np.random.RandomState):
            yield value.set_state, value.get_state()
        elif isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
            yield value.setstate, value.getstate()
        elif isinstance(value, torch.Generator):
            yield value.set_state, value.get_state()


def _cuda_in_use() -> list[int]:
    """The GPU whose generator forward may use; CUDA is not initialised if it was not."""
    started = torch.cuda.is_initialized()
    return [torch.cuda.current_device()] if started else []


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode, because a function shared with its copy may call it."""
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
    """Suppress warnings, and use plain matrix products instead of operators without a rule."""
    mkldnn: Any = torch.backends.mkldnn
    enabled = mkldnn.enabled
    with (
        warnings.catch_warnings(),
        # Compiled functions run uncompiled: to compile them for the copy would affect the training.
        torch.compiler.set_stance("force_eager"),
        # This logger prints whole tracebacks if a model looks at values.
        quiet("torch._subclasses.fake_tensor", logging.CRITICAL),
        torch.enable_grad(),
        # Parameters of 0 may lead to NaN.
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
    """Silence a logger of torch below a level."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
