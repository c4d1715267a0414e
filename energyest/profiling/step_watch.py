"""Watch one real training step to see what it computes, without computing anything twice."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import reductions
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils import _python_dispatch

from energyest.profiling.copies.model_copy import names_within_reach
from energyest.profiling.execution import is_compiled
from energyest.profiling.gradient_costs import GradientCosts
from energyest.profiling.operations import OperationLog, Seen, WatchedStep
from energyest.profiling.sparse_tensors import sparse_parameters


def why_unwatched(module: nn.Module) -> str:
    """Why steps of this module cannot be watched without changing them; empty if they can."""
    if _python_dispatch._get_current_dispatch_mode_stack():
        return "another dispatch mode is active"
    return _unwatchable_part(module)


def _unwatchable_part(module: nn.Module) -> str:
    """The part of a module that cannot be watched; empty if everything can."""
    for part in module.modules():
        if how := _hidden(part):
            return f"{type(part).__name__} is {how}"
    if _backends() and (name := _compiled_function(module)):
        return f"{name} is compiled"
    for name, parameter in module.named_parameters():
        if type(parameter).__torch_dispatch__ is not Tensor.__torch_dispatch__:
            return f"{name} is a {type(parameter).__name__}"
    return ""


class StepWatch:
    """Watches the operations dispatched in this thread from `begin` to `end`.

    Args:
        module: the model in training.
        describes: record all operations, and the cost of other sets of trainable parameters; if
            False, only FLOPs, which takes less time.
    """

    def __init__(self, module: nn.Module, *, describes: bool = True) -> None:
        self._module, self._sparse_parameters = module, 0
        self._log = _StepLog(GradientCosts(module) if describes else None)
        self._hooks: list[Any] = []
        self._backends = _backends()

    def begin(self) -> None:
        """Begin watching at the start of a step."""
        self._hooks.append(register_module_forward_pre_hook(lambda *_: self._log.enter_module()))
        self._hooks.append(register_optimizer_step_pre_hook(self._before_optimizer))
        self._hooks.append(
            register_optimizer_step_post_hook(lambda *_: self._log.leave_optimizer())
        )
        self._log.__enter__()  # type: ignore[no-untyped-call]

    def before_optimizer_step(self) -> None:
        """Note that forward and backward are over, and an optimizer steps next."""
        if self._log.describes and not self._sparse_parameters:
            with suppress(Exception):  # parameters can be of any class
                self._sparse_parameters = sparse_parameters(self._module)
        self._log.enter_optimizer()

    def end(self) -> WatchedStep:
        """End watching, in the thread in which it began; return the step."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        _leave(self._log)
        step = replace(self._log.seen(), sparse_parameters=self._sparse_parameters)
        if not step.problem and _backends() - self._backends:
            return replace(step, problem="something was compiled within the step")
        return step

    def _before_optimizer(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        # An optimizer with a closure runs forward and backward first.
        if not any(value is not None for value in (*args[1:], *kwargs.values())):
            self.before_optimizer_step()


class _StepLog(OperationLog):
    """Records a step without the computations of its optimizers."""

    def __init__(self, gradients: GradientCosts | None) -> None:
        super().__init__(describes=gradients is not None)
        self._gradients = gradients
        self._module_calls = 0
        self._in_optimizer = False
        # Memory that the forward pass has allocated, until the backward pass begins.
        self._made: dict[int, tuple[Any, int]] = {}
        self._saved: float | None = None

    def enter_module(self) -> None:
        self._in_optimizer = False
        if self.phase == "forward":
            self._module_calls += 1

    def enter_optimizer(self) -> None:
        self._in_optimizer = True

    def leave_optimizer(self) -> None:
        self._in_optimizer = False

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        phase = self.phase
        if self._in_optimizer and phase == "forward":
            return
        self._in_optimizer = False
        if phase == "backward" and self._saved is None:
            self._saved = self._saved_bytes()
        super().record(func, args, kwargs, out)

    def notice(self, seen: Seen) -> None:
        """Track what the forward pass allocates, and on which parameters it depends."""
        if self._saved is None:
            for tensor in seen.made:
                if tensor.layout == torch.strided:
                    storage = tensor.untyped_storage()
                    self._made[storage._cdata] = (_weak(storage), storage.nbytes())
        if self._gradients is not None and self.phase == "forward":
            self._gradients.record(seen)

    def seen(self) -> WatchedStep:
        """The step as recorded."""
        if self._gradients is not None:
            self._gradients.forget_tensors()
        self._made.clear()
        step = self.as_step(self._module_calls, self._saved or 0.0)
        return replace(step, gradients=self._gradients)

    def _saved_bytes(self) -> float:
        made, self._made = self._made, {}
        return float(sum(size for reference, size in made.values() if not reference.expired()))


def _leave(log: OperationLog) -> None:
    """Leave a mode that may not be the last one entered; the modes above it stay."""
    stack = _python_dispatch._get_current_dispatch_mode_stack()
    if log not in stack:
        return  # other code has removed it
    above = []
    while (top := _python_dispatch._get_current_dispatch_mode_stack()[-1]) is not log:
        above.append(top)
        _python_dispatch._pop_mode()
    log.__exit__(None, None, None)  # type: ignore[no-untyped-call]
    for mode in reversed(above):
        _python_dispatch._push_mode(mode)


def _hidden(part: nn.Module) -> str:
    """Why a module does not run operation by operation; empty if it does."""
    if isinstance(part, torch.jit.ScriptModule):
        return "scripted"
    if getattr(part.forward, "__module__", None) == "torch.cuda.graphs":
        return "a CUDA graph"
    if isinstance(part, nn.DataParallel):
        return "spread over the threads of several GPUs"
    return "compiled" if is_compiled(part) else ""


def _backends() -> set[int]:
    """The backends of `torch.compile` in use in this process."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    backends = getattr(dynamo, "cached_backends", None) or {}
    return {key for key, backend in backends.items() if backend is not None}


def _compiled_function(module: nn.Module) -> str:
    """A compiled function that the module may call, which cannot be watched; empty if none."""
    for name, value in names_within_reach(module):
        # torch itself leaves compiled functions in the modules of others.
        is_own = isinstance(value, FunctionType) and not name.startswith("__")
        if is_own and "_torchdynamo_orig_callable" in vars(value):
            return name
    return ""


def _weak(storage: Any) -> Any:
    """A weak reference to a storage, which shows whether it still exists."""
    make: Any = reductions.StorageWeakRef
    return make(storage)
