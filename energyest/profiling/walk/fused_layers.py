"""Layers that a GPU computes in one operation, recorded as one when only shapes are run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import CausalBias, CausalVariant
from torch.overrides import TorchFunctionMode

from energyest.profiling.execution import AS_THE_WORKLOAD, Execution, precision_of_product
from energyest.profiling.operations import OperationLog, bytes_of
from energyest.profiling.walk.control_flow import CONTROL_FLOW

# The backends of a walk: where the first does not apply, a GPU computes plain products as well.
_AS_ON_A_GPU = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
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
            torch.nn.functional.scaled_dot_product_attention: partial(_attention, log),
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
        if isinstance(func, HigherOrderOperator):
            if func.name() == "flex_attention":
                return self._flex_attention(*args)
            if func.name() in CONTROL_FLOW:
                with self:
                    return CONTROL_FLOW[func.name()](*args, **(kwargs or {}))
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
        # Autocast does not reach a layer that is stood in for.
        mixed = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if mixed else inputs.dtype
        execution = Execution(precision=precision_of_product(name, dtype))
        forward = _Cost(name, flops, moved, product, execution=execution)
        # cuDNN always computes the gradients of the inputs.
        times = 2.0 if any(w.requires_grad for w in weights) else 1.0
        backward = _Cost(
            f"{name}_backward", times * flops, times * moved, product, execution=execution
        )
        layer = _Layer(self._log, forward, backward, out.shape, len(weights))
        result = _Fused.apply(layer, *weights, inputs, *states)  # type: ignore[no-untyped-call]
        # A final state depends on everything before it, as the output does.
        first = result.reshape(-1)[:1]
        return (result, *(first.expand(state.shape) for state in states))

    def _flex_attention(
        self, query: Tensor, key: Tensor, value: Tensor, _: Any, mask: Sequence[Any], *__: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention between blocks of positions, as far as the block mask is known."""
        out = _fused_attention(self._log, query, key, value, share=_share_of_blocks(mask))
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
    log: OperationLog,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """Attention without dropout: a CPU has no fused form of it, and on a GPU it costs little."""
    attend = torch.nn.functional.scaled_dot_product_attention
    if isinstance(attn_mask, CausalBias):
        if attn_mask.variant == CausalVariant.UPPER_LEFT or query.shape[-2] == key.shape[-2]:
            attn_mask, is_causal = None, True
        else:
            attn_mask = attn_mask._materialize(query.device)
    if not _may_be_fused():  # only plain products are allowed
        return attend(query, key, value, attn_mask, 0.0, is_causal, **options)
    # A GPU has a kernel for these.
    is_learned = attn_mask is not None and attn_mask.requires_grad
    if query.ndim == 4 and (is_learned or query.shape[-1] != value.shape[-1]):
        tensors = [query, key, value, *([] if attn_mask is None else [attn_mask])]
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
        return _fused_attention(log, *tensors, is_causal=is_causal)
    with sdpa_kernel(_AS_ON_A_GPU):
        return attend(query, key, value, attn_mask, 0.0, is_causal, **options)


def _may_be_fused() -> bool:
    """Whether attention may be one operation, on a GPU if not here."""
    gpu: Any = torch.backends.cuda
    return bool(
        gpu.flash_sdp_enabled() or gpu.mem_efficient_sdp_enabled() or gpu.cudnn_sdp_enabled()
    )


def _fused_attention(
    log: OperationLog,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    share: float = 1.0,
    is_causal: bool = False,
) -> Tensor:
    """Attention as one operation, whose values may have a width of their own.

    Args:
        log: where it is recorded.
        query: the last two dimensions are positions and width.
        key: likewise.
        value: likewise, of another width perhaps.
        mask: what is added to the products; its gradient is computed if it requires one.
        share: the share of pairs of positions that a mask allows.
        is_causal: half of the pairs count, but fvcore would count all.
    """
    *batch, rows, width = query.shape
    columns, own = key.shape[-2], value.shape[-1]
    tensors = [query, key, value]
    if mask is not None:
        tensors.append(mask.expand(*batch, rows, columns))
    pairs = 2.0 * math.prod(batch) * rows * columns
    shape = (*batch, rows, own)
    out_bytes = math.prod(shape) * query.element_size()
    read = sum(map(bytes_of, tensors))
    sums = 4 * math.prod(batch) * rows  # of each row, kept in single precision
    written = sum(t.numel() * t.element_size() for t in tensors if t.requires_grad)
    # The gradients recompute the products of queries and keys.
    pairs *= share
    work, again = pairs * (width + own), pairs * (3 * width + 2 * own)
    part = 0.5 if is_causal else 1.0
    execution = Execution(precision=precision_of_product("attention", query.dtype))
    forward = _Cost(
        "attention",
        part * work,
        read + out_bytes + sums,
        by_fvcore=work,
        execution=execution,
    )
    backward = _Cost(
        "attention_backward",
        part * again,
        read + 2 * out_bytes + sums + written,
        by_fvcore=again,
        execution=execution,
    )
    layer = _Layer(log, forward, backward, shape, 0)
    result: Tensor = _Fused.apply(layer, *tensors)  # type: ignore[no-untyped-call]
    return result


def _multi_head_attention(*args: Any, **options: Any) -> Any:
    """Multi-head attention without dropout, whose probability is the eleventh argument."""
    if len(args) > 10:
        args = (*args[:10], 0.0, *args[11:])
    else:
        options["dropout_p"] = 0.0
    attend = torch.nn.functional.multi_head_attention_forward
    with sdpa_kernel(_AS_ON_A_GPU) if _may_be_fused() else nullcontext():
        return attend(*args, **options)


def _dropout(
    tensor: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout as one operation that keeps a mask of a byte per element, as on a GPU."""
    if not training or p == 0:
        return tensor
    kept: Tensor = torch.native_dropout(tensor, p, True)[0]
    return kept


class _Cost(NamedTuple):
    """A layer's cost in one pass: the arguments of `OperationLog.add`."""

    name: str
    flops: float
    moved: float
    product: tuple[int, ...] = (0, 0, 0, 1, 1)
    by_fvcore: float | None = None
    execution: Execution = AS_THE_WORKLOAD


class _Layer(NamedTuple):
    """A fused layer.

    Attributes:
        log: where it is recorded.
        forward, backward: its costs.
        shape: the shape of its output.
        weights: how many of its tensors are weights; they come before the inputs.
    """

    log: OperationLog
    forward: _Cost
    backward: _Cost
    shape: Sequence[int]
    weights: int


class _Fused(torch.autograd.Function):
    """Stands in for a fused layer: right shapes, no values, one recorded operation per pass."""

    @staticmethod
    def forward(ctx: Any, layer: _Layer, *tensors: Tensor) -> Tensor:
        """The layer's output."""
        out = tensors[layer.weights].new_empty(layer.shape)
        ctx.save_for_backward(*tensors, out)
        ctx.layer = layer
        layer.log.add(*layer.forward)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Gradients of all tensors."""
        layer = ctx.layer
        layer.log.add(*layer.backward)
        *tensors, _out = ctx.saved_tensors
        wanted = [
            place <= layer.weights or ctx.needs_input_grad[1 + place]
            for place in range(len(tensors))
        ]
        gradients = (
            t.new_empty(t.shape) if w else None for t, w in zip(tensors, wanted, strict=True)
        )
        return (None, *gradients)
