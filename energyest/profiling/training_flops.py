"""What forward and backward cost together, next to forward alone, as torch's own counter sees it.

The backward pass computes gradients of weights and of what lies between layers, and only those that
a trainable parameter asks for: with a frozen backbone it costs next to nothing, with all parameters
trainable about twice the forward pass.
"""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from energyest.profiling.fake_tensors import ShapesAlone


def training_to_forward(
    forward: Callable[[], Iterable[Tensor]],
    trainable: Sequence[Sequence[nn.Parameter]],
    *,
    values: bool,
) -> list[float]:
    """FLOPs of forward and backward ÷ FLOPs of forward.

    Args:
        forward: runs a copy of the model and returns the tensors that it puts out. All parameters
            of the copy require gradients: then one forward pass serves all choices, and torch does
            not take fused paths that its counter cannot see into.
        trainable: choices of parameters of the copy whose gradients are computed.
        values: compute, which takes time and memory; else tensors have shapes alone.

    Returns:
        The ratio for each choice: 1 where nothing is trainable.

    Raises:
        ValueError: there is nothing to count, or no gradient reaches a trainable parameter.
        Exception: whatever the model raises; without values, also if it looks at one.
    """
    shapes_alone = nullcontext() if values else ShapesAlone()
    with plain_operators(), shapes_alone, flop_counter() as counter:
        ends = [tensor for tensor in forward() if tensor.requires_grad]
        forward_flops = counter.get_total_flops()
        if not forward_flops:
            raise ValueError("torch counts no FLOPs in the forward pass")
        counts = []
        for parameters in trainable:
            before = counter.get_total_flops()
            if parameters:
                _differentiate(ends, parameters)
            counts.append(counter.get_total_flops() - before)
    return [1.0 + backward / forward_flops for backward in counts]


def _differentiate(ends: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Compute the parameters' gradients; none is stored, in the copy or in what it shares."""
    if not ends:
        raise ValueError("the model's output has no gradient")
    gradients = torch.autograd.grad(
        ends,
        parameters,
        [torch.ones_like(end) for end in ends],
        retain_graph=True,
        allow_unused=True,
    )
    if all(gradient is None for gradient in gradients):
        raise ValueError("no gradient reaches a trainable parameter")


def flop_counter() -> FlopCounterMode:
    """Torch's counter, with the backward pass of grouped convolutions put right."""
    rules = {torch.ops.aten.convolution_backward: _convolution_backward}
    return FlopCounterMode(display=False, custom_mapping=rules)


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


def _convolution_backward(
    gradient: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    output_mask: Sequence[bool],
    **_: Any,
) -> int:
    """Each of the gradients of input and weight takes the multiply-adds of the forward pass.

    torch's own rule takes the weight of a grouped convolution for that of a full one.
    """
    positions = inputs[2:] if transposed else gradient[2:]
    forward = 2 * inputs[0] * math.prod(positions) * math.prod(weight)
    return forward * sum(output_mask[:2])
