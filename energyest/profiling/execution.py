"""How models and operations are run: compiled or not, memory layouts, formats of products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from energyest.profiling.batches import tensors_in
from energyest.profiling.tf32 import convolutions_in_tf32, matrix_products_in_tf32

# Parts of the names of operations on images whose kernels depend on the layout.
_ON_IMAGES = ("convolution", "batch_norm", "pool2d")
# The beginnings of names of what cuDNN computes, which has a setting of its own for tf32.
OF_CUDNN = ("convolution", "lstm", "gru", "rnn")
_HALF = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_NARROW_bytes = 1


class Execution(NamedTuple):
    """How an operation is run; the fields are those of an `Operation` of a workload."""

    layout: str = ""
    bias: bool = False
    precision: str = ""


AS_THE_WORKLOAD = Execution()


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


def execution_of(
    name: str,
    args: Sequence[Any],
    inputs: Sequence[Tensor],
    *,
    multiplies: bool,
    is_gradient_first: bool = True,
) -> Execution:
    """How an operation is run.

    Args:
        name: name of the operation.
        args: its arguments, in the order of `aten`.
        inputs: the tensors among them.
        multiplies: whether it does arithmetic on matrix units.
        is_gradient_first: as for `layout_of_images`.
    """
    return Execution(
        layout_of_images(name, inputs, is_gradient_first=is_gradient_first),
        name.startswith("convolution") and has_bias(name, args),
        precision_of_product(name, _first_format(inputs)) if multiplies else "",
    )


def _first_format(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The format of the first tensor that is not of whole numbers; None if all are."""
    formats = (t.dtype for t in tensors if t.is_floating_point() or t.is_complex())
    return next(formats, None)


def precision_of_product(name: str, dtype: torch.dtype | None) -> str:
    """The precision of a product of tensors of that type, one of `gpus.PRECISIONS`.

    Empty for whole numbers (None) and formats of one byte. Whatever is wider than two bytes counts
    as single precision.
    """
    if dtype is None or dtype.itemsize <= _NARROW_bytes:
        return ""
    return _HALF.get(dtype) or single_precision(is_of_cudnn=name.startswith(OF_CUDNN))


def single_precision(*, is_of_cudnn: bool) -> str:
    """How torch is set now to multiply tensors in single precision: "tf32" or "fp32".

    Args:
        is_of_cudnn: whether it is about convolutions and recurrent layers, or about products.
    """
    in_tf32 = convolutions_in_tf32() if is_of_cudnn else matrix_products_in_tf32()
    return "tf32" if in_tf32 else "fp32"


def layout_of_images(name: str, inputs: Sequence[Tensor], *, is_gradient_first: bool = True) -> str:
    """The memory layout in which an operation processes images; empty if it has none.

    By torch's rules: a convolution takes "channels_last" if its images or its weights have it;
    others go by their images. A network of one layout can have parts in the other, where images are
    made from tokens.

    Args:
        name: name of the operation.
        inputs: its tensors.
        is_gradient_first: whether a backward pass takes the gradient of the output before the
            images, as all do but cuDNN's and MIOpen's.
    """
    if not any(part in name for part in _ON_IMAGES):
        return ""
    images = [t for t in inputs if t.ndim == 4 and t.layout == torch.strided]
    if "backward" in name and len(images) > 1 and is_gradient_first:
        images = images[1:]
    decisive = images[: 2 if name.startswith("convolution") else 1]
    if not decisive:
        return ""
    is_last = any(suggest_memory_format(t) == torch.channels_last for t in decisive)
    return "channels_last" if is_last else "contiguous"


def has_bias(name: str, args: Sequence[Any]) -> bool:
    """Whether a convolution adds a bias, or its backward pass computes the gradient of one.

    Args:
        name: "convolution" or "convolution_backward".
        args: its arguments, in the order of `aten`.
    """
    if name == "convolution_backward":
        return bool(args[-1][2])
    return args[2] is not None
