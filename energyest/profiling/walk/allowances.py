"""What torch refuses on tensors without values or on a CPU, allowed while a walk lasts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention.bias import CausalBias


@contextmanager
def allowances() -> Iterator[None]:
    """Allow all of them."""
    with _flex_attention_anywhere(), _causal_biases(), _conversions(), _autocast_for_gpus():
        yield


@contextmanager
def _flex_attention_anywhere() -> Iterator[None]:
    """Allow flex_attention on CPU tensors that require gradients."""
    try:
        flex: Any = importlib.import_module("torch.nn.attention.flex_attention")
    except ImportError:  # an older version of torch
        flex = None
    check = getattr(flex, "_validate_device", None)
    if check is None:
        yield
        return
    flex._validate_device = lambda *_: None
    try:
        yield
    finally:
        flex._validate_device = check


@contextmanager
def _causal_biases() -> Iterator[None]:
    """Allow `causal_lower_right`, whose result is a tensor of a class of its own."""
    bias: Any = CausalBias

    def new(kind: Any, *_: Any) -> Any:
        guard: Any = torch._C
        with guard._DisableTorchDispatch():
            return Tensor.__new__(kind)

    bias.__new__ = new
    try:
        yield
    finally:
        del bias.__new__


@contextmanager
def _autocast_for_gpus() -> Iterator[None]:
    """Let `torch.autocast("cuda", ...)` within a model apply to a walk, which is on the CPU.

    Half precision is bf16, as in the rest of a walk.
    """
    kind: Any = torch.amp.autocast_mode.autocast
    usual = kind.__init__

    def init(
        self: Any,
        device_type: str,
        dtype: torch.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if device_type == "cuda":
            device_type, dtype = "cpu", torch.bfloat16
        usual(self, device_type, dtype, enabled, cache_enabled)

    kind.__init__ = init
    try:
        yield
    finally:
        kind.__init__ = usual


@contextmanager
def _conversions() -> Iterator[None]:
    """Let modules without values be converted, as by `self.router.to(torch.float32)`.

    torch would swap the tensors, and refuses to because others refer to them.
    """
    module: Any = nn.Module
    usual = module._apply

    def apply(self: nn.Module, change: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        held: dict[str, Any] = self._parameters
        without: dict[str, Any] = {name: p for name, p in held.items() if isinstance(p, FakeTensor)}
        try:
            for name, parameter in without.items():
                with torch.no_grad():
                    changed = change(parameter)
                held[name] = None
                if changed is not parameter:
                    without[name] = nn.Parameter(changed, parameter.requires_grad)
            converted: nn.Module = usual(self, change, recurse)
        finally:
            held.update(without)
        return converted

    module._apply = apply
    try:
        yield
    finally:
        module._apply = usual
