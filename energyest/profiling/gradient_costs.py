"""The cost of the backward pass for any set of trainable parameters, from one forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from energyest.profiling.flop_rules import gradient_parts
from energyest.profiling.operations import Seen, tensors_of

_DETACH = torch.ops.aten.detach


class GradientCosts:
    """Tracks on which parameters each tensor depends, as bits of an integer.

    The gradient of a product's operand is computed only if the operand depends on a trainable
    parameter. So the products of one forward pass give the cost of the backward pass for any set of
    trainable parameters.

    Args:
        module: the module; each of its parameters is one bit.
    """

    def __init__(self, module: nn.Module) -> None:
        self._sources: Any = WeakIdKeyDictionary()
        for i, parameter in enumerate(module.parameters()):
            self._sources[parameter] = 1 << i
        named = module.named_parameters(remove_duplicate=False)
        self._bits = {name: self._sources[parameter] for name, parameter in named}
        # FLOPs of gradients, by the set of parameters of which one must be trainable.
        self._flops: defaultdict[int, float] = defaultdict(float)

    def record(self, seen: Seen) -> None:
        """Note an operation of the forward pass that has run."""
        if not torch.is_grad_enabled() or getattr(seen.func, "overloadpacket", None) is _DETACH:
            return  # nothing is differentiated through it
        sources = self._sources_of(seen.inputs)
        if not sources:
            return
        if seen.flops:
            for cost, operands in gradient_parts(seen.name, seen.func, seen.args, seen.flops):
                self._flops[self._sources_of(tensors_of(operands))] += cost
        for tensor in seen.outputs:
            base = tensor._base
            for written in (tensor,) if base is None else (tensor, base):
                self._sources[written] = self._sources.get(written, 0) | sources

    def backward_flops(self, trainable: Iterable[str]) -> float:
        """FLOPs of the backward pass if the named parameters are trainable."""
        asked = 0
        for name in trainable:
            asked |= self._bits.get(name, 0)
        return sum(flops for sources, flops in self._flops.items() if sources & asked)

    def forget_tensors(self) -> None:
        """Drop the tensors when the forward pass is over; the costs stay."""
        self._sources = WeakIdKeyDictionary()

    def _sources_of(self, tensors: Sequence[Tensor]) -> int:
        sources = 0
        for tensor in tensors:
            sources |= self._sources.get(tensor, 0)
        return sources
