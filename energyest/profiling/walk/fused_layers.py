"""Layers that a GPU computes in one operation, recorded as one when only shapes are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from energyest.profiling.operations import OperationLog, bytes_of

_READS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


class FusedLayers(TorchFunctionMode):
    """Records attention, recurrent layers and dropout as a GPU runs them.

    A GPU runs each as one operation; on a CPU each consists of dozens or thousands.

    Args:
        log: where they are recorded.
        looked_at: called with tensors that are read as Python or numpy numbers.
    """

    def __init__(
        self, log: OperationLog, looked_at: Callable[[Tensor], None] | None = None
    ) -> None:
        super().__init__()
        self._log = log
        self._looked_at = looked_at
        self._fused: dict[Any, Callable[..., Any]] = {
            torch.nn.functional.scaled_dot_product_attention: _attention,
            torch.nn.functional.multi_head_attention_forward: _multi_head_attention,
            torch.lstm: partial(self._recurrent, "lstm"),
            torch.gru: partial(self._recurrent, "gru"),
            torch.rnn_tanh: partial(self._recurrent, "rnn_tanh"),
            torch.rnn_relu: partial(self._recurrent, "rnn_relu"),
            torch.nn.functional.dropout: _dropout,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, or stand in for it."""
        if func in _READS and self._looked_at is not None:
            self._looked_at(args[0])
        fused = self._fused.get(func)
        if getattr(func, "__name__", "") == "flex_attention":  # the operator, not the function
            return self._flex_attention(*args)
        if fused is None:
            return func(*args, **(kwargs or {}))
        return fused(*args, **(kwargs or {}))

    def _recurrent(self, name: str, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        """A stack of recurrent layers: each weight matrix is used once per step and sample."""
        packed = isinstance(args[3], list | tuple)  # data, batch_sizes, hidden, weights, …
        inputs: Tensor = args[0]
        hidden = args[2 if packed else 1]
        weights: list[Tensor] = list(args[3 if packed else 2])
        flags = list(args[4 if packed else 3 :])
        layers, directions = int(flags[1]), 2 if flags[4] else 1
        batch_first = bool(flags[5]) if len(flags) > 5 else False
        states = hidden if isinstance(hidden, tuple | list) else (hidden,)
        width = states[0].shape[-1]
        if packed:
            batch_sizes = args[1]
            steps = int(batch_sizes.shape[0])
            shape: tuple[int, ...] = (inputs.shape[0], width * directions)
        else:
            steps = int(inputs.shape[1 if batch_first and inputs.ndim == 3 else 0])
            shape = (*inputs.shape[:-1], width * directions)
        tokens = math.prod(shape[:-1])
        used = sum(w.numel() for w in weights if w.ndim == 2)
        out = inputs.new_empty(shape)
        # The weights stay in the GPU's caches from step to step.
        gated = tokens * used / max(width, 1) * inputs.element_size()
        moved = sum(bytes_of(tensor) for tensor in (*weights, inputs, out)) + gated
        flops = 2.0 * tokens * used
        gates = max((w.shape[0] for w in weights if w.ndim == 2), default=width)
        # Layers run in parallel, each one step behind the layer below it.
        in_turn = (steps + layers - 1) * directions
        product = (max(tokens // max(steps, 1), 1), gates, width, 1, in_turn)
        result = _Fused.apply(  # type: ignore[no-untyped-call]
            self._log,
            name,
            flops,
            moved,
            product,
            out.shape,
            len(weights),
            *weights,
            inputs,
            *states,
        )
        # A final state depends on everything before it, as the output does.
        first = result.reshape(-1)[:1]
        return (result, *(first.expand(state.shape) for state in states))

    def _flex_attention(
        self, query: Tensor, key: Tensor, value: Tensor, _: Any, mask: Sequence[Any], *__: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention between blocks of positions, as far as the block mask is known."""
        pairs = math.prod(query.shape[:-1]) * key.shape[-2] * _share_of_blocks(mask)
        flops = 2.0 * pairs * (query.shape[-1] + value.shape[-1])
        shape = (*query.shape[:-1], value.shape[-1])
        moved = sum(map(bytes_of, (query, key, value))) + math.prod(shape) * query.element_size()
        out: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
            *(self._log, "attention", flops, moved, (0, 0, 0, 1, 1), shape, 0),
            *(query, key, value),
        )
        rows = query.new_empty(query.shape[:-1], dtype=torch.float32)
        return out, rows, rows.clone()


def _share_of_blocks(mask: Sequence[Any]) -> float:
    """The share of block pairs that a block mask allows; 1 if unknown."""
    partial_blocks, _, full_blocks = mask[2], mask[3], mask[4]
    counts = [blocks for blocks in (partial_blocks, full_blocks) if blocks is not None]
    if any(isinstance(blocks, FakeTensor) for blocks in counts):
        return 1.0
    columns = max(int(mask[3].shape[-1]), 1)
    seen = sum(float(blocks.sum()) for blocks in counts)
    share: float = seen / (partial_blocks.numel() * columns)
    return min(share, 1.0)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *others: Any,
    **options: Any,
) -> Tensor:
    """Attention without dropout: a CPU has no fused form of it, and on a GPU it costs little."""
    functions = torch.nn.functional
    return functions.scaled_dot_product_attention(
        query, key, value, attn_mask, 0.0, *others, **options
    )


def _multi_head_attention(*args: Any, **options: Any) -> Any:
    """Multi-head attention without dropout, whose probability is the eleventh argument."""
    if len(args) > 10:
        args = (*args[:10], 0.0, *args[11:])
    else:
        options["dropout_p"] = 0.0
    return torch.nn.functional.multi_head_attention_forward(*args, **options)


def _dropout(
    tensor: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout as one operation that keeps a mask of a byte per element, as on a GPU."""
    if not training or p == 0:
        return tensor
    kept: Tensor = torch.native_dropout(tensor, p, True)[0]
    return kept


class _Fused(torch.autograd.Function):
    """Stands in for a fused layer: right shapes, no values, one recorded operation per pass."""

    @staticmethod
    def forward(
        ctx: Any,
        log: OperationLog,
        name: str,
        flops: float,
        moved: float,
        product: tuple[int, ...],
        shape: Sequence[int],
        weights: int,
        *tensors: Tensor,
    ) -> Tensor:
        """The layer's output; among the tensors, weights come first, then inputs."""
        out = tensors[weights].new_empty(shape)
        ctx.save_for_backward(*tensors, out)
        ctx.recorded = (log, name, flops, moved, product, weights)
        log.add(name, flops, moved, product)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Gradients of all tensors; cuDNN always computes those of the inputs."""
        log, name, flops, moved, product, weights = ctx.recorded
        times = 2.0 if any(ctx.needs_input_grad[7 : 7 + weights]) else 1.0
        # Attention has five products, one of them recomputed, instead of two.
        work, bytes_ = (times, times) if weights else (2.5, 2.0)
        log.add(f"{name}_backward", work * flops, bytes_ * moved, product)
        *tensors, _out = ctx.saved_tensors
        wanted = [
            place <= weights or ctx.needs_input_grad[7 + place] for place in range(len(tensors))
        ]
        gradients = (
            t.new_empty(t.shape) if w else None for t, w in zip(tensors, wanted, strict=True)
        )
        return (*[None] * 7, *gradients)
