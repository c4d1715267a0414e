"""How a model is run: compiled or not, and how its tensors lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from energyest.profiling.batches import tensors_in


def is_compiled(part: nn.Module) -> bool:
    """Whether a module went through `torch.compile`, itself or its call."""
    return (
        hasattr(part, "_orig_mod")
        or getattr(part, "_compiled_call_impl", None) is not None
        or hasattr(part.forward, "_torchdynamo_orig_callable")
    )


def layout_of(model: nn.Module, batch: Any) -> str:
    """How images lie in memory, one of `records.workload.LAYOUTS`.

    As torch chooses for a convolution: "channels_last" where its weights or its inputs are.
    """
    weights = [p for p in model.parameters() if p.ndim == 4]
    images = [t for t in tensors_in(batch) if t.ndim == 4] if weights else []
    is_last = any(_is_channels_last(tensor) for tensor in (*weights, *images))
    return "channels_last" if is_last else "contiguous"


def _is_channels_last(tensor: Tensor) -> bool:
    """Of one pixel or one channel, both layouts are the same: that says nothing."""
    try:
        return tensor.is_contiguous(memory_format=torch.channels_last) and not (
            tensor.is_contiguous()
        )
    except RuntimeError:  # a kind of tensor without strides
        return False
