"""Whether torch uses TensorFloat-32 on a GPU, and a context manager to set it.

Since torch 2.9 there are two interfaces, and the older one raises once the newer one was used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_TF32, _FP32 = "tf32", "ieee"


def matrix_products_in_tf32() -> bool:
    """Whether matrix products of 32-bit tensors are computed in TensorFloat-32."""
    matmul: Any = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return bool(matmul.fp32_precision == _TF32)
    return bool(matmul.allow_tf32)


def convolutions_in_tf32() -> bool:
    """Whether convolutions and recurrent layers are computed in TensorFloat-32 (the default)."""
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return bool(cudnn.conv.fp32_precision == _TF32)
    return bool(cudnn.allow_tf32)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TensorFloat-32 within the context, and restore the settings afterwards."""
    restore = [_older(allowed), *(_newer(part, allowed) for part in _parts())]
    try:
        yield
    finally:
        for action in restore:
            action()


def _parts() -> list[Any]:
    """The objects that the newer interface sets; none in an older torch."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    parts = [matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    return [part for part in parts if hasattr(part, "fp32_precision")]


def _newer(part: Any, allowed: bool) -> Callable[[], None]:
    before = part.fp32_precision
    part.fp32_precision = _TF32 if allowed else _FP32
    return lambda: setattr(part, "fp32_precision", before)


def _older(allowed: bool) -> Callable[[], None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    parts = _parts()
    newer = [part.fp32_precision for part in parts]
    try:
        products, convolutions = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # only the newer interface tells the truth
        return lambda: None
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    # This changed the newer flags too: restore them.
    for part, value in zip(parts, newer, strict=True):
        part.fp32_precision = value

    def restore() -> None:
        cudnn.allow_tf32 = convolutions
        matmul.allow_tf32 = products == "high"
        if products == "medium":
            torch.set_float32_matmul_precision(products)

    return restore
