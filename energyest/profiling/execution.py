"""How a model is run: whether it is compiled, and its memory layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from energyest.profiling.batches import tensors_in


def is_compiled(part: nn.Module) -> bool:
    """Whether a module or its call is compiled by `torch.compile`."""
    return (
        hasattr(part, "_orig_mod")
        or getattr(part, "_compiled_call_impl", None) is not None
        or hasattr(part.forward, "_torchdynamo_orig_callable")
    )


def layout_of(model: nn.Module, batch: Any) -> str:
    """The memory layout of images, one of `records.workload.LAYOUTS`.

    By torch's rule for convolutions: "channels_last" if the weights or the inputs are.
    """
    weights = [p for p in model.parameters() if p.ndim == 4]
    images = [t for t in tensors_in(batch) if t.ndim == 4] if weights else []
    is_last = any(_is_channels_last(tensor) for tensor in (*weights, *images))
    return "channels_last" if is_last else "contiguous"


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether a tensor is only channels-last; with one pixel or channel both layouts coincide."""
    try:
        return tensor.is_contiguous(memory_format=torch.channels_last) and not (
            tensor.is_contiguous()
        )
    except RuntimeError:  # a kind of tensor without strides
        return False
