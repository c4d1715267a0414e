"""The operations of forward and backward, as torch dispatches them, with their FLOPs and bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from energyest.records.workload import Operation

_ATEN = torch.ops.aten
# Products with a vector, which torch's counter leaves out, and which argument is the matrix.
_VECTOR_PRODUCTS = {_ATEN.mv: 0, _ATEN.addmv: 1, _ATEN.dot: 0, _ATEN.vdot: 0}
# They reserve memory or ask for an attribute: no work for a GPU, and none to speak of for the CPU.
_NO_WORK = {"device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_NO_CALL = {"device", "detach"}
# Arithmetic that neither torch's counter nor this module has a rule for.
_WITHOUT_RULE = ("_fft_", "linalg_", "_linalg_", "_cdist_", "_trilinear", "cholesky", "lu_")
_FUSED_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu": "attention",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "attention_backward",
}


class OperationLog(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records what is dispatched while it is entered.

    Attributes:
        phase: what is recorded now: "forward" or "backward".
        calls: phase -> number of calls, views among them.
        uncounted: operations whose arithmetic is not counted, and how often they occur.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase = "forward"
        self.calls: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._sizes: Counter[tuple[Any, ...]] = Counter()

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What was recorded, in the order in which each first occurred."""
        return tuple(
            Operation(phase, name, count, *sizes)
            for (phase, name, *sizes), count in self._sizes.items()
        )

    def add(
        self, name: str, flops: float, moved: float, product: Sequence[int] = (0, 0, 0, 1, 1)
    ) -> None:
        """Record an operation; `product` is rows, columns, depth, groups and steps."""
        self.calls[self.phase] += 1
        sizes = (self.phase, name, float(flops), float(moved), *product)
        self._sizes[sizes] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        inputs = list(_tensors([args, kwargs]))
        outputs = list(_tensors(out))
        if name in _NO_CALL or not (inputs or outputs):  # such as a mark for a profiler
            return out
        if name in _NO_WORK or _is_view(func, inputs, outputs):
            self.calls[self.phase] += 1
            return out
        moved = sum(_bytes(tensor) for tensor in [*inputs, *outputs])
        name = _FUSED_ATTENTION.get(name, name)
        product = _product(func.overloadpacket, args, out)
        flops = _flops(func.overloadpacket, args, kwargs, out, product)
        if not flops and (func.namespace != "aten" or name.startswith(_WITHOUT_RULE)):
            self.uncounted[name] += 1
        self.add(name, flops, moved, product)
        return out


class FusedLayers(TorchFunctionMode):
    """Records attention, recurrent layers and dropout as what a GPU makes of them.

    That is one operation each; on a CPU they fall apart into dozens or thousands.
    """

    def __init__(self, log: OperationLog) -> None:
        super().__init__()
        self._log = log
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
        fused = self._fused.get(func)
        if fused is None:
            return func(*args, **(kwargs or {}))
        return fused(*args, **(kwargs or {}))

    def _recurrent(self, name: str, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        """A stack of recurrent layers: each weight matrix is used once a step and sample."""
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
        moved = sum(_bytes(tensor) for tensor in (*weights, inputs, out)) + gated
        flops = 2.0 * tokens * used
        gates = max((w.shape[0] for w in weights if w.ndim == 2), default=width)
        # Layers run side by side, each a step behind the one below it.
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
        # A final state depends on all that came before it, as the output does.
        first = result.reshape(-1)[:1]
        return (result, *(first.expand(state.shape) for state in states))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *others: Any,
    **options: Any,
) -> Tensor:
    """Without dropout, for which a CPU has no fused form; it adds next to nothing on a GPU."""
    functions = torch.nn.functional
    return functions.scaled_dot_product_attention(
        query, key, value, attn_mask, 0.0, *others, **options
    )


def _multi_head_attention(*args: Any, **options: Any) -> Any:
    """As `_attention`, which it calls out of sight; the probability is the eleventh argument."""
    if len(args) > 10:
        args = (*args[:10], 0.0, *args[11:])
    else:
        options["dropout_p"] = 0.0
    return torch.nn.functional.multi_head_attention_forward(*args, **options)


def _dropout(
    tensor: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """One operation that keeps a mask of a byte for each number, as on a GPU."""
    if not training or p == 0:
        return tensor
    kept: Tensor = torch.native_dropout(tensor, p, True)[0]
    return kept


class _Fused(torch.autograd.Function):
    """Stands in for a fused layer: right shapes, no values, one recorded operation each way."""

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
        """The layer's output; the weights come first of the tensors, then the inputs."""
        out = tensors[weights].new_empty(shape)
        ctx.save_for_backward(*tensors, out)
        ctx.recorded = (log, name, flops, moved, product, weights)
        log.add(name, flops, moved, product)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Gradients of all tensors: cuDNN computes those of the inputs whether asked or not."""
        log, name, flops, moved, product, weights = ctx.recorded
        times = 2 if any(ctx.needs_input_grad[7 : 7 + weights]) else 1
        log.add(f"{name}_backward", times * flops, times * moved, product)
        *tensors, _out = ctx.saved_tensors
        wanted = [
            place <= weights or ctx.needs_input_grad[7 + place] for place in range(len(tensors))
        ]
        gradients = (
            t.new_empty(t.shape) if w else None for t, w in zip(tensors, wanted, strict=True)
        )
        return (*[None] * 7, *gradients)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _bytes(tensor: Tensor) -> int:
    """What has to be read or written of a tensor: an expanded one is no larger than its storage."""
    size = tensor.numel() * tensor.element_size()
    try:
        return min(size, tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
        return size


def _is_view(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Whether the result lies where an input lies, and nothing was written."""
    if func._schema.is_mutable or not outputs:
        return False
    try:
        places = {tensor.untyped_storage()._cdata for tensor in inputs}
        return all(tensor.untyped_storage()._cdata in places for tensor in outputs)
    except (NotImplementedError, RuntimeError):
        return False


def _flops(packet: Any, args: Any, kwargs: Any, out: Any, product: Sequence[int]) -> float:
    """By torch's own rules, but for attention and the backward pass of convolutions."""
    fused = _FUSED_ATTENTION.get(str(packet).partition(".")[2])
    if fused is not None:
        return _attention_flops(args, kwargs, is_backward=fused.endswith("backward"))
    if packet is _ATEN.convolution_backward:
        # Each of the gradients of input and weight takes the multiply-adds of the forward pass.
        rows, columns, depth, groups, _ = product
        return float(2.0 * rows * columns * depth * groups * sum(args[10][:2]))
    if packet in _VECTOR_PRODUCTS:
        return float(2 * args[_VECTOR_PRODUCTS[packet]].numel())
    rule = flop_registry.get(packet)
    return float(rule(*args, **kwargs, out_val=out)) if rule else 0.0


def _attention_flops(args: Any, kwargs: Any, *, is_backward: bool) -> float:
    """Of q (…, L, E) and k, v (…, S, E): half of it where no position sees a later one.

    Forward has two products, backward five: it computes q kᵀ again (Dao et al., arXiv 2205.14135,
    algorithm 4).
    """
    query, key = args[1:3] if is_backward else args[:2]
    place = 7 if is_backward else 4
    causal = bool(kwargs.get("is_causal", args[place] if len(args) > place else False))
    flops = 2.0 * (5 if is_backward else 2) * query.numel() * key.shape[-2]
    return float(flops / 2 if causal else flops)


def _product(packet: Any, args: Any, out: Any) -> tuple[int, int, int, int, int]:
    """Rows, columns, depth and groups of a matrix product; zeros for anything else."""
    if packet is _ATEN.convolution:
        transposed, groups = args[6], args[8]
        return _convolution(args[0], args[1], out, transposed, groups)
    if packet is _ATEN.convolution_backward:
        gradient, inputs, weight, transposed, groups = args[0], args[1], args[2], args[7], args[9]
        return _convolution(inputs, weight, gradient, transposed, groups)
    if packet in (_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm):
        first, second = args[-2:] if len(args) > 2 else args[:2]
        if packet in (_ATEN.addmm, _ATEN.baddbmm):
            first, second = args[1], args[2]
        *groups, rows, depth = first.shape
        return rows, second.shape[-1], depth, math.prod(groups), 1
    return 0, 0, 0, 1, 1


def _convolution(
    inputs: Tensor, weight: Tensor, output: Tensor, transposed: bool, groups: int
) -> tuple[int, int, int, int, int]:
    """Rows are positions of the output (of the input, where transposed), columns its channels."""
    positions = (inputs if transposed else output).shape
    rows = positions[0] * math.prod(positions[2:])
    return rows, weight.shape[0] // groups, math.prod(weight.shape[1:]), groups, 1
